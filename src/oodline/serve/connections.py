"""An HTTP connection that parses strictly, and waits for its client for a limited time."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from oodline.serve.problems import HEADER_TOO_LARGE, MALFORMED_REQUEST, Problem
from oodline.serve.settings import ServeSettings

MAX_HEADER = 16 * 2**10
"""Bytes of the header of a request at most."""

KEEP_ALIVE = 75
"""Seconds for which an idle connection stays open: longer than load balancers keep theirs, so that they close it."""

GRACE = 5.0
"""Seconds in which a client must have taken its answer, or end what it sends after it has one."""

YOUNG = 1.0
"""Seconds for which a new connection without a complete header is more likely slow than hostile."""

SILENT, IDLE, NEW, NOT_READ = range(4)
"""Which connections are closed for others, the first kind first: without a header for long, or with their answer;
between two requests; without a header yet; with a body that is still coming, or an answer that is not taken yet."""

_END = re.compile(rb"\r?\n\r?\n")
_LOOSE = re.compile(rb"(?<!\r)\n|\r(?!\n)|\n[ \t]|\0")
"""What readers of HTTP understand differently: a line's end that is not CRLF, a folded line, a NUL."""

_LENGTH = re.compile(rb"\ncontent-length[ \t]*:", re.IGNORECASE)


class StrictReader(h11.Connection):
    """h11, but what two readers in a row may understand differently is refused (RFC 9112, sections 2.2, 5.2, 6.3)."""

    error: h11.RemoteProtocolError | None = None

    def next_event(self) -> Any:
        """The next event; a header is looked at before it is parsed, and what was wrong is kept."""
        try:
            if self.their_state is h11.IDLE:
                self._check_header()
            event = super().next_event()
            if isinstance(event, h11.Request) and event.http_version not in (b"1.0", b"1.1"):
                raise h11.RemoteProtocolError(f"its version is {event.http_version.decode()}")
            return event
        except h11.RemoteProtocolError as error:
            self.error = error
            raise

    def _check_header(self) -> None:
        header = bytes(self.trailing_data[0])
        end = _END.search(header)
        if (end.end() if end else len(header)) > MAX_HEADER:
            raise h11.RemoteProtocolError("too long", 431)
        if end and _LOOSE.search(header, 0, end.end()):
            raise h11.RemoteProtocolError("a line of its header does not end in CRLF, is folded, or holds a NUL")
        if end and len(_LENGTH.findall(header, 0, end.end())) > 1:
            raise h11.RemoteProtocolError("it has more than one Content-Length")


class Connection(H11Protocol):
    """Uvicorn's connection, with deadlines.

    Parameters
    ----------
    config : uvicorn.Config
        Loaded.
    server_state : ServerState
        Shared by all connections.
    app_state : dict
        Of the lifespan.
    settings : ServeSettings
        `header_timeout` and `timeout`.
    sock : socket
        What was accepted.
    lost : callable
        Called when it is closed.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        settings: ServeSettings,
        sock: socket.socket,
        lost: Callable[[], None],
    ) -> None:
        super().__init__(config, server_state, app_state)
        self.conn: StrictReader = StrictReader(h11.SERVER, MAX_HEADER)
        self.dropped = False
        self.since = self.loop.time()
        self._settings = settings
        self._socket = sock
        self._lost = lost
        self._waits_for: tuple[str, int] = ("handshake", 0)
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a header."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Read on."""
        if not self.transport.is_closing():
            super().data_received(data)
            self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next request; where it is there already, not on this connection.

        What clients send before they have their answers would cost an attacker one packet for many requests.
        """
        if self.conn.their_state is h11.DONE and self.conn.trailing_data[0]:
            self.transport.close()
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._lost()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """End in good order."""
        if not self.transport.is_closing():
            super().shutdown()
            self._watch()

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be read, in the format of all refusals."""
        if self.cycle is not None and not self.cycle.response_complete:
            if self.cycle.response_started:
                self.transport.abort()
                return
            self.cycle.disconnected = True  # the body is wrong, and the app need not wait for the rest
            self.cycle.message_event.set()
        wrong = self.conn.error
        if wrong is not None and wrong.error_status_hint == 431:
            problem = Problem(HEADER_TOO_LARGE, f"It has more than {MAX_HEADER} bytes.", "Send a shorter one.")
        else:
            problem = Problem(MALFORMED_REQUEST, f"As HTTP it is wrong: {wrong}.", "Send it as RFC 9112 says.")
        answer = problem.response()
        headers = [*answer.raw_headers, (b"cache-control", b"no-store"), (b"connection", b"close")]
        for event in (
            h11.Response(status_code=answer.status_code, headers=headers, reason=b""),
            h11.Data(data=bytes(answer.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def drop(self) -> None:
        """Close at once."""
        self.dropped = True
        if self.transport is not None:
            self.transport.abort()
        else:  # its handshake is not over, and only its socket is known
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    @property
    def rank(self) -> tuple[int, float] | None:
        """The place among those that may be closed to make room, the smallest first; None where it may not be."""
        state, age = self._waits_for[0], self.loop.time() - self.since
        if self.dropped:
            return None
        if state == "idle":
            return IDLE, self.since
        if state in ("handshake", "header"):
            return (SILENT if age > YOUNG else NEW), self.since
        if state == "exchange":  # what waits for the service and not for its client stays
            return (NOT_READ, self.since) if self.cycle.more_body or self.cycle.response_started else None
        return SILENT, self.since

    def _state(self) -> str:
        if self.transport.is_closing():
            return "closing"
        if self.conn.their_state is h11.IDLE:
            return "header" if self.cycle is None or self.conn.trailing_data[0] else "idle"
        return "rest" if self.cycle is not None and self.cycle.response_complete else "exchange"

    def _watch(self) -> None:
        """Begin to wait for something else, if it is something else."""
        now = (self._state(), id(self.cycle))
        if now == self._waits_for:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._waits_for, self.since = now, self.loop.time()
        seconds = {
            "header": self._settings.header_timeout,
            "idle": KEEP_ALIVE,
            "exchange": self._settings.timeout + GRACE,  # the app answers at the timeout
        }
        self._timer = self.loop.call_later(seconds.get(now[0], GRACE), self._late)

    def _late(self) -> None:
        if self.transport.is_closing():
            self.transport.abort()
        else:
            self.transport.close()
            self._watch()
