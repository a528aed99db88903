"""Scoring by methods that differentiate the network, alone and asked together, over one forward and backward pass.

    OMP_NUM_THREADS=1 python -m benchmarks.cost.gradients [--images 16] [--size 64] [--rounds 5]

A ResNet-18 of random weights, of which only the time is looked at. ODIN and i-ODIN of one temperature ask for the same
gradient, which is computed once; AdaSCALE and NAC differentiate other numbers. Ratios of the processor's time, medians.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from time import process_time
from typing import Any

import torch
from cyclopts import App
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torchvision.models import resnet18

import oodline as ol

app = App()


@app.default
def main(*, images: int = 16, size: int = 64, rounds: int = 5) -> None:
    """Measure and print.

    Parameters
    ----------
    images, size
        Images of a batch, and their width in pixels.
    rounds
        How often each job is timed.
    """
    torch.manual_seed(0)
    classifier = ol.Classifier(resnet18(num_classes=10).eval())
    x = torch.rand(images, 3, size, size)
    detectors = {
        "odin": ol.ODIN(),
        "i-odin": ol.IODIN(),
        "adascale": ol.AdaSCALE(),
        "nac, three layers": ol.NAC(layers=dict.fromkeys(("layer1", "layer2", "layer3"), (100.0, 50, 5))),
    }
    ol.fit(detectors, classifier, [(x, torch.arange(images) % 10)], on_failure="raise")

    def scoring(chosen: dict[str, Any]) -> Callable[[], Any]:
        return lambda: ol.score(chosen, classifier, [x])

    jobs = {name: scoring({name: detector}) for name, detector in detectors.items()}
    jobs |= {
        "odin and i-odin": scoring({name: detectors[name] for name in ("odin", "i-odin")}),
        "all four": scoring(detectors),
        "a forward pass": scoring({"msp": ol.MSP()}),
    }
    found: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        whole = clock(lambda: classifier.gradients(x, lambda logits: logits.amax(1)))
        for name, job in jobs.items():
            found[name].append(clock(job) / whole)
    table = Table("method", "over one forward and backward pass", box=SIMPLE_HEAD)
    for name, ratios in found.items():
        table.add_row(name, f"{statistics.median(ratios):.2f}")
    Console().print(table)


def clock(job: Callable[[], Any]) -> float:
    """Seconds of the processor."""
    started = process_time()
    job()
    return process_time() - started


if __name__ == "__main__":
    app()
