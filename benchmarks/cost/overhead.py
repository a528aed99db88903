"""What oodline costs over the bare forward pass, as ratios taken in one run on one machine.

    OMP_NUM_THREADS=1 python -m benchmarks.cost.overhead [--images 1000] [--rounds 5] [--json]

Every round times the bare pass, fitting LINe, fitting all ten detectors and scoring by LINe, by energy and by the
default on the same images, in turn, so that a machine that slows down slows all of them. Seconds are what the process
computed, which other work on the machine disturbs less than the time that passed. The classifier is the
DenseNet-100 of the LINe paper with random weights; images are random and in memory.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

import torch
from benchmarks._common import load_example
from cyclopts import App
from rich.console import Console
from rich.table import Table

from oodline import Classifier, Energy, LINe, default, fit, score
from oodline.cli.options import Json, print_json
from oodline.detectors.catalog import create_detector
from oodline.guard.artifact import Artifact, write_artifact
from oodline.model.head import HeadInfo, LinearHead
from oodline.statistics import ClassMoments

densenet100 = load_example("cifar_models").densenet100

TEN = ("line", "msp", "max-logit", "energy", "react", "dice", "ash-s", "mahalanobis", "knn", "kl-matching")

app = App()


@app.default
def main(*, images: int = 1000, batch_size: int = 100, rounds: int = 5, as_json: Json = False) -> None:
    """Measure and print.

    Parameters
    ----------
    images, batch_size
        Random 32x32 images a pass, and how many at a time.
    rounds
        How often each job is timed; medians are printed.
    as_json
        Print one JSON document in place of the table.
    """
    torch.manual_seed(0)
    classifier = Classifier(densenet100(num_classes=10))
    loader = [(torch.randn(batch_size, 3, 32, 32), torch.arange(batch_size) % 10) for _ in range(images // batch_size)]
    line = LINe(p_a=0.9, p_w=0.9, clip=1.0).fit(classifier, loader)
    fused = default(classifier).fit(classifier, loader)
    jobs: dict[str, Callable[[], Any]] = {
        "bare": lambda: bare_pass(classifier, loader),
        "fit": lambda: fit([LINe(p_a=0.9, p_w=0.9, clip=1.0)], classifier, loader),
        "score": lambda: score(line, classifier, loader),
        "score energy": lambda: score(Energy(), classifier, loader),
        "score default": lambda: score(fused, classifier, loader),
        "fit ten": lambda: fit([create_detector(name) for name in TEN], classifier, loader),
    }
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            seconds[name].append(clock(job))
    rows = [
        ("bare forward pass", f"{statistics.median(seconds['bare']):.2f} s", ""),
        ("fitting LINe / bare pass", ratio(seconds["fit"], seconds["bare"]), "<= 1.05"),
        ("scoring by LINe / bare pass", ratio(seconds["score"], seconds["bare"]), "<= 1.05"),
        ("scoring by energy / bare pass", ratio(seconds["score energy"], seconds["bare"]), ""),
        ("scoring by the default / bare pass", ratio(seconds["score default"], seconds["bare"]), "<= 1.10"),
        ("fitting ten detectors / fitting LINe", ratio(seconds["fit ten"], seconds["fit"]), "<= 1.10"),
        *imagenet_size(),
    ]
    if as_json:
        print_json({"rows": [dict(zip(("what", "measured", "goal"), row, strict=True)) for row in rows]})
        return
    table = Table("what", "measured", "goal", title=f"{images} images, median of {rounds}")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def bare_pass(classifier: Classifier, loader: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    classifier.model.eval()
    with torch.no_grad():
        for inputs, _ in loader:
            classifier.model(inputs)


def clock(job: Callable[[], Any]) -> float:
    started = process_time()
    job()
    return process_time() - started


def ratio(ours: list[float], theirs: list[float]) -> str:
    return f"{statistics.median(a / b for a, b in zip(ours, theirs, strict=True)):.3f}"


def imagenet_size(classes: int = 1000, width: int = 2048) -> list[tuple[str, str, str]]:
    """Estimating LINe's masks from class means, and saving them, at the size of ResNet-50."""
    head = LinearHead(0.02 * torch.randn(classes, width), torch.zeros(classes))
    means = ClassMoments()
    count = torch.full((classes,), 1300)
    means.load_state_dict(
        {"count": count, "mean": torch.rand(classes, width).double(), "deviations": torch.zeros(classes, 0)}
    )
    detector = LINe(clip=0.8)
    seconds = clock(lambda: detector._settle({"moments": means}, head))
    with TemporaryDirectory() as folder:
        path = write_artifact(Artifact({"line": detector}, HeadInfo.of(head)), Path(folder) / "line.safetensors")
        size = path.stat().st_size / 1e6
    return [
        (f"LINe's file at C={classes}, D={width}", f"{size:.1f} MB", "<= 20 MB"),
        (f"estimating LINe's masks at C={classes}, D={width}", f"{seconds:.1f} s", ""),
    ]


if __name__ == "__main__":
    app()
