"""The ratios that matter, in under three minutes on two cores: `make bench-quick`.

    OMP_NUM_THREADS=1 python -m benchmarks.cost.quick [--rounds 3] [--append docs/results/ratios.md]

Each is the median of ratios taken in turn within a round, of seconds that the process computed; nothing fails. With
`--append` they are also written as one row, under the version, so that a release can be compared with those before.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmarks._common import load_example
from benchmarks.cost.features_only import ratios
from benchmarks.cost.overhead import bare_pass, clock
from cyclopts import App
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from oodline import Classifier, LINe, __version__, default, fit, score
from oodline.detectors.parts.masked_linear import masked_linear

PEERS = ("msp", "knn,k=50", "mahalanobis")
"""Methods that are compared with pytorch-ood's on given features."""

app = App()


@app.default
def main(*, rounds: int = 3, append: Path | None = None) -> None:
    """Measure and print.

    Parameters
    ----------
    rounds
        How often each is timed.
    append
        A Markdown file to whose table a row is added; it is begun where there is none.
    """
    torch.manual_seed(0)
    found = {**of_a_pass(rounds), **of_the_head(rounds), **of_features(rounds)}
    table = Table("what", "ratio", box=SIMPLE_HEAD)
    for name, ratio in found.items():
        table.add_row(name, f"{ratio:.2f}")
    Console().print(table)
    if append is not None:
        add_row(append, found)


def add_row(path: Path, found: dict[str, float]) -> None:
    """Add a row to the table at the end of a Markdown file."""
    header = f"| version | {' | '.join(found)} |\n|{'---|' * (len(found) + 1)}\n"
    before = path.read_text() if path.exists() else "# Ratios per release\n\n"
    if header not in before:
        before += header
    path.write_text(f"{before}| {__version__} | {' | '.join(f'{ratio:.2f}' for ratio in found.values())} |\n")


def of_a_pass(rounds: int, images: int = 100) -> dict[str, float]:
    """Fitting and scoring over the bare pass of a DenseNet-100 on 32 x 32 images."""
    classifier = Classifier(load_example("cifar_models").densenet100(num_classes=10))
    loader = [(torch.randn(50, 3, 32, 32), torch.arange(50) % 10) for _ in range(images // 50)]
    fused = default(classifier).fit(classifier, loader)
    line = LINe(p_a=0.9, p_w=0.9, clip=1.0).fit(classifier, loader)
    return over(
        lambda: bare_pass(classifier, loader),
        {
            "fit LINe / pass": lambda: fit([LINe(p_a=0.9, p_w=0.9, clip=1.0)], classifier, loader),
            "score LINe / pass": lambda: score(line, classifier, loader),
            "score default / pass": lambda: score(fused, classifier, loader),
        },
        rounds,
    )


def of_the_head(rounds: int, classes: int = 1000, width: int = 2048, batch: int = 64) -> dict[str, float]:
    """LINe's head over a plain one, every sample of a class of its own; and its floor, see `own_product`."""
    weight, bias, h = torch.randn(classes, width), torch.zeros(classes), torch.rand(batch, width)
    threshold = torch.full((classes, width), -1.28)  # a tenth is pruned
    c = torch.randperm(classes)[:batch]
    return over(
        lambda: torch.nn.functional.linear(h, weight, bias),
        {
            "LINe's head / head": lambda: masked_linear(h, weight, bias, threshold, c),
            "one product per sample / head": lambda: own_product(h, weight, bias),
        },
        rounds,
    )


def own_product(h: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, tile: int = 128) -> None:
    """The plain head, sample by sample on tiles that stay in the cache: no mask per class can cost less."""
    for start in range(0, len(weight), tile):
        part, offset = weight[start : start + tile], bias[start : start + tile]
        for sample in h:
            torch.addmv(offset, part, sample)


def of_features(rounds: int) -> dict[str, float]:
    """Ours over pytorch-ood's seconds of scoring given features; nothing where that is not installed."""
    try:
        found = [(name.split(",")[0], ratios(100, 2000, 256, rounds, name)[name]) for name in PEERS]
    except ImportError:
        return {}
    return {f"{name} / pytorch-ood": score for name, (_, score) in found}


def over(base: Callable[[], Any], jobs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median of the ratios of each job to the base."""
    found: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        seconds = clock(base)
        for name, job in jobs.items():
            found[name].append(clock(job) / seconds)
    return {name: statistics.median(ratios_) for name, ratios_ in found.items()}


if __name__ == "__main__":
    app()
