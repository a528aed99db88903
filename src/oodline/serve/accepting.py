"""Accept connections up to a limit, and close waiting ones to make room for new ones."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress

from oodline.errors import SettingError
from oodline.serve.connections import IDLE, NOT_READ, Connection
from oodline.serve.problems import FULL, Problem

LOG = logging.getLogger("oodline.serve")

SPARE = 32
"""Files that the service itself may need to open."""

FEWEST = 8
"""Connections below which there is no service."""

_USED_UP = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Acceptor:
    """Accepts the connections of a listening socket, in place of asyncio's server.

    asyncio has no limit: where files are used up it logs thousands of lines a second, and accepts nobody. Here, when
    `most` are open, the one that has kept the service waiting longest is closed for the new one (`Connection.rank`);
    where all wait for the service, the new one is answered with 503.

    Parameters
    ----------
    listener : socket
        Listens; closed by `close`.
    connect : callable
        From an accepted socket, and what to call when it is closed, to its connection.
    most : int
        Connections open at a time.
    context : ssl.SSLContext, optional
        For TLS.
    handshake : float
        Seconds for the handshake of TLS.
    """

    def __init__(
        self,
        listener: socket.socket,
        connect: Callable[[socket.socket, Callable[[], None]], Connection],
        most: int,
        context: ssl.SSLContext | None,
        handshake: float,
    ) -> None:
        self._listener = listener
        self._connect = connect
        self._most = most
        self._context = context
        self._handshake = handshake
        self._open: dict[socket.socket, Connection] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        listener.setblocking(False)
        self._accepting = asyncio.create_task(self._accept())

    def close(self) -> None:
        """Accept what has connected already, and then nobody."""
        self._accepting.cancel()
        with suppress(OSError):
            while len(self._open) < self._most:
                self._begin(self._listener.accept()[0])
        self._listener.close()

    async def wait_closed(self) -> None:
        """Wait for handshakes to end."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(self._listener)
            except OSError as error:  # a client that has left already is no news
                if error.errno in _USED_UP:
                    LOG.error("no connection can be accepted: %s", error)
                    self._drop_one(IDLE)  # its file is free then
                    await asyncio.sleep(0.1)
                continue
            if await self._has_room():
                self._begin(sock)
            else:
                self._refuse(sock)
            await asyncio.sleep(0)  # others have their turn

    def _begin(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._open[sock] = connection = self._connect(sock, lambda: self._forget(sock))
        task = asyncio.get_running_loop().create_task(self._serve(sock, connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, sock: socket.socket, connection: Connection) -> None:
        more = {} if self._context is None else {"ssl_handshake_timeout": self._handshake}
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection, sock, ssl=self._context, **more
            )
        except (OSError, TimeoutError):  # the client has left, or speaks no TLS
            sock.close()
            self._forget(sock)

    def _forget(self, sock: socket.socket) -> None:
        self._open.pop(sock, None)

    def _drop_one(self, worst: int = NOT_READ) -> bool:
        ranked = [(one.rank, one) for one in self._open.values()]
        candidates = [(rank, one) for rank, one in ranked if rank is not None and rank[0] <= worst]
        if not candidates:
            return False
        min(candidates, key=lambda pair: pair[0])[1].drop()
        return True

    async def _has_room(self) -> bool:
        for _ in range(100):
            if len(self._open) < self._most:
                return True
            if not any(one.dropped for one in self._open.values()) and not self._drop_one():
                return False
            await asyncio.sleep(0)  # a connection that is dropped is closed in one of the next turns
        return False

    def _refuse(self, sock: socket.socket) -> None:
        with suppress(OSError), sock:
            sock.setblocking(False)
            if self._context is None:
                problem = Problem(FULL, f"It has {self._most} connections (max_connections).", "Try again in a second.")
                body = bytes(problem.response().body)
                head = f"HTTP/1.1 503 Service Unavailable\r\ncontent-length: {len(body)}\r\nretry-after: 1\r\n"
                kind = "content-type: application/problem+json\r\ncache-control: no-store\r\nconnection: close\r\n\r\n"
                sock.send((head + kind).encode() + body)
                sock.shutdown(socket.SHUT_WR)


def room_for_connections(most: int) -> int:
    """How many connections may be open, of `most`, beside the files that are open already.

    Raises
    ------
    SettingError
        The limit of open files leaves no room.
    """
    try:
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if limit == resource.RLIM_INFINITY:
            return most
        room = limit - len(os.listdir("/dev/fd")) - SPARE  # noqa: PTH208 (a folder that changes while it is read)
    except (ImportError, OSError):  # no such limit on this system, or no way to count
        return most
    if room < FEWEST:
        raise SettingError(
            f"the limit of {limit} open files leaves room for {max(room, 0)} connections; a service needs {FEWEST}. "
            "Raise it with `ulimit -n`."
        )
    return min(most, room)
