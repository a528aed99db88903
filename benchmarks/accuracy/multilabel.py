"""Multi-label: a small network that tells which of eight digits lie on a canvas, and canvases with anything else.

    python -m benchmarks.accuracy.multilabel [--shared ../shared] [--output FILE] [--json]

It trains the network on one core in some minutes, fits all detectors in one pass without labels, and prints AUROC and
FPR at 95 % TPR for four kinds of OOD canvas. Training, held-out and test canvases share no digit and no texture.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import torch
from benchmarks._canvases import KNOWN, Canvases, Kind, Split
from cyclopts import App
from torch import Tensor, nn

import oodline as ol
from oodline.cli.options import Json, print_json
from oodline.evaluation.metrics import auroc, fpr_at_tpr_id_positive
from oodline.evaluation.rendering import markdown

DETECTORS = {
    "joint-energy": "joint-energy",
    "its maximum (top=1)": "joint-energy,top=1",
    "its two largest (top=2)": "joint-energy,top=2",
    "max-logit": "max-logit",
    "react,scorer=joint-energy": "react,scorer=joint-energy",
    "knn,k=10": "knn,k=10",
    "mahalanobis,by=all": "mahalanobis,by=all",
    "residual": "residual",
    "neco": "neco",
    "feature-norm": "feature-norm",
    "joint-energy and knn, fused": "fuse,detectors=joint-energy+knn:k=10",
}
OOD: dict[str, tuple[tuple[int, int, Kind], ...]] = {
    "unknown digits": ((0, 1, "digits"), (0, 2, "digits"), (0, 3, "digits")),
    "letters": ((0, 1, "letters"), (0, 2, "letters"), (0, 3, "letters")),
    "no object": ((0, 0, "digits"),),
    "known with unknown": ((1, 1, "digits"), (2, 1, "letters")),
}
"""Known digits, unknown objects and their kind, in turn."""
ID = tuple((digits, 0, "digits") for digits in (1, 2, 3))

app = App()


def network() -> nn.Sequential:
    """Five convolutions, average pooling and a linear head; 64 rectified features."""

    def block(inside: int, outside: int, stride: int) -> list[nn.Module]:
        return [
            nn.Conv2d(inside, outside, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
        ]

    return nn.Sequential(
        *block(3, 16, 2),
        *block(16, 32, 2),
        *block(32, 32, 1),
        *block(32, 64, 2),
        *block(64, 64, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, KNOWN),
    )


def draw(
    shared: Path, split: Split, count: int, kinds: tuple[tuple[int, int, Kind], ...] = ID, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Images (N, 3, 64, 64) in [0, 1] and label sets (N, 8)."""
    source = Canvases(shared, split, seed)
    made = []
    for i in range(count):
        digits, unknown, kind = kinds[i % len(kinds)]
        made.append(source.canvas(i, digits, unknown, kind=kind))
    images = torch.stack([torch.from_numpy(each.image) for each in made])
    return images.float() / 255, torch.stack([torch.from_numpy(each.labels) for each in made])


def train(images: Tensor, labels: Tensor, epochs: int, seed: int = 0) -> nn.Module:
    """The network, trained with a sigmoid per label."""
    torch.manual_seed(seed)
    model, batch = network(), 64
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=1e-2)
    steps = epochs * (len(images) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 6e-3, total_steps=steps)
    loss = nn.BCEWithLogitsLoss()
    for _ in range(epochs):
        order = torch.randperm(len(images))
        for rows in order[: len(images) // batch * batch].split(batch):
            optimiser.zero_grad()
            loss(model(images[rows]), labels[rows].float()).backward()
            optimiser.step()
            schedule.step()
    return model.eval()


def batches(images: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(images.split(256), labels.split(256), strict=True))


@app.default
def main(
    *,
    shared: Path = Path("../shared"),
    samples: int = 8_000,
    epochs: int = 12,
    test: int = 1_000,
    output: Path | None = None,
    as_json: Json = False,
) -> None:
    """Train, fit, score.

    Parameters
    ----------
    shared
        Folder with `data/ood/mnist.parquet` and `data/ood/textures.parquet`.
    samples, epochs
        Of the training.
    test
        Canvases of each set.
    output
        File for the table.
    as_json
        Print the numbers as JSON.
    """
    started = time.perf_counter()
    images, labels = draw(shared, "train", samples)
    model = train(images, labels, epochs)
    seconds = time.perf_counter() - started
    classifier = ol.Classifier(model, task="multilabel")
    held_out, _ = draw(shared, "held-out", test)
    known, sets = draw(shared, "test", test)
    unknown = {name: draw(shared, "test", test, kinds, seed=1)[0] for name, kinds in OOD.items()}

    # new canvases: those that the network was trained on give it more evidence than any others
    fresh = batches(*draw(shared, "train", 4_000, seed=1))
    detectors = {name: ol.create_detector(each) for name, each in DETECTORS.items()}
    ol.fit(detectors, classifier, fresh)
    guards = {name: ol.Guard(classifier, each).calibrate(held_out.split(256)) for name, each in detectors.items()}
    scores = {
        name: ol.score(detectors, classifier, each.split(256)) for name, each in {"test": known, **unknown}.items()
    }
    verdict = ol.Guard(classifier, detectors["joint-energy"], guards["joint-energy"].calibration)(known)
    assert verdict.labels is not None
    right = (verdict.labels == sets.bool()).double().mean(), (verdict.labels == sets.bool()).all(1).double().mean()

    found = {}
    for name, guard in guards.items():
        inside = scores["test"][name]
        assert guard.calibration is not None
        flagged = float(guard.calibration.is_ood(inside, verdict.label).double().mean())
        row: dict[str, float] = {"false alarms": flagged}
        for kind in OOD:
            row[f"{kind}: AUROC"] = auroc(inside, scores[kind][name])
            row[f"{kind}: FPR"] = fpr_at_tpr_id_positive(inside, scores[kind][name])
        found[name] = row
    about = {"label accuracy": float(right[0]), "all labels right": float(right[1]), "training seconds": seconds}
    if as_json:
        print_json({**about, "detectors": found})
        return
    text = "\n".join(lines(about, found, test))
    print(text)
    if output is not None:
        output.write_text(text + "\n", encoding="utf-8")


def lines(about: dict[str, float], found: dict[str, dict[str, float]], test: int) -> Iterator[str]:
    yield (
        f"{about['label accuracy']:.1%} of the labels of {test} test canvases are right, all eight on "
        f"{about['all labels right']:.1%}. AUROC / FPR at 95 % TPR in %; false alarms at a promised 5 %."
    )
    yield ""
    rows = [
        [
            name,
            *(f"{100 * row[f'{kind}: AUROC']:.1f} / {100 * row[f'{kind}: FPR']:.1f}" for kind in OOD),
            f"{100 * row['false alarms']:.1f}",
        ]
        for name, row in found.items()
    ]
    yield from markdown(["detector", *OOD, "false alarms"], rows)


if __name__ == "__main__":
    app()
