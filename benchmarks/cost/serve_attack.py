"""What strangers can do to `oodline serve`: connections that say nothing, and images that are larger than they look.

    python -m benchmarks.cost.serve_attack [--seconds 10] [--sockets 230] [--files 200] [--plain] [--only NAME] [--json]

The server is a small guard on 127.0.0.1 in a process that may open `--files` files. While the attackers hold
`--sockets` connections, /healthz is asked on a new connection four times a second. What is printed: how many of these
got an answer within `--patience` seconds, the slowest, lines of the log, connections that the attackers still hold at
the end, and whether /healthz answers when they have left. Then images are sent to a classifier that states no size of
its input, and the peak of the memory is compared with that before.

`--plain` runs the same app in uvicorn as it comes, without the limit of what the classifier sees: what there was
before.
"""

from __future__ import annotations

import resource
import select
import socket
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from time import monotonic, sleep
from typing import IO, Any
from weakref import WeakSet

import httpx
from cyclopts import App
from rich.console import Console
from rich.table import Table

from oodline import Guard
from oodline.cli.options import Json, print_json
from oodline.preprocessing.preprocessing import Preprocessing
from oodline.serve import ServeSettings, create_app, run
from oodline.testing import toy_image_guard

HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\nContent-Length: 100000\r\n\r\n"
GET = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
PAGE = b"GET /page.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"

app = App()


@app.command
def server(*, files: int, plain: bool = False, sized: bool = False) -> None:
    """Serve a small guard on a free port; prints its address."""
    guard = toy_image_guard()
    if not sized:
        guard = Guard(guard.classifier, guard.detector, guard.calibration, preprocessing=Preprocessing())
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    if plain:
        import uvicorn

        with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
            print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
            service = create_app(guard, None, ServeSettings(max_input=10**12))
            uvicorn.Server(uvicorn.Config(service, log_level="error", timeout_keep_alive=75)).run([listener])
    else:
        run(create_app(guard), port=0, listening=lambda url: print(url, flush=True))


@dataclass(frozen=True)
class Target:
    """A server under attack."""

    url: str
    pid: int
    log: IO[bytes]

    @property
    def lines(self) -> int:
        """Lines in its log."""
        self.log.seek(0)
        return self.log.read().count(b"\n")

    def memory(self, what: str) -> float:
        """Megabytes: VmHWM is the peak, VmRSS what it holds now."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith(what)).split()[1]) / 1e3

    def connect(self) -> socket.socket:
        """A new connection."""
        host, port = self.url.removeprefix("http://").split(":")
        sock = socket.create_connection((host, int(port)), timeout=10)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # what is not read stays with the server
        return sock

    def answers(self, seconds: float) -> float | None:
        """Seconds until /healthz has answered on a new connection; None where it did not."""
        begun = monotonic()
        try:
            answer = httpx.get(f"{self.url}/healthz", timeout=seconds)
        except httpx.HTTPError:
            return None
        return monotonic() - begun if answer.status_code == 200 else None


@contextmanager
def target(*arguments: str) -> Iterator[Target]:
    command = [sys.executable, "-m", __spec__.name, "server", *arguments]
    with TemporaryFile() as log, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process:
        try:
            url = process.stdout.readline().strip() if process.stdout else ""
            if not url:
                log.seek(0)
                sys.exit(f"the server did not start: {log.read().decode()}")
            one = Target(url, process.pid, log)
            until = monotonic() + 120
            while one.answers(10) is None and monotonic() < until:
                sleep(0.1)
            yield one
        finally:
            process.kill()


Step = Callable[[socket.socket], None]
"""What an attacker does to a connection, again and again; it may raise OSError where that is closed."""


def nothing(sock: socket.socket) -> None: ...


def sent_once(*content: bytes) -> Step:
    known: WeakSet[socket.socket] = WeakSet()

    def step(sock: socket.socket) -> None:
        if sock not in known:
            known.add(sock)
            sock.sendall(b"".join(content))

    return step


def header_dribble(sock: socket.socket) -> None:
    sock.sendall(b"G")


def slow_body() -> Step:
    first = sent_once(HEAD)

    def step(sock: socket.socket) -> None:
        first(sock)
        sock.sendall(b"x")

    return step


def pipelined(sock: socket.socket) -> None:
    sock.sendall(GET * 50)
    sock.recv(1 << 16)


ATTACKS: dict[str, Step] = {
    "half-open": nothing,
    "header, a byte at a time": header_dribble,
    "body, a byte at a time": slow_body(),
    "idle after an answer": sent_once(GET),
    "answers that are not read": sent_once(PAGE * 100),
    "many requests in one packet": pipelined,
}


class Attackers:
    """Connections that are opened anew where they are closed."""

    def __init__(self, victim: Target, count: int, step: Step) -> None:
        self._victim = victim
        self._step = step
        self._sockets: list[socket.socket | None] = [None] * count
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(i,)) for i in range(4)]
        self.opened = 0

    def __enter__(self) -> Attackers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        for sock in self._sockets:
            if sock is not None:
                sock.close()

    def held(self) -> int:
        """Connections that the server has not closed."""
        return sum(sock is not None and not _is_closed(sock) for sock in self._sockets)

    def _work(self, first: int) -> None:
        while not self._ended.is_set():
            for i in range(first, len(self._sockets), len(self._threads)):
                if self._ended.is_set():
                    return
                try:
                    sock = self._sockets[i]
                    if sock is None or _is_closed(sock):
                        if sock is not None:
                            sock.close()
                        self._sockets[i] = None
                        self._sockets[i] = sock = self._victim.connect()
                        self.opened += 1
                        sock.settimeout(0.5)
                    self._step(sock)
                except OSError:
                    continue
            sleep(0.2)


def _is_closed(sock: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)  # whatever there is still to be read
    return bool(poll.poll(0))


def besieged(victim: Target, step: Step, seconds: float, sockets: int, patience: float) -> dict[str, Any]:
    waits: list[float | None] = []
    lines = victim.lines
    with Attackers(victim, sockets, step) as attackers:
        sleep(1)
        until = monotonic() + seconds
        while monotonic() < until:
            waits.append(victim.answers(patience))
            sleep(0.25)
        held = attackers.held()
    answered = [wait for wait in waits if wait is not None]
    after = victim.answers(2 * patience)
    return {
        "asked": len(waits),
        "answered": len(answered),
        "slowest, s": max(answered, default=None),
        "log lines": victim.lines - lines,
        "connections opened": attackers.opened,
        "held at the end": held,
        "peak memory, MB": victim.memory("VmHWM"),
        "answers afterwards": after is not None,
    }


def png(width: int, height: int) -> bytes:
    """A black image that is small as a file."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compressobj(9)
    data = b"".join(rows.compress(bytes(3 * width + 1)) for _ in range(height)) + rows.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


BOMBS: dict[str, tuple[tuple[int, int], int, int, bool]] = {
    "4 of 26 megapixels at once": ((6000, 4300), 4, 1, False),
    "16 of 1 megapixel in each of 4 forms": ((1000, 1000), 4, 16, False),
    "8 of 30 megapixels, to a sized classifier": ((6000, 5000), 8, 1, True),
    "8 of 1 x 400000, to a sized classifier": ((1, 400_000), 8, 1, True),
}
"""Size, requests at once, images of each, and whether the classifier's input has a size."""


def flooded(bomb: tuple[tuple[int, int], int, int, bool], arguments: list[str]) -> dict[str, Any]:
    size, requests, images, sized = bomb
    content = png(*size)

    def send(url: str) -> str:
        try:
            files = [("images", ("a.png", content, "image/png"))] * images
            return str(httpx.post(f"{url}/v1/predict", files=files, timeout=60).status_code)
        except httpx.HTTPError as error:
            return type(error).__name__

    with target(*arguments, *(["--sized"] if sized else [])) as victim:
        httpx.post(f"{victim.url}/v1/predict", content=png(8, 8), headers={"content-type": "image/png"})
        before = victim.memory("VmRSS")
        with ThreadPoolExecutor(requests) as pool:
            found = list(pool.map(send, [victim.url] * requests))
        return {
            "bytes of a file": len(content),
            "status codes": {one: found.count(one) for one in sorted(set(found))},
            "memory before, MB": before,
            "growth at the peak, MB": victim.memory("VmHWM") - before,
        }


@app.default
def main(
    *,
    seconds: float = 10,
    sockets: int = 230,
    files: int = 200,
    patience: float = 3,
    plain: bool = False,
    only: list[str] | None = None,
    as_json: Json = False,
) -> None:
    """Attack and print.

    Parameters
    ----------
    seconds
        Of each attack on connections.
    sockets
        That the attackers hold.
    files
        That the server may open.
    patience
        Seconds that /healthz is waited for.
    plain
        Uvicorn as it comes, and no limit of what the classifier sees.
    only
        Attacks by name; all of them if not given.
    as_json
        Print one JSON document in place of the tables.
    """
    arguments = ["--files", str(files), *(["--plain"] if plain else [])]
    chosen = only or [*ATTACKS, *BOMBS]
    steps = {name: step for name, step in ATTACKS.items() if name in chosen}
    found: dict[str, dict[str, Any]] = {"connections": {}, "memory": {}}
    if steps:
        with target(*arguments, "--sized") as victim:
            for name, step in steps.items():
                found["connections"][name] = besieged(victim, step, seconds, sockets, patience)
    for name, bomb in BOMBS.items():
        if name in chosen:
            found["memory"][name] = flooded(bomb, arguments)
    if as_json:
        print_json(found)
        return
    console = Console(width=160)
    for title, rows in found.items():
        if rows:
            columns = list(next(iter(rows.values())))
            table = Table("", *columns, title=f"{title}{', plain uvicorn' if plain else ''}")
            for name, row in rows.items():
                table.add_row(name, *(f"{v:.2f}" if isinstance(v, float) else str(v) for v in row.values()))
            console.print(table)


if __name__ == "__main__":
    app()
