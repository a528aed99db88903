"""Run a service until it is told to stop; then answer what was accepted."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from math import ceil

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from oodline.errors import DataError, SettingError
from oodline.serve.judge import Judge

LINGER = 0.25
"""Seconds in which connections that were accepted before the stop may still say what they want."""


KEEP_ALIVE = 75
"""Seconds for which an idle connection stays open: longer than load balancers keep theirs, so that they close it."""


def run(app: FastAPI, host: str = "127.0.0.1", port: int = 8000, listening: Callable[[str], None] = print) -> None:
    """Serve an app of `create_app` until SIGTERM or Ctrl-C, then answer every accepted request, and return.

    Parameters
    ----------
    app : FastAPI
        The app.
    host : str
        Address to listen on.
    port : int
        0 takes a free one.
    listening : callable
        Told the address, as a URL, once connections are accepted.

    Raises
    ------
    SettingError
        There is no such port.
    DataError
        The address cannot be listened on.
    KeyboardInterrupt
        After Ctrl-C, when everything was answered.
    """
    judge: Judge = app.state.judge
    listener = listen(host, port)
    closing = _Closing(app)
    config = uvicorn.Config(
        closing,
        lifespan="on",
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=ceil(judge.settings.timeout) + 1,
    )
    name = f"[{host}]" if ":" in host else host
    url = f"http://{name}:{listener.getsockname()[1]}"
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # a stranger's form is no news for the log
    # uvicorn raises the signal again when it has stopped in good order; that shall be no failure
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        _Server(config, closing, lambda: listening(url)).run([listener])
    finally:
        signal.signal(signal.SIGTERM, before)
        listener.close()


def listen(host: str, port: int) -> socket.socket:
    """A socket whose connections send what they have at once.

    Without TCP_NODELAY a client waits 40 ms for the second part of an answer: asyncio sets it for sockets of its own
    making only.

    Raises
    ------
    SettingError, DataError
        As `run`.
    """
    if not 0 <= port < 2**16:
        raise SettingError(f"ports go from 0 to {2**16 - 1}; {port} is none.")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise DataError(f"could not listen on {host}, port {port}: {error}. Choose another address or port.") from error
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # connections inherit it
    return listener


class _Closing:
    """The app; once it stops, clients are told not to keep their connections open."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.stopping = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def last(message: Message) -> None:
            if self.stopping and message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            await send(message)

        await self._app(scope, receive, last)


class _Server(uvicorn.Server):
    """Uvicorn, but a connection that was accepted just before the stop is heard."""

    def __init__(self, config: uvicorn.Config, app: _Closing, listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._app = app
        self._listening = listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._listening()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.stopping = True
        for server in self.servers:
            server.close()
        await asyncio.sleep(LINGER)
        await super().shutdown(sockets)
