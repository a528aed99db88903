"""A small convolutional classifier with labelled images, the same in every process that builds it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import oodline as ol
from oodline.detectors.base import Detector
from oodline.detectors.paper import Paper
from oodline.model.activations import Activations, Needs
from oodline.model.head import LinearHead
from oodline.passes.engine import Engine
from oodline.scoring.score import score_all
from oodline.statistics import ClassMoments, Covariance, Quantiles, Reservoir, Statistic

IMAGES, CLASSES, BATCH = 300, 5, 16


def network() -> nn.Module:
    torch.manual_seed(1)
    body = [nn.Conv2d(3, 24, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*body, nn.Linear(24, CLASSES))


class Images(Dataset):
    """Random images, one tint per class; the image `broken`, if any, holds NaN."""

    def __init__(self, n: int = IMAGES, broken: int | None = None) -> None:
        generator = torch.Generator().manual_seed(2)
        self.labels = torch.arange(n) % CLASSES
        tint = torch.randn(CLASSES, 3, 1, 1, generator=generator)
        self.images = torch.randn(n, 3, 8, 8, generator=generator) + tint[self.labels]
        if broken is not None:
            self.images[broken, 0, 0, 0] = torch.nan

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.images[i], self.labels[i]


def loader(**changes: int | None) -> DataLoader:
    return DataLoader(Images(**changes), BATCH)


class Spy(Detector):
    """Keeps the statistics of a pass."""

    name = "spy"
    paper = Paper("none", "none 2024")
    needs = Needs.FEATURES

    def statistics(self, head: LinearHead) -> dict[str, Statistic]:
        return {
            "moments": ClassMoments(variance=True),
            "covariance": Covariance(),
            "quantiles": Quantiles(),
            "reservoir": Reservoir(40, by="label"),
        }

    def estimate(self, head: LinearHead, **statistics: Statistic) -> None:
        self.found = {f"{kind}.{name}": t for kind, s in statistics.items() for name, t in s.state_dict().items()}

    def score(self, activations: Activations) -> Tensor:
        return activations.features[:, 0]


def detectors() -> list[Detector]:
    return [ol.LINe(p_a=0.5, p_w=0.5, clip=0.5), ol.Mahalanobis(), ol.KNN(k=3), ol.ReAct()]


def fitted(engine: Engine, data: DataLoader, scorer: Engine | None = None) -> dict[str, Tensor]:
    """Everything that a fit by `engine` gave, and a pass of scores by `scorer`, or by the same engine."""
    classifier, spy, made = ol.Classifier(network()), Spy(), detectors()
    ol.fit([spy, *made], classifier, data, engine=engine)
    found = spy.found | {f"{d.name}.{name}": t for d in made for name, t in d.state_dict().items()}
    scores = score_all(made, classifier, data, engine=scorer or engine)
    found |= {f"scores.{name}": t for name, t in scores.scores.items()}
    found |= {"scored": scores.index, "predicted": scores.predicted, "labels": scores.labels}
    return {key: tensor.contiguous() for key, tensor in found.items()}
