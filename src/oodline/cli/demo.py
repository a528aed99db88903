"""`oodline demo`: train, fit, calibrate and evaluate, offline, on data that ships with scikit-learn."""

from __future__ import annotations

import warnings
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated

from oodline._util.files import write_atomically
from oodline.cli.options import Json, print_json
from oodline.cli.parameters import OUTPUT
from oodline.cli.printing import say
from oodline.errors import AssumptionWarning, missing_extra

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

SHOWN = ("line", "msp", "max-logit", "energy", "react", "dice", "ash-s", "mahalanobis", "knn", "kl-matching")
"""One detector of each kind; `oodline methods` lists all."""


def demo(*, output: Annotated[Path, OUTPUT] = Path("oodline-demo"), json: Json = False) -> None:
    """Train a small network on 8 of the 10 digits, fit detectors, and evaluate them on OOD images.

    Near-OOD images are the other two digits; far-OOD images are patches of photographs, and noise. It takes under a
    minute, and needs no internet connection: the data ships with scikit-learn.

    Parameters
    ----------
    output
        Folder to write the figure, the table and the guard file to.
    json
        Print one JSON document on standard output and nothing else.
    """
    try:
        import matplotlib  # noqa: F401
        import sklearn  # noqa: F401
    except ImportError as error:
        raise missing_extra(error.name or "scikit-learn", "demo", "the demo's data and picture") from error
    import torch

    import oodline as ol
    from oodline.cli.demo_picture import draw
    from oodline.cli.detectors import create_all
    from oodline.cli.options import table_console
    from oodline.evaluation.rendering import print_table

    started = perf_counter()
    torch.manual_seed(0)
    sets = demo_data()
    model = train(*sets["train"])
    classifier = ol.Classifier(model)
    accuracy = float((classifier(sets["test"][0]).logits.argmax(1) == sets["test"][1]).float().mean())

    default = ol.default(classifier)
    detectors = {default.name: default, **create_all(list(SHOWN))}
    with warnings.catch_warnings():  # a table of methods shows those too that do not fit this small network
        warnings.simplefilter("ignore", AssumptionWarning)
        ol.fit(list(detectors.values()), classifier, batches(*sets["train"]))
    guard = ol.Guard(classifier, default, class_names=[str(c) for c in range(8)])
    guard.calibrate(batches(*sets["calibration"]), false_alarm=0.05)

    ood = {name: batches(*sets[name]) for name in ("digits 8, 9", "photographs", "noise")}
    table = ol.evaluate(detectors, classifier, batches(*sets["test"]), ood)
    flagged = {name: float(guard(sets[name][0]).is_ood.float().mean()) for name in ("test", *ood)}

    output.mkdir(parents=True, exist_ok=True)
    guard.save(output / "guard.safetensors")
    write_atomically(output / "table.csv", lambda file: file.write(table.to_csv().encode()))
    shown = {"digits 0 to 7": sets["test"][0], **{name: sets[name][0] for name in ood}}
    picture = draw(guard, shown, output / "scores.png")
    seconds = perf_counter() - started
    if json:
        print_json(
            {"accuracy": accuracy, "rows": table.rows(), "flagged": flagged, "seconds": seconds, "output": str(output)}
        )
        return
    say(f"A network that knows the digits 0 to 7 ({accuracy:.1%} right), fitted and evaluated in {seconds:.1f} s.\n")
    print_table(table, table_console())
    say("\nFlagged by the default detector (fuse), calibrated to flag at most 5 % of ID images:")
    for name, rate in flagged.items():
        say(f"  {'digits 0 to 7 (false alarms)' if name == 'test' else name:30} {rate:6.1%}")
    say(f"\nWrote {picture}, {output / 'table.csv'} and {output / 'guard.safetensors'}. Next:")
    say("  oodline methods")
    say("with a classifier and images of your own:")
    say("  oodline fit --model timm:resnet50 --data imagenet/train --calibrate imagenet/val -o guard.safetensors")
    say("  oodline score guard.safetensors images/ -o scores.parquet")


def demo_data() -> dict[str, tuple[Tensor, Tensor]]:
    """Images (N, 1, 8, 8) in [0, 1] and labels by set: train, calibration, test; digits 8, 9; photographs; noise."""
    import numpy as np
    import torch
    from sklearn.datasets import load_digits, load_sample_images

    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target)
    known = torch.nonzero(labels < 8).flatten()
    known = known[torch.randperm(len(known), generator=torch.Generator().manual_seed(0))]
    parts = {"train": known[:832], "calibration": known[832:1132], "test": known[1132:]}
    sets = {name: (images[part], labels[part]) for name, part in parts.items()}
    unknown = labels >= 8
    sets["digits 8, 9"] = (images[unknown], labels[unknown])

    random = np.random.default_rng(0)
    greys = [photo.mean(2) / 255 for photo in load_sample_images().images]
    corners = [(greys[i % 2], *random.integers(0, [s - 8 for s in greys[i % 2].shape])) for i in range(300)]
    patches = np.stack([grey[y : y + 8, x : x + 8] for grey, y, x in corners])
    none = torch.full((300,), -1)
    sets["photographs"] = (torch.tensor(patches, dtype=torch.float32).unsqueeze(1), none)
    sets["noise"] = (torch.rand(300, 1, 8, 8, generator=torch.Generator().manual_seed(0)), none)
    return sets


def train(images: Tensor, labels: Tensor, epochs: int = 20) -> nn.Module:
    """Train a small convolutional network in seconds."""
    import torch
    from torch import nn

    layers: list[nn.Module] = []
    for channels, width, stride in ((1, 32, 1), (32, 64, 2), (64, 256, 1)):
        layers += [nn.Conv2d(channels, width, 3, stride, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 8))
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).reshape(-1, 64):
            loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return model.eval()


def batches(images: Tensor, labels: Tensor) -> torch.utils.data.DataLoader[tuple[Tensor, ...]]:
    """A PyTorch `DataLoader`."""
    from torch.utils.data import DataLoader, TensorDataset

    return DataLoader(TensorDataset(images, labels), batch_size=100)
