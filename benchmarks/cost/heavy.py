"""Peak memory and time of the detectors with large state, at the size of an ImageNet ResNet-50.

    OMP_NUM_THREADS=2 python -m benchmarks.cost.heavy [--detector itp --detector knn,k=1000] [--json]

C=1000, D=2048, batches of 64. No network runs: statistics are filled with random features behind a ReLU, and the head
is random. What a method holds must be linear in the batch, the bank or the head. An array over batch, classes and
features would be 524 MB here, one over two classes and features 8.2 GB; the command fails where a single array of
either size is made.

Every detector runs in a process of its own, so that none inherits memory that another freed. Two things are seen:

*peak* is the growth of the resident set over one call. Linux counts its high-water mark (`VmHWM`), which may be set
back to what is resident now (`/proc/self/clear_refs`); `ru_maxrss` cannot, and would hide the peak of scoring under
that of fitting. It sees everything, NumPy, MKL and the allocator's slack included.

*largest array* is the largest storage that any torch operation of the call returned, seen by a dispatch mode: this is
what shows that a method works in parts. *states* is the largest that the method's constants allow while it scores.

A machine that others use, too, makes times longer; *cpu* is the processor time of all threads, which suffers less.
"""

from __future__ import annotations

import ctypes
import json
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch
from cyclopts import App
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from oodline._util.progress import track
from oodline.cli.options import Json, print_json
from oodline.detectors import itp
from oodline.detectors.base import Detector
from oodline.detectors.catalog import create_detector
from oodline.detectors.parts import nearest
from oodline.model.activations import Activations
from oodline.model.head import LinearHead
from oodline.statistics import Reservoir

C, D, BATCH = 1000, 2048, 64
FORBIDDEN = BATCH * C * D * 4
"""Bytes of an array over batch, classes and features; one over two classes and features is larger."""

HEAD = C * D * 4
STATED: dict[str, tuple[str, int]] = {
    "itp": ("itp.CHUNK contributions", 4 * itp.CHUNK),
    "weiper-msp": ("one perturbed head", HEAD),
    "weiper-kld": ("one perturbed head", HEAD),
    "nac,preset=imagenet-resnet50-penultimate": ("bins of the batch", 8 * BATCH * D),
    "knn,k=1000": ("products with nearest.BLOCK of the bank", 4 * BATCH * nearest.BLOCK),
    "line": ("one masked head", HEAD),
    "ddcs": ("the batch", 4 * BATCH * D),
    "conjnorm,preset=imagenet-resnet50": ("prototypes in double precision", 2 * HEAD),
    "corp": ("random features", 4 * D * D),
    "nnguide": ("products with the bank", 4 * BATCH * 12_812),
    "sisom": ("products with the bank", 4 * BATCH * 10_000),
}
"""What each holds at most while it scores: a phrase, and bytes."""

app = App()


@app.default
def main(*, detector: list[str] | None = None, rounds: int = 3, as_json: Json = False) -> None:
    """Measure and print.

    Parameters
    ----------
    detector
        Which, with settings; the heavy ones by default.
    rounds
        How often scoring a batch is timed; medians are printed.
    as_json
        Print one JSON document in place of the table.
    """
    references = detector or list(STATED)
    rows = [run(reference, rounds) for reference in track(references, "measuring", references, shown=not as_json)]
    largest = max(rows, key=lambda row: max(row["fit_largest_mb"], row["score_largest_mb"]))
    most = max(largest["fit_largest_mb"], largest["score_largest_mb"])
    if as_json:
        print_json({"classes": C, "features": D, "batch": BATCH, "threads": torch.get_num_threads(), "rows": rows})
    else:
        show(rows)
        print(
            f"The largest array of any is {most:.0f} MB ({largest['detector']}); {FORBIDDEN / 1e6:.0f} MB are too many."
        )
    sys.exit(int(most >= FORBIDDEN / 1e6))


def show(rows: list[dict[str, Any]]) -> None:
    columns = ("detector", "state", "fit, s", "peak", "largest array")
    table = Table(*columns, "ms per sample", "cpu", "peak", "largest array", "states")
    for row in rows:
        phrase, stated = STATED.get(row["detector"], ("", 0))
        table.add_row(
            row["detector"],
            *(f"{row[key]:.1f}" for key in ("state_mb", "fit_s", "fit_peak_mb", "fit_largest_mb")),
            *(f"{row[key]:.2f}" for key in ("score_ms", "score_cpu_ms")),
            *(f"{row[key]:.1f}" for key in ("score_peak_mb", "score_largest_mb")),
            f"{stated / 1e6:.1f}: {phrase}" if phrase else "",
        )
    Console(width=180).print(
        f"C={C}, D={D}, batches of {BATCH}, {torch.get_num_threads()} threads; memory in MB; fitting, then scoring",
        table,
    )


def run(reference: str, rounds: int) -> dict[str, Any]:
    """Measure in a process of its own."""
    command = [sys.executable, "-m", __spec__.name, "one", reference, "--rounds", str(rounds)]
    found: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found


@app.command
def one(reference: str, *, rounds: int = 3) -> None:
    """Measure one detector in this process and print JSON.

    Parameters
    ----------
    reference
        The detector, with settings.
    rounds
        How often scoring is timed.
    """
    warnings.simplefilter("ignore")  # few samples a class are meant
    torch.manual_seed(0)
    head = LinearHead(0.02 * torch.randn(C, D), torch.zeros(C))
    detector = create_detector(reference)
    filled = fill(detector, head)
    with Largest():
        torch.ones(1)  # the first dispatch mode imports what is not part of fitting
    with torch.no_grad():
        started = perf_counter()
        with peak() as fit_peak, Largest() as fitting:
            detector._settle(filled, head)
        fit_seconds = perf_counter() - started
        filled.clear()
        batch = activations(0, BATCH, head)
        detector(batch)  # what is built once
        seconds, processor = [], []
        for _ in range(rounds):
            started, used = perf_counter(), process_time()
            detector(batch)
            seconds.append(perf_counter() - started)
            processor.append(process_time() - used)
        with peak() as score_peak:
            detector(batch)
        with Largest() as scoring:
            detector(batch)
    state = sum(value.numel() * value.element_size() for value in detector.state_dict().values())
    print_json(
        {
            "detector": reference,
            "state_mb": state / 1e6,
            "fit_s": fit_seconds,
            "fit_peak_mb": fit_peak[0] / 1e6,
            "fit_largest_mb": fitting.bytes / 1e6,
            "score_ms": 1000 * statistics.median(seconds) / BATCH,
            "score_cpu_ms": 1000 * statistics.median(processor) / BATCH,
            "score_peak_mb": score_peak[0] / 1e6,
            "score_largest_mb": scoring.bytes / 1e6,
        }
    )


def activations(start: int, count: int, head: LinearHead) -> Activations:
    """Random features; the class of a sample decides which of them are strong."""
    index = torch.arange(start, start + count)
    generator = torch.Generator().manual_seed(start)
    strong = 0.5 * (torch.arange(D) % 16 == (index % C % 16).unsqueeze(1))
    features = (torch.randn(count, D, generator=generator) * 0.5 + 0.1 + strong).relu()
    return Activations(features, head(features), head, index)


def fill(detector: Detector, head: LinearHead) -> dict[str, Any]:
    """Its statistics, of two samples a class, or of as many as fill its bank."""
    requested = detector._requests(head)
    wanted = max([2 * C, *(s.size for s in requested.values() if isinstance(s, Reservoir))])
    for start in range(0, wanted if requested else 0, 500):
        batch = activations(start, min(500, wanted - start), head)
        for statistic in requested.values():
            statistic.update(batch, batch.index % C)
    for statistic in requested.values():
        statistic.state_dict()  # what waits to be sorted is not part of fitting
    return dict(requested)


@contextmanager
def peak() -> Iterator[list[int]]:
    """How much the resident set grew at most, in bytes, once it is over."""
    ctypes.CDLL(None).malloc_trim(0)  # memory that was freed and kept would be used again unseen
    Path("/proc/self/clear_refs").write_text("5")
    before, found = status("VmRSS"), [0]
    yield found
    found[0] = status("VmHWM") - before


def status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


class Largest(TorchDispatchMode):
    """The largest storage that an operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_leaves(found):
            # a view of the bank is not made, only looked at
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in given:
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return found


if __name__ == "__main__":
    app()
