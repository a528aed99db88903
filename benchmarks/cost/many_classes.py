"""State, time and memory of every detector at tens of thousands of classes.

    OMP_NUM_THREADS=2 python -m benchmarks.cost.many_classes [--classes 21841] [--width 1024] [--detector fdbd ...]

Random features behind a ReLU and a random head. Where a method reads no more than features and
logits no network runs; for others it is one 1 x 1 convolution before the same head. Each detector runs in a process of
its own, and two things are called fitting: taking in the samples batch by batch, and estimating from them. The pass of
the network is in neither. Memory is the growth of the resident set; see `heavy`. Times are of the processor, all
threads together, so that a busy machine changes them little.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import warnings
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from time import process_time
from typing import Any

import torch
from benchmarks.cost.heavy import peak
from cyclopts import App
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from oodline._util.progress import track
from oodline.cli.options import Json, print_json
from oodline.detectors.catalog import create_detector, detector_names
from oodline.model.activations import Activations, needs_network
from oodline.model.classifier import Classifier
from oodline.passes.fit import reads

BATCH = 64
SIDE = 2
"""Height and width of the images of the one convolution."""

app = App()
fork = multiprocessing.get_context("fork")


@app.default
def main(
    *,
    detector: list[str] | None = None,
    classes: int = 21_841,
    width: int = 1024,
    rounds: int = 3,
    samples: int = 1,
    limit: float = 900,
    memory: float = 12_000,
    as_json: Json = False,
) -> None:
    """Measure and print, the largest state first.

    Parameters
    ----------
    detector
        Which, with settings; every one of the catalog by default.
    classes, width
        C and D of the head.
    rounds
        How often scoring a batch of 64 is timed; the median is printed.
    samples
        Training samples per class; covariances within classes need two.
    limit
        Seconds of the processor after which a detector is stopped.
    memory
        MB beyond those of the head by which a detector's process may grow before it is stopped.
    as_json
        Print one JSON document in place of the table.
    """
    names = detector or detector_names()
    rows = [
        run(name, classes, width, samples, rounds, limit, memory)
        for name in track(names, "measuring", names, shown=not as_json)
    ]
    if as_json:
        print_json(
            {
                "classes": classes,
                "features": width,
                "samples": samples,
                "threads": torch.get_num_threads(),
                "rows": rows,
            }
        )
        return
    table = Table("detector", "state, MB", "fit, s", "fit, peak MB", "score, ms", "score, peak MB", box=SIMPLE_HEAD)
    for row in sorted(rows, key=lambda row: -row.get("state_mb", 0)):
        if "failed" in row:
            table.add_row(row["detector"], row["failed"])
        else:
            table.add_row(
                row["detector"],
                *(f"{row[key]:.4g}" for key in ("state_mb", "fit_s", "fit_peak_mb", "score_ms", "score_peak_mb")),
            )
    console = Console(width=100)
    console.print(table)
    console.print(
        f"C={classes}, D={width}, {samples} sample(s) per class, {torch.get_num_threads()} threads; the head itself: "
        f"{4 * classes * width / 1e6:.0f} MB; scoring: per image, in batches of {BATCH}, without the head's own product"
    )


def run(
    reference: str, classes: int, width: int, samples: int, rounds: int, limit: float, memory: float
) -> dict[str, Any]:
    """Measure in a process of its own: a fork, which need not import all again."""
    ours, theirs = fork.Pipe(duplex=False)
    process = fork.Process(target=measure, args=(theirs, reference, classes, width, samples, rounds))
    process.start()
    theirs.close()
    first, allowed = resident(os.getpid()), memory * 1e6 + 4 * classes * width
    found: dict[str, Any] = {}
    while not found:
        if ours.poll(0.1):
            try:
                found = ours.recv()
            except EOFError:
                found = {"failed": "ended, for lack of memory perhaps"}
        elif seconds(process.pid) > limit:
            found = {"failed": f"> {limit:g} s"}
        elif resident(process.pid) - first > allowed:
            found = {"failed": f"> {memory:g} MB"}
    process.kill()
    process.join()
    return {"detector": reference, **found}


def resident(process: int | None) -> int:
    """Bytes of a process in memory; 0 where it has ended, or the system does not say."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def seconds(process: int | None) -> float:
    """Processor time of a process; 0 where it has ended, or the system does not say."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def measure(pipe: Connection, reference: str, classes: int, width: int, samples: int, rounds: int) -> None:
    """Measure one detector in this process and send what was found."""
    warnings.simplefilter("ignore")  # few samples per class are meant
    try:
        pipe.send(measured(reference, classes, width, samples, rounds))
    except Exception as error:
        pipe.send({"failed": f"{type(error).__name__}: {str(error)[:60]}"})


def measured(reference: str, classes: int, width: int, samples: int, rounds: int) -> dict[str, float]:
    """State, and time and memory of fitting and scoring."""
    torch.manual_seed(0)
    classifier = network(classes, width)
    detector = create_detector(reference)
    detector.use_classifier(classifier)
    requested = detector._requests(classifier.head)
    used = 0.0
    with torch.no_grad():
        with peak() as fit_peak:
            total = samples * classes if requested else 0
            for start in range(0, total, BATCH):
                labels = torch.arange(start, min(start + BATCH, total))
                batch, labels = activations(classifier, detector, labels), labels % classes
                started = process_time()
                for statistic in requested.values():
                    statistic.update(batch, labels)
                used += process_time() - started
            started = process_time()
            detector._settle(requested, classifier.head)
            used += process_time() - started
        requested.clear()
        batch = activations(classifier, detector, torch.arange(BATCH))
        detector(batch)  # what is built once
        times = list(clock(detector, batch, rounds))
        with peak() as score_peak:
            detector(batch)
    state = sum(value.numel() * value.element_size() for value in detector.state_dict().values())
    return {
        "state_mb": state / 1e6,
        "fit_s": used,
        "fit_peak_mb": fit_peak[0] / 1e6,
        "score_ms": 1000 * statistics.median(times) / BATCH,
        "score_peak_mb": score_peak[0] / 1e6,
    }


def network(classes: int, width: int) -> Classifier:
    """One convolution, a ReLU, the mean over places, and the head."""
    head = nn.Linear(width, classes)
    nn.init.normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    body = nn.Sequential(nn.Conv2d(3, width, 1), nn.ReLU())
    return Classifier(nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).eval())


def activations(classifier: Classifier, detector: Any, labels: Tensor) -> Activations:
    """One batch, of as many samples as labels; each is predicted as its label where no network must run."""
    generator = torch.Generator().manual_seed(int(labels[0]))
    read = reads([detector])
    if needs_network(detector.needs, detector.layers):
        return classifier(torch.randn(len(labels), 3, SIDE, SIDE, generator=generator), index=labels, **read)
    head = classifier.head
    features = torch.randn(len(labels), head.num_features, generator=generator).mul_(0.5).relu_()
    # a logit per class without the head's product, which would cost more than many a detector
    logits = torch.randn(len(labels), 1, generator=generator) * head.linear.bias.add(1) * 0.1
    logits = logits + 0.1 * torch.linspace(0, 1, head.num_classes)
    logits[torch.arange(len(labels)), labels % head.num_classes] += 8
    return Activations(features, logits, head, labels)


def clock(detector: Any, batch: Activations, rounds: int) -> Iterator[float]:
    for _ in range(rounds):
        started = process_time()
        detector(batch)
        yield process_time() - started


if __name__ == "__main__":
    app()
