"""What fitting LINe on few images per class does, on CIFAR-100 with the DenseNet checkpoint of the paper.

    python -m benchmarks.studies.few_samples [--shared ../shared] [--json]

The network runs once over each set; LINe is then fitted on the first n training images of each class, for several n.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from benchmarks._common import load_cifar
from cyclopts import App
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from oodline import Classifier, Energy, LINe
from oodline.cli.options import Json, print_json
from oodline.data import image_loader, open_images
from oodline.errors import FewSamplesWarning
from oodline.evaluation.metrics import auroc
from oodline.model.activations import Activations

OOD = ("svhn", "textures", "scenes", "tiny_imagenet", "mnist")

app = App()


@app.default
def main(*, shared: Path = Path("../shared"), as_json: Json = False) -> None:
    """Fit on 1, 2, 5, 10 and 50 images per class, and print AUROC against each OOD set.

    Parameters
    ----------
    shared
        Folder with `data`.
    as_json
        Print one JSON document in place of the table.
    """
    data = shared / "data"
    loaded = load_cifar(data / "checkpoints", "densenet100", 100)
    classifier = Classifier(loaded.model)

    def stream(path: Path, limit: int | None) -> Iterator[tuple[Activations, torch.Tensor]]:
        return classifier.stream(image_loader(open_images(path), loaded.preprocessing, limit=limit))

    train = list(stream(data / "cifar100" / "train.parquet", None))
    labels = torch.cat([batch for _, batch in train])
    # how many images of its class came before each image
    rank = torch.zeros_like(labels)
    for c in range(100):
        rows = labels == c
        rank[rows] = torch.arange(int(rows.sum()))
    tests = {"id": list(stream(data / "cifar100" / "test.parquet", 1000))}
    tests |= {name: list(stream(data / "ood" / f"{name}.parquet", 400)) for name in OOD}
    full = fit_on(classifier, train, rank < 50)
    rows = []
    for n in (1, 2, 5, 10, 50):
        detector = fit_on(classifier, train, rank < n)
        same = (detector.threshold.isinf() == full.threshold.isinf()).double().mean()
        rows.append({"fitted on": f"LINe, {n} a class", "same neurons": 100 * float(same), **areas(detector, tests)})
    rows.append({"fitted on": "energy", "same neurons": None, **areas(Energy(), tests)})
    if as_json:
        print_json({"rows": rows})
        return
    table = Table(*rows[0], box=SIMPLE_HEAD)
    for row in rows:
        table.add_row(*("" if v is None else v if isinstance(v, str) else f"{v:.1f}" for v in row.values()))
    Console().print("AUROC, %; same neurons: masks that agree with those of 50 images per class, %", table)


def fit_on(classifier: Classifier, batches: list[tuple[Activations, torch.Tensor]], chosen: torch.Tensor) -> LINe:
    """LINe with the paper's CIFAR-100 setting, fitted on the chosen samples."""
    detector, head = LINe(p_a=0.1, p_w=0.9, clip=1.0), classifier.head
    statistics = detector._requests(head)
    for activations, labels in batches:
        rows = chosen[activations.index]
        part = Activations(activations.features[rows], activations.logits[rows], head, activations.index[rows])
        for statistic in statistics.values():
            statistic.update(part, labels[rows])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewSamplesWarning)
        detector._settle(statistics, head)
    return detector


def areas(detector: LINe | Energy, tests: dict[str, list[tuple[Activations, torch.Tensor]]]) -> dict[str, float]:
    scores = {name: torch.cat([detector(activations) for activations, _ in test]) for name, test in tests.items()}
    found = {name: 100 * auroc(scores["id"], scores[name]) for name in OOD}
    return {**found, "mean": sum(found.values()) / len(found)}


if __name__ == "__main__":
    app()
