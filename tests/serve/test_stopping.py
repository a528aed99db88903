"""`oodline serve` as a process: it says where it listens, and told to stop it answers what it accepted and is gone."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from oodline.cli import main
from oodline.guard.artifact import Artifact, ModelSource, write_artifact
from oodline.model.head import HeadInfo
from oodline.serve.running import listen
from oodline.testing import toy_image_guard

PNG = {"content-type": "image/png"}

FACTORY = """
import time
from pathlib import Path

import torch
from oodline.testing import toy_image_guard

def build(slow=0.0):
    model = toy_image_guard().classifier.model
    model[0].register_forward_hook(lambda *_: time.sleep(slow))
    return model
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory, guard):
    place = tmp_path_factory.mktemp("served")
    (place / "models.py").write_text(FACTORY)
    write_artifact(
        Artifact(
            {"line": guard.detector},
            HeadInfo.of(guard.classifier.head),
            {"line": guard.calibration},
            guard.class_names,
            guard.preprocessing,
            None,
            ModelSource(reference="python:models.py:build"),
        ),
        place / "guard.safetensors",
    )
    return place


@contextmanager
def process(place, *arguments, guard="guard.safetensors", model="python:models.py:build", port="0", **environment):
    command = [
        sys.executable,
        "-m",
        "oodline",
        "serve",
        guard,
        "--model",
        model,
        "--port",
        port,
        "--json",
    ]
    environment = {**os.environ, **environment}
    with subprocess.Popen(
        [*command, *arguments], cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            line = server.stdout.readline()
            assert line, server.stderr.read()
            yield server, json.loads(line)["url"]
        finally:
            server.kill()


def test_told_to_stop_under_load_it_answers_what_it_accepted_and_ends_well(place, picture):
    with process(place, model="python:models.py:build,slow=0.05") as (server, url):
        content, answers, lost = picture("red"), [], []
        stopped = [None]

        def client():
            with httpx.Client(timeout=30) as session:  # keeps its connection
                while True:
                    try:
                        answers.append(session.post(f"{url}/v1/predict", content=content, headers=PNG))
                    except httpx.HTTPError as error:
                        lost.append((time.monotonic(), error))
                        return

        with ThreadPoolExecutor(12) as pool:
            clients = [pool.submit(client) for _ in range(12)]
            while len(answers) < 30:
                time.sleep(0.01)
            before = time.monotonic()
            server.send_signal(signal.SIGTERM)
            stopped[0] = server.wait(20)
            for job in clients:
                job.result()
        assert stopped == [0]
        assert {answer.status_code for answer in answers} == {200}
        # each client ends where it finds nobody to connect to: no request was taken and left unanswered
        assert [type(error) for _, error in lost] == [httpx.ConnectError] * 12
        assert min(when for when, _ in lost) > before
        assert any(answer.headers.get("connection") == "close" for answer in answers)
        assert server.stderr.read() == ""


def test_killed_it_starts_again_and_ctrl_c_stops_it_and_a_token_comes_from_a_file_or_the_environment(place, picture):
    (place / "token").write_text("from a file\n")
    with process(place, "--token-file", "token") as (server, url):
        port = url.rpartition(":")[2]
        assert httpx.get(f"{url}/v1/info").status_code == 401
        assert httpx.get(f"{url}/v1/info", headers={"authorization": "Bearer from a file"}).status_code == 200
        server.kill()
        assert server.wait(20) == -signal.SIGKILL
    with process(place, "--max-body", "10", port=port, OODLINE_TOKEN="of the environment") as (server, url):
        assert url.endswith(port)
        token = {"authorization": "Bearer of the environment"}
        assert httpx.get(f"{url}/v1/info", headers=token).json()["limits"]["max_body"] == 10
        answer = httpx.post(f"{url}/v1/predict", content=picture(), headers={**PNG, **token})
        assert answer.status_code == 413
        assert "oodline_drift_evidence_limit 100.0" in httpx.get(f"{url}/metrics", headers=token).text
        server.send_signal(signal.SIGINT)
        assert server.wait(20) == 130
        assert server.stderr.read() == ""


def test_a_guard_saved_from_python_is_served_over_tls_with_its_names_and_two_files_of_tokens(place, picture):
    toy_image_guard().save(place / "mine.safetensors")
    (place / "tokens").write_text("# two clients\none\ntwo\n")
    (place / "metrics-tokens").write_text("three\n")
    pem = str(Path(__file__).with_name("localhost.pem"))
    options = ["--tls-cert", pem, "--tls-key", pem, "--token-file", "tokens", "--metrics-token-file", "metrics-tokens"]
    options += ["--allowed-host", "a.example", "--allowed-host", "*.b.example", "--access-log"]
    with process(place, *options, guard="mine.safetensors") as (server, url):
        assert url.startswith("https://")
        with httpx.Client(base_url=url, verify=ssl.create_default_context(cafile=pem), timeout=60) as client:
            answer = client.post("/v1/predict", content=picture("blue"), headers={**PNG, **bearer("two")})
            assert answer.json()["verdicts"][0]["class_name"] == "blue"
            codes = [client.get("/metrics", headers=bearer(token)).status_code for token in ("one", "three")]
            assert codes == [401, 200]
            hosts = ("a.example", "x.b.example", "c.example")
            assert [client.get("/healthz", headers={"host": h}).status_code for h in hosts] == [200, 200, 421]
            (place / "tokens").write_text("four\n")
            codes = [client.get("/v1/info", headers=bearer(token)).status_code for token in ("two", "four")]
            assert codes == [401, 200]
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
        lines = server.stderr.read().splitlines()
        assert [line.split()[3:6] for line in lines[:2]] == [
            ["POST", "/v1/predict", "200"],
            ["GET", "/metrics", "401"],
        ]
        assert len(lines) == 8


def bearer(token):
    return {"authorization": f"Bearer {token}"}


@pytest.mark.filterwarnings("ignore::oodline.errors.PreprocessingWarning")
def test_what_cannot_be_served_ends_in_a_sentence(place, capsys, monkeypatch):
    monkeypatch.chdir(place)

    def refused(*arguments):
        with pytest.raises(SystemExit) as stop:
            main(["serve", "guard.safetensors", "--model", "python:models.py:build", *arguments])
        assert stop.value.code == 1
        return capsys.readouterr().err

    assert "`port` must be between 0 and 65535; got 99999." in refused("--port", "99999")
    assert "could not listen on 192.0.2.1, port 0" in refused("--host", "192.0.2.1", "--port", "0")
    assert "the token file nowhere cannot be read" in refused("--token-file", "nowhere")
    (place / "empty").write_text("\n")
    assert "the token file empty is empty" in refused("--token-file", "empty")
    assert "`capacity` must be at least `max_images`, 16; got 1" in refused("--capacity", "1")
    assert "`tls_key` must be given with tls_cert" in refused("--tls-cert", "empty")
    assert "`allowed_host` must be names of hosts" in refused("--allowed-host", "http://a.example")
    assert "refused a batch of shape (1, 1, 8, 8)" in refused("--preprocessing", '{"mode": "L", "crop": 8}')


def test_connections_send_at_once_what_they_have():
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
