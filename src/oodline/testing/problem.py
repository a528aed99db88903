"""The data and the network on which detectors are checked: three classes, each with features of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from oodline.data.batch import Batch
from oodline.model.classifier import Classifier

CLASSES, BLOCK, SAMPLES = 3, 10, 60
WIDTH = CLASSES * BLOCK
"""Features: a block of ten for each class."""
EVERYONE = list(range(SAMPLES))
UNEVEN = [1, 7, 31, 21]
"""Sizes of batches in which the samples may come."""
LABELS = torch.arange(SAMPLES) % CLASSES


def make_classifier(seed: int = 0, width: int = WIDTH) -> Classifier:
    """Global average pooling and a head in which each class is supported by a block of features of its own."""
    generator = torch.Generator().manual_seed(seed)
    head = nn.Linear(width, CLASSES)
    own = torch.arange(width) % CLASSES == torch.arange(CLASSES).unsqueeze(1)
    with torch.no_grad():
        head.weight.copy_(torch.where(own, 1.0, -0.5) + 0.1 * torch.randn(CLASSES, width, generator=generator))
        head.bias.copy_(0.1 * torch.randn(CLASSES, generator=generator))
    return Classifier(nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head))


def images_of(features: Tensor, generator: torch.Generator) -> Tensor:
    """Images whose feature map, (N, D, 2, 2), averages to about `features`; every other one shows in a corner alone."""
    corner, everywhere = torch.tensor([[4.0, 0.0], [0.0, 0.0]]), torch.ones(2, 2)
    places = torch.stack([corner, everywhere])[torch.arange(features.shape[1]) % 2]
    return features[:, :, None, None] * places * (1 + 0.1 * torch.randn(*features.shape, 2, 2, generator=generator))


def in_distribution(seed: int = 0, labels: Tensor = LABELS) -> Tensor:
    """Images in which the block of the labelled class is active."""
    generator = torch.Generator().manual_seed(100 + seed)
    own = torch.arange(WIDTH) % CLASSES == labels.unsqueeze(1)
    background = 0.05 * torch.randn(len(labels), WIDTH, generator=generator).abs()
    evidence = 0.7 + 0.2 * torch.randn(len(labels), WIDTH, generator=generator)
    return images_of(torch.where(own, evidence, background), generator)


def without_evidence(seed: int = 0) -> Tensor:
    """Images in which two features of each block are active: too few for any class, and never seen together.

    Every method should find them less familiar, whether it reads sizes, directions or distances.
    """
    generator = torch.Generator().manual_seed(200 + seed)
    rank = torch.rand(SAMPLES, BLOCK, CLASSES, generator=generator).argsort(1).flatten(1)
    background = 0.05 * torch.randn(SAMPLES, WIDTH, generator=generator).abs()
    return images_of(torch.where(rank < 2, 0.5, background), generator)


IMAGES, HELD_OUT = in_distribution(), in_distribution(5)


def batches(
    size: int | list[int] = SAMPLES, order: list[int] = EVERYONE, images: Tensor = IMAGES, labels: Tensor = LABELS
) -> list[Batch]:
    """A loader that says which sample is which, so that order and cuts cannot change what is meant."""
    return [Batch(images[part], labels[part], part) for part in torch.split(torch.tensor(order), size)]
