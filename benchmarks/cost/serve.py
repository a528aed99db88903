"""`oodline serve` under load on loopback: LINe against the bare classifier in the same service.

    python -m benchmarks.cost.serve [--shared ../shared] [--seconds 10] [--rounds 7] [--overload 60] [--json]

A DenseNet-100 on CIFAR-10, loaded by `wrk` (Debian package wrk). Four things are measured:

1. latency with one client and throughput with many, LINe by bare classifier: the median of the ratios over rounds, each
   with two new processes, since one of two equal processes may be a tenth faster for as long as it lives;
2. twice the requests that it can answer, for `--overload` seconds: who got what, and that nobody got nothing;
3. kill -9 and a new start: seconds until it answers again;
4. a corpus of bad uploads while good ones go on: status codes, and the memory of the process before and after.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import struct
import subprocess
import sys
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, sleep
from typing import Any

import httpx
import torch
from benchmarks._common import CIFAR_MODELS
from cyclopts import App
from rich.console import Console
from rich.table import Table

from oodline import Classifier, DriftMonitor, Guard, LINe, Verdict, fit
from oodline.cli.options import Json, print_json
from oodline.data import image_loader, open_images
from oodline.model.zoo import load_model
from oodline.serve import ServeSettings, create_app, run

MODEL = f"python:{CIFAR_MODELS}:densenet100"
WEIGHTS = "data/checkpoints/densenet100_cifar10.safetensors"
CLIENTS = 32
"""At once, for the throughput."""
CROWD = 512
"""At once, for the overload: each waits between its requests."""

LUA = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "image/png"
local threads = {}
function setup(thread) table.insert(threads, thread) end
function init(args)
  counts = {}
  local file = io.open(args[1], "rb")
  wrk.body = file:read("*a")
  file:close()
  pause = tonumber(args[2])
  math.randomseed(7)
  request_text = wrk.format()
end
function request() return request_text end
function response(status) counts[tostring(status)] = (counts[tostring(status)] or 0) + 1 end
DELAY
function done(summary, latency)
  local parts = {}
  for _, thread in ipairs(threads) do
    for status, count in pairs(thread:get("counts")) do
      table.insert(parts, string.format('"%s": %d', status, count))
    end
  end
  local e = summary.errors
  io.write(string.format(
    '\\nJSON {"seconds": %f, "p50": %f, "p99": %f, "status": {%s}, "socket": %d, "timeout": %d}\\n',
    summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, table.concat(parts, ", "),
    e.connect + e.read + e.write, e.timeout))
end
"""
PAUSE = """
wrk.headers["Connection"] = "close"
function delay() return -math.log(1 - math.random()) * pause end
"""

app = App()


class Bare(Guard):
    """The classifier alone, dressed as a guard: a label, and nothing about it."""

    def __call__(self, inputs: Any) -> Verdict:
        """Label the batch."""
        with torch.no_grad():
            label = self.classifier.model(inputs).argmax(1)
        rest = torch.ones(len(label), dtype=torch.float64)
        return Verdict(label, rest, rest < 0, rest, rest, self.class_names)


@app.command
def server(guard: Path, weights: Path, kind: str, threads: int) -> None:
    """Serve the file, by LINe or bare, on a free port; prints its address."""
    torch.set_num_threads(threads)
    loaded = Guard.load(guard, Classifier(load_model(MODEL, weights).model))
    cls, monitor = (Bare, None) if kind == "bare" else (Guard, DriftMonitor(loaded.calibration))
    this = cls(
        loaded.classifier,
        loaded.detector,
        loaded.calibration,
        class_names=loaded.class_names,
        preprocessing=loaded.preprocessing,
    )
    run(
        create_app(this, None, ServeSettings(capacity=64), monitor=monitor),
        port=0,
        listening=lambda u: print(u, flush=True),
    )


@dataclass(frozen=True)
class Server:
    """A process that serves."""

    url: str
    pid: int
    started: float

    @property
    def megabytes(self) -> float:
        """Memory that it holds."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1e3


@contextmanager
def serving(guard: Path, weights: Path, kind: str, threads: int) -> Iterator[Server]:
    command = [sys.executable, "-m", __spec__.name, "server", str(guard), str(weights), kind, str(threads)]
    started = perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            url = process.stdout.readline().strip()
            assert url, "the server did not start"
            assert httpx.get(f"{url}/readyz").status_code == 200
            yield Server(url, process.pid, perf_counter() - started)
        finally:
            process.terminate()
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()


@app.default
def main(
    *,
    shared: Path = Path("../shared"),
    seconds: int = 10,
    rounds: int = 7,
    overload: int = 60,
    images: int = 500,
    threads: int = 1,
    as_json: Json = False,
) -> None:
    """Measure and print.

    Parameters
    ----------
    shared
        Folder with `data`.
    seconds
        Of each load.
    rounds
        LINe and bare in turn, so often.
    overload
        Seconds of twice the load that it can take.
    images
        To fit on, and to calibrate on.
    threads
        Cores for PyTorch in the server; the load needs another.
    as_json
        Print one JSON document in place of the tables.
    """
    weights = shared / WEIGHTS
    with TemporaryDirectory() as folder:
        place = Path(folder)
        guard, image = prepare(shared, images, place)
        ratios = compare(partial(serving, guard, weights, threads=threads), image, place, seconds, rounds)
        with serving(guard, weights, "line", threads=threads) as line:
            flood = overloaded(line, image, place, ratios["throughput, requests/s"]["line"], overload)
            bad = attacked(line, image, place, seconds)
            os.kill(line.pid, signal.SIGKILL)
        with serving(guard, weights, "line", threads=threads) as again:
            restart = {"seconds until ready": again.started, "status": post(again, image)}
    found = {"ratios": ratios, "overload": flood, "bad uploads": bad, "after kill -9": restart}
    if as_json:
        print_json(found)
        return
    console = Console(width=120)
    table = Table("", "bare", "LINe", "LINe/bare", title=f"{rounds} rounds of {seconds} s")
    for name, row in ratios.items():
        table.add_row(name, f"{row['bare']:.2f}", f"{row['line']:.2f}", f"{row['ratio']:.3f}")
    console.print(table)
    for title in ("overload", "bad uploads", "after kill -9"):
        table = Table("", "", title=title, show_header=False)
        for name, value in found[title].items():
            table.add_row(name, f"{value:.1f}" if isinstance(value, float) else str(value))
        console.print(table)


def prepare(shared: Path, images: int, place: Path) -> tuple[Path, Path]:
    """Fit LINe and calibrate it; write the guard's file and one image."""
    loaded = load_model(MODEL, shared / WEIGHTS)
    classifier, data = Classifier(loaded.model), shared / "data" / "cifar10"
    sets = {name: open_images(data / f"{name}.parquet") for name in ("train", "test")}
    train, test = (image_loader(s, loaded.preprocessing, limit=images, batch_size=32) for s in sets.values())
    detector = LINe.preset("cifar10-densenet100")
    fit([detector], classifier, train, progress=True)
    guard = Guard(classifier, detector, class_names=sets["train"].class_names, preprocessing=loaded.preprocessing)
    guard.calibrate((batch.inputs for batch in test), progress=True)
    sets["test"].read(0).save(place / "image.png")
    return guard.save(place / "guard.safetensors"), place / "image.png"


def load(
    server: Server, image: Path, place: Path, seconds: int, connections: int, pause: float | None = None
) -> dict[str, Any]:
    """Send the image again and again; `pause` is the mean time in ms that each client waits between requests."""
    script = place / f"load-{threading.get_ident()}.lua"
    script.write_text(LUA.replace("DELAY", PAUSE if pause is not None else ""))
    command = ["wrk", "-t", "1", "-c", str(connections), "-d", f"{seconds}s", "--timeout", "40s", "-s", str(script)]
    command += [f"{server.url}/v1/predict", "--", str(image), str(pause or 0)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    sleep(1)  # what this load has left behind shall not meet the next one
    found = json.loads(output[output.index("JSON ") + 5 :].splitlines()[0])
    if not found["status"]:
        sys.exit(f"no request was answered within {seconds} s: ask for more --seconds, on a quieter machine.")
    return found


def rate(found: dict[str, Any]) -> float:
    return found["status"].get("200", 0) / found["seconds"]


def compare(
    start: Callable[[str], AbstractContextManager[Server]], image: Path, place: Path, seconds: int, rounds: int
) -> dict[str, dict[str, float]]:
    """Latency of one client and throughput of many, in turn."""
    columns: dict[str, dict[str, list[float]]] = {}
    for number in range(rounds):
        kinds = ("bare", "line") if number % 2 else ("line", "bare")
        with start(kinds[0]) as first, start(kinds[1]) as second:
            for name, one in zip(kinds, (first, second), strict=True):
                load(one, image, place, 3, CLIENTS)
                alone, many = load(one, image, place, seconds, 1), load(one, image, place, seconds, CLIENTS)
                for what, value in (
                    ("median latency of one client, ms", alone["p50"]),
                    ("99th percentile of one client, ms", alone["p99"]),
                    ("throughput, requests/s", rate(many)),
                    (f"median latency of {CLIENTS} clients, ms", many["p50"]),
                ):
                    columns.setdefault(what, {}).setdefault(name, []).append(value)
    return {
        what: {
            "bare": statistics.median(values["bare"]),
            "line": statistics.median(values["line"]),
            "ratio": statistics.median(a / b for a, b in zip(values["line"], values["bare"], strict=True)),
        }
        for what, values in columns.items()
    }


def overloaded(line: Server, image: Path, place: Path, capacity: float, seconds: int) -> dict[str, Any]:
    """Twice the capacity, by a crowd of which each waits between its requests."""
    pause = 1e3 * CROWD / (2 * capacity)
    load(line, image, place, 30, CROWD, pause)  # memory for full batches is taken once
    with memory_of(line) as memory:
        found = load(line, image, place, seconds, CROWD, pause)
    answers = sum(found["status"].values())
    return {
        "capacity, requests/s": capacity,
        "offered, requests/s": answers / found["seconds"],
        "answered with 200, requests/s": rate(found),
        "status codes": found["status"],
        "lost connections": found["socket"],
        "without an answer in 40 s": found["timeout"],
        "median latency, ms": found["p50"],
        "99th percentile, ms": found["p99"],
        "left in the service": metric(line, "oodline_present_images"),
        "memory in quarters of the time, MB": quarters(memory),
    }


def attacked(line: Server, image: Path, place: Path, seconds: int) -> dict[str, Any]:
    """Bad uploads from two clients while four send good ones."""
    corpus, codes, stop = bad_uploads(image.read_bytes()), Counter[str](), threading.Event()

    def attack() -> None:
        with httpx.Client(timeout=40) as client:
            while not stop.is_set():
                for headers, content in corpus.values():
                    codes[str(client.post(f"{line.url}/v1/predict", content=content, headers=headers).status_code)] += 1

    def during(length: int) -> dict[str, Any]:
        stop.clear()
        attackers = [threading.Thread(target=attack) for _ in range(2)]
        for one in attackers:
            one.start()
        found = load(line, image, place, length, 4)
        stop.set()
        for one in attackers:
            one.join()
        return found

    during(max(1, seconds // 3))  # decoders make themselves at home
    codes.clear()
    with memory_of(line) as memory:
        found = during(seconds)
    return {
        "kinds of bad uploads": len(corpus),
        "status codes of bad uploads": dict(codes),
        "status codes of good ones beside them": found["status"],
        "memory in quarters of the time, MB": quarters(memory),
    }


@contextmanager
def memory_of(line: Server) -> Iterator[list[float]]:
    """The memory of a server, every second."""
    found, done = [line.megabytes], threading.Event()

    def look() -> None:
        while not done.wait(1):
            found.append(line.megabytes)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield found
    finally:
        done.set()
        watcher.join()


def quarters(values: list[float]) -> str:
    return ", ".join(f"{values[i * (len(values) - 1) // 4]:.0f}" for i in range(5))


def bad_uploads(good: bytes) -> dict[str, tuple[dict[str, str], bytes]]:
    """What strangers send, by name."""
    from PIL import Image

    noise = Image.effect_noise((600, 400), 80).convert("RGB")
    files = {}
    for kind in ("PNG", "JPEG", "WEBP", "BMP"):
        file = BytesIO()
        noise.save(file, kind)
        files[kind] = file.getvalue()
    png, form = {"content-type": "image/png"}, {"content-type": "multipart/form-data; boundary=x"}
    part = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'
    return {
        "empty": (png, b""),
        "text": (png, b"hello" * 1000),
        "huge": (png, bytes(17 * 2**20)),
        "another type": ({"content-type": "text/html"}, good),
        **{f"truncated {kind}": (png, content[: len(content) // 2]) for kind, content in files.items()},
        **{f"damaged {kind}": (png, content[:60] + bytes(200) + content[260:2000]) for kind, content in files.items()},
        "bomb by its header": (png, header_only(60_000, 60_000)),
        "bomb by its sides": (png, header_only(1, 8_000_000)),
        "compressible": (png, header_only(5000, 6000, bytes(15001 * 6000))),
        "form without an end": (form, part + good),
        "form without images": (form, b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n--x--\r\n'),
        "form of rubbish": (form, os.urandom(5000)),
        "form with many images": (form, (part + good + b"\r\n") * 40 + b"--x--\r\n"),
    }


def header_only(width: int, height: int, rows: bytes = b"") -> bytes:
    """A PNG file that says it is this large."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def metric(line: Server, name: str) -> float:
    text = httpx.get(f"{line.url}/metrics").text
    return float(next(row for row in text.splitlines() if row.startswith(f"{name} ")).split()[1])


def post(line: Server, image: Path) -> int:
    answer = httpx.post(f"{line.url}/v1/predict", content=image.read_bytes(), headers={"content-type": "image/png"})
    return answer.status_code


if __name__ == "__main__":
    app()
