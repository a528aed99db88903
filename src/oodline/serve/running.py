"""Run a service until it is told to stop; then answer the requests that it has accepted."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import socket
import ssl
from collections.abc import Callable
from math import ceil
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from oodline.errors import DataError, SettingError
from oodline.serve.accepting import Acceptor, room_for_connections
from oodline.serve.connections import KEEP_ALIVE, Connection
from oodline.serve.guard_service import GuardService
from oodline.serve.logs import logging_kept
from oodline.serve.settings import ServeSettings

LINGER = 0.25
"""Seconds in which connections that were accepted before the stop may still say what they want."""


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
        There is no such port, or the limit of open files leaves no room for connections.
    DataError
        The address cannot be listened on, or the certificate or its key cannot be read.
    KeyboardInterrupt
        After Ctrl-C, when everything was answered.
    """
    service: GuardService = app.state.service
    server = Server(app, listen(host, port), service.settings, lambda: listening(server.url(host)))
    # uvicorn raises the signal again when it has stopped in good order; that shall be no failure
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with logging_kept(service.settings.access_log):
            server.run()
    finally:
        signal.signal(signal.SIGTERM, before)


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
        raise SettingError(f"`port` must be between 0 and {2**16 - 1}; got {port}.")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise DataError(f"could not listen on {host}, port {port}: {error}. Choose another address or port.") from error
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # connections inherit it
    return listener


def is_local(host: str) -> bool:
    """Whether an address to listen on is reached from this machine alone.

    >>> is_local("127.0.0.1"), is_local("localhost"), is_local("0.0.0.0")
    (True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Server(uvicorn.Server):
    """Uvicorn behind an `Acceptor`; a connection that was accepted just before the stop is heard.

    Parameters
    ----------
    app : FastAPI
        The app.
    listener : socket
        Listens; closed at the end.
    settings : ServeSettings
        Limits of connections, and TLS.
    listening : callable
        Told when connections are accepted.
    """

    def __init__(
        self, app: FastAPI, listener: socket.socket, settings: ServeSettings, listening: Callable[[], None]
    ) -> None:
        self._app = _Closing(app)
        self._listener = listener
        self._settings = settings
        self._listening = listening
        try:
            self._context = _tls(settings)
            self._most = room_for_connections(settings.max_connections)
        except BaseException:
            listener.close()
            raise
        config = uvicorn.Config(
            self._app,
            loop="asyncio",  # as tested
            http=Connection,
            ws="none",
            lifespan="on",
            log_level="error",
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=ceil(settings.timeout) + 1,
        )
        super().__init__(config)

    def url(self, host: str) -> str:
        """Where it is reached."""
        name = f"[{host}]" if ":" in host else host
        scheme = "http" if self._context is None else "https"
        return f"{scheme}://{name}:{self._listener.getsockname()[1]}"

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until told to stop."""
        try:
            super().run(sockets)
        finally:
            self._listener.close()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections."""
        await super().startup(sockets=[])  # it accepts nothing by itself
        if self.started:
            wait = self._settings.header_timeout
            acceptor: Any = Acceptor(self._listener, self._connect, self._most, self._context, wait)
            self.servers = [acceptor]
            self._listening()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what was accepted."""
        self._app.stopping = True
        for server in self.servers:
            server.close()
        await asyncio.sleep(LINGER)
        await super().shutdown(sockets)

    def _connect(self, sock: socket.socket, lost: Callable[[], None]) -> Connection:
        return Connection(self.config, self.server_state, self.lifespan.state, self._settings, sock, lost)


def _tls(settings: ServeSettings) -> ssl.SSLContext | None:
    if settings.tls_cert is None or settings.tls_key is None:
        return None

    def passphrase() -> str:
        raise DataError(f"the key {settings.tls_key} needs a passphrase, which cannot be entered here. Decrypt it.")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key, passphrase)
    except (OSError, ValueError) as error:  # SSLError is an OSError
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"the certificate {settings.tls_cert} and its key {settings.tls_key} cannot be used: {error}. Give two "
            "PEM files that belong together."
        ) from error
    return context


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
