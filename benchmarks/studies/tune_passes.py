"""The classifiers of the study of `tune`, and all that their networks compute for it; see tune_study.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from benchmarks._common import CIFAR_MODELS
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor

from oodline import Classifier
from oodline.data import ImageLoader, Subset, image_loader, open_images
from oodline.detectors.catalog import create_detector
from oodline.model.activations import Activations
from oodline.model.head import LinearHead
from oodline.model.zoo import load_model
from oodline.passes.fit import Reads, reads
from oodline.preprocessing.preprocessing import Preprocessing
from oodline.tuning.held_out import hold_out
from oodline.tuning.pseudo_outliers import FAR, NEAR, patch_shuffle

CIFAR = f"python:{CIFAR_MODELS}:"
FAR_SETS = ("ood/svhn", "ood/textures", "ood/scenes", "ood/mnist")
INCEPTION = Preprocessing(resize=224, crop=224, mean=(0.5,) * 3, std=(0.5,) * 3)


@dataclass(frozen=True)
class Setup:
    """A classifier, its data, and the settings that papers state for it and for another one."""

    model: str
    fit: str
    held_out: tuple[str, int, int]
    test: tuple[str, int, int]
    near: tuple[str, ...]
    far: tuple[str, ...]
    line: str
    """LINe, with what the data makes necessary."""
    paper: str
    wrong: str
    """The preset for another data set: CIFAR-10's for ImageNet and the other way round."""
    label_offset: int = 0
    preprocessing: Preprocessing | None = None
    chosen_on: bool = True
    """Whether the criterion was chosen by looking at this classifier; no for the ones that only check it."""


def cifar(model: str, own: str, other: str, paper: str, wrong: str, *, chosen_on: bool = True) -> Setup:
    held_out, test = (f"{own}/test", 4000, 5000), (f"{own}/test", 0, 4000)
    near = (f"{other}/test", "ood/tiny_imagenet")
    return Setup(model, f"{own}/train", held_out, test, near, FAR_SETS, "line", paper, wrong, chosen_on=chosen_on)


SETUPS = {
    "densenet100_cifar10": cifar(
        f"{CIFAR}densenet100", "cifar10", "cifar100", "cifar10-densenet100", "imagenet-resnet50"
    ),
    "densenet100_cifar100": cifar(
        f"{CIFAR}densenet100,num_classes=100", "cifar100", "cifar10", "cifar100-densenet100", "imagenet-resnet50"
    ),
    "mobilenetv2_imagenet": Setup(
        "timm:mobilenetv2_100,num_classes=1001,pad_type=same",
        "imagenet/sample",
        ("imagenet/val", 0, 150),
        ("imagenet/val", 150, 300),
        (),
        ("ood/textures", "ood/scenes"),
        "line,unseen=dense",
        "imagenet-resnet50",
        "cifar10-densenet100",
        label_offset=1,
        preprocessing=INCEPTION,
    ),
    "resnet20_cifar10": cifar(
        f"{CIFAR}resnet20", "cifar10", "cifar100", "cifar10-densenet100", "imagenet-resnet50", chosen_on=False
    ),
}


def pixel_shuffle(images: Tensor, generator: Generator) -> Tensor:
    """The pixels of each image in a random order."""
    n, _, height, width = images.shape
    order = torch.rand(n, height * width, generator=generator).argsort(1)
    return images.flatten(2).gather(2, order[:, None].expand(-1, images.shape[1], -1)).reshape(images.shape)


def invert(images: Tensor, generator: Generator) -> Tensor:
    """The negative of each image."""
    return 2 * images.mean((0, 2, 3), keepdim=True) - images


TRANSFORMS = {
    "near": NEAR,
    "far": FAR,
    "also": {"patch-shuffle 4": partial(patch_shuffle, grid=4), "pixel-shuffle": pixel_shuffle, "invert": invert},
}


class Store:
    """Activations of data sets, kept on disk where a folder is given."""

    def __init__(self, folder: Path | None, name: str, head: LinearHead) -> None:
        self.folder, self.name, self.head = folder, name, head

    def get(self, key: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors of that key, made where they are not there yet."""
        if self.folder is None:
            return make()
        path = self.folder / f"{self.name}.{key.replace('/', '-')}.safetensors"
        if not path.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file(make(), path)
        return load_file(path)

    def activations(self, tensors: Mapping[str, Tensor], prefix: str = "") -> Activations:
        """The record of one set."""
        features = tensors[f"{prefix}features"]
        return Activations(features, tensors[f"{prefix}logits"], self.head, torch.arange(len(features)))


@dataclass(frozen=True, eq=False)
class Passes:
    """All that the network computes for the study."""

    fit: tuple[Activations, Tensor]
    held_out: tuple[Activations, Tensor]
    pseudo: dict[str, Activations]
    test: Activations
    real: dict[str, Activations]


Load = Callable[..., ImageLoader]
"""From a data set's path, its first row (0) and the row after its last (None: all) to batches of its images."""


def open_setup(name: str, setup: Setup, data: Path) -> tuple[Classifier, Load]:
    """The classifier, and how its data sets are read."""
    loaded = load_model(setup.model, data / "checkpoints" / f"{name}.safetensors")

    def load(path: str, start: int = 0, stop: int | None = None) -> ImageLoader:
        source = open_images(data / f"{path}.parquet")
        rows = range(start, min(stop or len(source), len(source)))
        preprocessing = setup.preprocessing or loaded.preprocessing
        return image_loader(Subset(source, rows), preprocessing, batch_size=50, label_offset=setup.label_offset)

    return Classifier(loaded.model), load


def held_out_rows(setup: Setup, most: int) -> tuple[str, int, int]:
    """The last `most` of the held-out images."""
    path, start, stop = setup.held_out
    return path, max(start, stop - most), stop


def test_rows(setup: Setup, most: int) -> tuple[str, int, int]:
    """The first `most` of the test images."""
    path, start, stop = setup.test
    return path, start, min(stop, start + most)


def run_network(name: str, setup: Setup, data: Path, cache: Path | None, sizes: tuple[int, int, int]) -> Passes:
    """One pass over every data set and over every transform of the held-out images."""
    classifier, load = open_setup(name, setup, data)
    store = Store(cache, name, classifier.head)
    n_held, n_test, n_ood = sizes

    def plain(path: str, start: int = 0, stop: int | None = None) -> dict[str, Tensor]:
        def make() -> dict[str, Tensor]:
            parts = list(classifier.stream(load(path, start, stop)))
            labels = [torch.full((len(a),), -1) if y is None else y for a, y in parts]
            tensors = {"features": torch.cat([a.features for a, _ in parts])}
            return tensors | {"logits": torch.cat([a.logits for a, _ in parts]), "labels": torch.cat(labels)}

        return store.get(f"{path}.{start}.{stop}", make)

    def transformed() -> dict[str, Tensor]:
        asked: Reads = reads([create_detector(setup.line)])
        loader = load(*held_out_rows(setup, n_held))
        made = hold_out(classifier, loader, TRANSFORMS, asked, limit=n_held, seed=0, shown=True)
        assert made.labels is not None
        sets = {"ids": made.ids} | {k: v for group in made.outliers.values() for k, v in group.items()}
        tensors = {"labels": made.labels}
        for key, activations in sets.items():
            tensors |= {f"{key}.features": activations.features, f"{key}.logits": activations.logits}
        return tensors

    fit, held = plain(setup.fit), store.get(f"pseudo.{n_held}", transformed)
    return Passes(
        fit=(store.activations(fit), fit["labels"]),
        held_out=(store.activations(held, "ids."), held["labels"]),
        pseudo={key: store.activations(held, f"{key}.") for group in TRANSFORMS.values() for key in group},
        test=store.activations(plain(*test_rows(setup, n_test))),
        real={key: store.activations(plain(key, 0, n_ood)) for key in (*setup.near, *setup.far)},
    )
