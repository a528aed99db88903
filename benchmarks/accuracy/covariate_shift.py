"""What harmless changes of the images do to the promised false-alarm rate.

    python -m benchmarks.accuracy.covariate_shift [NETWORK ...] [--shared ../shared] [--limit 1000] [--json]

The promise of a guard holds for images from where the held-out images came from. The same CIFAR-10 test images are
shown again after a change that leaves their class as it is: JPEG, blur, noise, brightness, contrast, a smaller size.
Beside the share that is flagged stands how many of them the classifier still gets right, since an alarm about an image
that is now misclassified is not a false one.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from benchmarks._common import load_cifar
from cyclopts import App
from PIL import Image, ImageEnhance, ImageFilter
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import oodline as ol
from oodline.cli.options import Json, print_json
from oodline.data import ImageLoader, image_loader, open_images

FALSE_ALARM = 0.05

Change = Callable[[Image.Image], Image.Image]
app = App()


def jpeg(quality: int) -> Change:
    def change(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(io.BytesIO(file.getvalue()), formats=["JPEG"])

    return change


def noise(deviation: float) -> Change:
    def change(image: Image.Image) -> Image.Image:
        pixels = np.asarray(image, dtype=np.float64)
        drawn = np.random.default_rng(int(pixels.sum())).normal(0, 255 * deviation, pixels.shape)
        return Image.fromarray((pixels + drawn).clip(0, 255).round().astype(np.uint8))

    return change


def smaller(size: int) -> Change:
    return lambda image: image.resize((size, size), Image.Resampling.BICUBIC).resize(
        image.size, Image.Resampling.BICUBIC
    )


CHANGES: dict[str, Change] = {
    "none": lambda image: image,
    "JPEG, quality 95": jpeg(95),
    "JPEG, quality 75": jpeg(75),
    "JPEG, quality 50": jpeg(50),
    "Gaussian blur, 0.5 pixels": lambda image: image.filter(ImageFilter.GaussianBlur(0.5)),
    "Gaussian blur, 1 pixel": lambda image: image.filter(ImageFilter.GaussianBlur(1)),
    "noise, 2 % of the range": noise(0.02),
    "noise, 5 % of the range": noise(0.05),
    "brightness x 0.7": lambda image: ImageEnhance.Brightness(image).enhance(0.7),
    "brightness x 1.3": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "contrast x 0.7": lambda image: ImageEnhance.Contrast(image).enhance(0.7),
    "reduced to 24 x 24 and back": smaller(24),
}


@app.default
def main(*names: str, shared: Path = Path("../shared"), limit: int = 1000, as_json: Json = False) -> None:
    """Fit and calibrate once for each classifier, then count what is flagged after each change.

    Parameters
    ----------
    names
        densenet100, resnet20; both if omitted.
    shared
        Folder with `data`.
    limit
        Test images to change; the held-out images are the other half of the test set.
    as_json
        Print one JSON document in place of the table.
    """
    found = {}
    for name in names or ("densenet100", "resnet20"):
        classifier, guards, load = prepare(name, shared / "data")
        found[name] = {
            change: flagged(classifier, guards, load("cifar10/test", slice(0, limit), act))
            for change, act in CHANGES.items()
        }
    if as_json:
        print_json({"false_alarm": FALSE_ALARM, "images": limit, "flagged": found})
        return
    for name, rows in found.items():
        table = Table(name, "accuracy", *(f"flagged by {d}" for d in rows["none"]["flagged"]), box=SIMPLE_HEAD)
        for change, row in rows.items():
            table.add_row(change, f"{row['accuracy']:.1%}", *(f"{share:.1%}" for share in row["flagged"].values()))
        Console(width=120).print(table)
    print(f"{limit} CIFAR-10 test images after each change; promised on images like the held-out: {FALSE_ALARM:.0%}.")


def prepare(
    name: str, data: Path
) -> tuple[ol.Classifier, dict[str, ol.Guard], Callable[[str, slice, Change], ImageLoader]]:
    """A classifier, its calibrated guards by name, and how to load part of a set after a change."""
    loaded = load_cifar(data / "checkpoints", name)
    classifier = ol.Classifier(loaded.model)

    def load(path: str, rows: slice, change: Change) -> ImageLoader:
        source = open_images(data / f"{path}.parquet")
        part = ol.data.Subset(source, range(*rows.indices(len(source))))
        return image_loader(part, lambda image: loaded.preprocessing(change(image.convert("RGB"))))

    unchanged = CHANGES["none"]
    detectors = {"the default": ol.default(classifier), "line": ol.LINe(clip="98%"), "energy": ol.Energy()}
    ol.fit([d for d in detectors.values() if d.has_state], classifier, load("cifar10/train", slice(None), unchanged))
    held_out = load("cifar10/test", slice(2500, None), unchanged)
    guards = {
        called: ol.Guard(classifier, detector).calibrate(held_out, false_alarm=FALSE_ALARM)
        for called, detector in detectors.items()
    }
    return classifier, guards, load


def flagged(classifier: ol.Classifier, guards: dict[str, ol.Guard], loader: ImageLoader) -> dict[str, object]:
    """The share of images that each guard flags, and that the classifier gets right."""
    right, flags = [], {name: [] for name in guards}
    for batch in loader:
        for name, guard in guards.items():
            verdict = guard(batch.inputs)
            flags[name].append(verdict.is_ood)
        right.append(verdict.label == batch.labels)
    return {
        "accuracy": float(torch.cat(right).double().mean()),
        "flagged": {name: float(torch.cat(v).double().mean()) for name, v in flags.items()},
    }


if __name__ == "__main__":
    app()
