"""A random classifier head with labelled features, as tensors for oodline and as float64 arrays for the references."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from oodline.detectors.base import Detector
from oodline.model.activations import Activations
from oodline.model.head import LinearHead
from oodline.testing import activations_of


@dataclass(frozen=True)
class Case:
    """Features (N, D) and labels (N,) of a data set, and the head (C, D) that reads them."""

    features: Tensor
    labels: Tensor
    head: LinearHead

    @property
    def f(self) -> np.ndarray:
        return self.features.double().numpy()

    @property
    def y(self) -> np.ndarray:
        return self.labels.numpy()

    @property
    def W(self) -> np.ndarray:
        return self.head.weight.double().numpy()

    @property
    def b(self) -> np.ndarray:
        return self.head.bias.double().numpy()

    @property
    def logits(self) -> np.ndarray:
        return self.f @ self.W.T + self.b

    @property
    def activations(self) -> Activations:
        return activations_of(self.features, self.head)

    def fit(self, detector: Detector, batch: int = 16) -> Detector:
        statistics = detector._requests(self.head)
        for rows in torch.arange(len(self.features)).split(batch):
            activations = activations_of(self.features[rows], self.head).replace(index=rows)
            for statistic in statistics.values():
                statistic.update(activations, self.labels[rows])
        detector._settle(statistics, self.head)
        return detector


@pytest.fixture(scope="session")
def draw() -> Callable[..., Case]:
    """Draw a case: `draw(seed)`; features are those behind a ReLU unless `signed`."""

    def _draw(seed: int, n: int = 48, classes: int = 4, width: int = 12, *, signed: bool = False) -> Case:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(n) % classes
        features = torch.randn(n, width, generator=generator) + torch.randn(classes, width, generator=generator)[labels]
        weight = torch.randn(classes, width, generator=generator)
        bias = torch.randn(classes, generator=generator)
        return Case(features if signed else features.relu(), labels, LinearHead(weight, bias))

    return _draw


@pytest.fixture(scope="session")
def assert_equals() -> Callable[[Tensor, np.ndarray], None]:
    """Scores equal a float64 reference to single precision."""

    def _assert_equals(scores: Tensor, reference: np.ndarray) -> None:
        np.testing.assert_allclose(scores.double().numpy(), reference, rtol=1e-4, atol=1e-5)

    return _assert_equals
