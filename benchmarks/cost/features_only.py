"""Fitting and scoring on given features, where no network hides what a method costs: ours over pytorch-ood's time.

    OMP_NUM_THREADS=1 python -m benchmarks.cost.features_only [--classes 10 --classes 1000] [--rounds 5]

N samples of D features behind a ReLU, their logits by a random head, and labels. Ours takes in batches of 500 as `fit`
does, statistics in float64; pytorch-ood fits on all samples at once, in float32. Both score all samples from features
and logits that are already there. Every round times both in turn; seconds are of the processor, ratios are medians.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable
from time import process_time
from typing import Any

import torch
from cyclopts import App
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from oodline.detectors.catalog import create_detector
from oodline.model.activations import Activations
from oodline.model.head import LinearHead

BATCH = 500

app = App()


@app.default
def main(
    *, classes: list[int] | None = None, samples: int = 5000, width: int = 512, rounds: int = 5, only: str = ""
) -> None:
    """Measure and print.

    Parameters
    ----------
    classes
        Sizes of the head; 10 and 1000 by default.
    samples, width
        N and D.
    rounds
        How often each job is timed.
    only
        One method, by our name.
    """
    for count in classes or [10, 1000]:
        table = Table("method", "fit", "score", title=f"ours / pytorch-ood, C={count}, N={samples}, D={width}")
        table.box = SIMPLE_HEAD
        for name, (fit, score) in ratios(count, samples, width, rounds, only).items():
            table.add_row(name, "" if fit is None else f"{fit:.2f}", f"{score:.2f}")
        Console().print(table)


def ratios(
    classes: int, samples: int, width: int, rounds: int, only: str = ""
) -> dict[str, tuple[float | None, float]]:
    """Ours over pytorch-ood's seconds by method: of fitting, None where neither does anything, and of scoring."""
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    head = LinearHead(0.05 * torch.randn(classes, width), torch.zeros(classes))
    labels = torch.arange(samples) % classes
    features = (torch.randn(samples, width) + 40 * head.weight[labels]).relu()  # classified as labelled
    logits = head(features)
    return {
        name: compare(name, theirs, Activations(features, logits, head, torch.arange(samples)), labels, rounds)
        for name, theirs in peers(head, width).items()
        if only in ("", name)
    }


class Peer:
    """A detector of pytorch-ood, by how it is made, fitted on (features, logits, labels), and scores the first two."""

    def __init__(
        self, make: Callable[[], Any], fit: Callable[..., Any] | None, score: Callable[[Any, Tensor, Tensor], Any]
    ) -> None:
        self.make, self.fit, self.score = make, fit, score


def peers(head: LinearHead, width: int) -> dict[str, Peer]:
    """The methods that both have and that features and logits suffice for."""
    from pytorch_ood import detector as ood

    layer = nn.Linear(width, head.num_classes)
    layer.weight.data, layer.bias.data = head.weight, head.bias

    def of_logits(cls: Any) -> Peer:
        return Peer(lambda: cls(nn.Identity()), None, lambda d, f, z: d.predict(z))

    def of_features(make: Callable[[], Any]) -> Peer:
        return Peer(make, lambda d, f, z, y: d.fit_features(f, y), lambda d, f, z: d.predict_features(f))

    return {
        "msp": of_logits(ood.MaxSoftmax),
        "max-logit": of_logits(ood.MaxLogit),
        "energy": of_logits(ood.EnergyBased),
        "entropy": of_logits(ood.Entropy),
        "gen": of_logits(ood.GEN),
        "mahalanobis": of_features(lambda: ood.Mahalanobis(None)),
        "relative-mahalanobis": of_features(lambda: ood.RMD(None)),
        "knn,k=50": of_features(lambda: ood.KNN(None, k=50)),
        "vim": of_features(lambda: ood.ViM(None, d=width // 2, w=head.weight, b=head.bias)),
        "she": of_features(lambda: ood.SHE(nn.Identity(), layer)),
        "fdbd": of_features(lambda: ood.fDBD(nn.Identity(), layer)),
        "nci": of_features(lambda: ood.NCI(nn.Identity(), layer)),
        "dice": of_features(lambda: ood.DICE(nn.Identity(), w=head.weight, b=head.bias, p=0.9)),
        "react": Peer(lambda: ood.ReAct(nn.Identity(), layer, threshold=1.0), None, lambda d, f, z: d.predict(f)),
    }


def compare(name: str, peer: Peer, batch: Activations, labels: Tensor, rounds: int) -> tuple[float | None, float]:
    """Both ratios of one method."""
    parts = [
        (
            Activations(batch.features[rows], batch.logits[rows], batch.head, batch.index[rows]),
            labels[rows],
        )
        for rows in (slice(start, start + BATCH) for start in range(0, len(labels), BATCH))
    ]
    fits, scores = [], []
    with torch.no_grad():
        for _ in range(rounds):
            ours, theirs = create_detector(name), peer.make()
            our_fit = clock(lambda: settle(ours, parts, batch.head))  # noqa: B023  # called at once
            their_fit = 0.0
            if peer.fit is not None:
                fit = peer.fit
                their_fit = clock(lambda: fit(theirs, batch.features, batch.logits, labels))  # noqa: B023
            ours(parts[0][0])
            our_score = clock(lambda: [ours(part) for part, _ in parts])  # noqa: B023
            their_score = clock(
                lambda: [peer.score(theirs, part.features, part.logits) for part, _ in parts]  # noqa: B023
            )
            fits.append(our_fit / their_fit if their_fit else 0.0)
            scores.append(our_score / their_score)
    return statistics.median(fits) or None, statistics.median(scores)


def settle(detector: Any, parts: list[tuple[Activations, Tensor]], head: LinearHead) -> None:
    filled = detector._requests(head)
    for part, labels in parts:
        for statistic in filled.values():
            statistic.update(part, labels)
    detector._settle(filled, head)


def clock(job: Callable[[], Any]) -> float:
    started = process_time()
    job()
    return process_time() - started


if __name__ == "__main__":
    app()
