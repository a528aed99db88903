"""A small guard of red, green and blue images, and real servers around it on a free port of this machine."""

import threading
from contextlib import ExitStack, contextmanager
from io import BytesIO

import httpx
import numpy as np
import pytest
from PIL import Image

import oodline as ol
from oodline.serve import ServeSettings, create_app
from oodline.serve.running import Server, listen
from oodline.testing import toy_image_guard


@pytest.fixture(scope="session")
def guard():
    guard = toy_image_guard()
    guard.neurons.keep_pictures(lambda i: Image.new("RGB", (8, 8), (2 * i, 0, 0)), most=2)
    return guard


@pytest.fixture(scope="session")
def picture():
    """The bytes of an image file: of one colour, or of noise."""

    def made(colour="red", size=(8, 8), kind="PNG", **more):
        file = BytesIO()
        if colour == "noise":
            image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), "uint8"))
        else:
            image = Image.new("RGB", size, "lime" if colour == "green" else colour)
        image.save(file, kind, **more)
        return file.getvalue()

    return made


class Held(ol.Guard):
    """A guard that judges only while its gate is open, and remembers its batches."""

    def __init__(self, guard):
        super().__init__(
            guard.classifier,
            guard.detector,
            guard.calibration,
            class_names=guard.class_names,
            preprocessing=guard.preprocessing,
            neurons=guard.neurons,
        )
        self.gate = threading.Event()
        self.gate.set()
        self.waiting = threading.Event()  # a batch stands before the gate
        self.batches = []

    def __call__(self, inputs):
        if not self.gate.is_set():
            self.waiting.set()
        self.gate.wait(30)
        self.batches.append(len(inputs))
        return super().__call__(inputs)


@pytest.fixture
def held(guard):
    held = Held(guard)
    yield held
    held.gate.set()


@contextmanager
def running(app):
    listening = threading.Event()
    server = Server(app, listen("127.0.0.1", 0), app.state.service.settings, listening.set)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert listening.wait(60), "the server did not start"
        with httpx.Client(base_url=server.url("127.0.0.1"), timeout=60) as client:
            client.app = app
            yield client
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture
def serving(guard):
    """Start a server with these settings; gives a client of it. The server ends with the test."""
    with ExitStack() as stack:

        def started(this=None, token=None, metrics_token=None, monitor=None, **settings):
            limits = ServeSettings(**settings)
            app = create_app(this or guard, None, limits, token=token, metrics_token=metrics_token, monitor=monitor)
            return stack.enter_context(running(app))

        yield started


@pytest.fixture(scope="module")
def client(guard):
    """A client of one server for all tests of a file that leave it as it was."""
    with running(create_app(guard)) as client:
        yield client


@pytest.fixture(scope="session")
def metric():
    """Read one metric of a server; 0 where it was never counted."""

    def read(client, name):
        found = [line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if not line.startswith("#")]
        return {key: float(value) for key, value in found}.get(name, 0.0)

    return read
