"""Basic facts of the features: number of samples, fraction of zeros and of negatives, and how their length varies."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from oodline.model.activations import Activations
from oodline.statistics.base import Statistic


class Facts(Statistic):
    """Samples by predicted class (C,); of all features how many there are, are zero, and are negative; their lengths.

    Needs no labels, so that any detector can ask for it.

    Examples
    --------
    >>> from oodline.testing import activations_of
    >>> facts = Facts()
    >>> facts.update(activations_of(torch.tensor([[0.0, 2.0], [-1.0, 3.0]])), None)
    >>> facts.samples, facts.zeros, facts.negatives, facts.count.tolist()
    (2, 0.25, 0.25, [0, 2])
    """

    tensors: ClassVar = ("count", "entries")

    def __init__(self) -> None:
        self.count: Int[Tensor, " c"] = None  # type: ignore[assignment]
        self.entries: Float[Tensor, " 5"] = None  # type: ignore[assignment]

    @property
    def key(self) -> tuple[object, ...]:
        """The class alone."""
        return (type(self).__name__,)

    @property
    def samples(self) -> int:
        """How many were seen."""
        return int(self.count.sum())

    @property
    def zeros(self) -> float:
        """Share of the features that are exactly zero."""
        return float(self.entries[1] / self.entries[0])

    @property
    def negatives(self) -> float:
        """Share of the features that are below zero."""
        return float(self.entries[2] / self.entries[0])

    @property
    def norm_spread(self) -> float:
        """Standard deviation of |f| over its mean; 0 where all are zero."""
        mean, square = float(self.entries[3]) / self.samples, float(self.entries[4]) / self.samples
        return float(max(0.0, square - mean**2) ** 0.5 / mean) if mean else 0.0

    def update(self, activations: Activations, labels: Tensor | None) -> None:
        """Take in one batch; labels are not used."""
        features = activations.features
        classes = activations.logits.shape[1]
        if classes:
            count = torch.bincount(activations.logits.argmax(1).cpu(), minlength=classes)
        else:  # features alone: nothing is predicted
            count = torch.tensor([len(features)])
        norms = torch.linalg.vector_norm(features, dim=1, dtype=torch.float64)
        signs = [int(torch.count_nonzero(features == 0)), int(torch.count_nonzero(features < 0))]
        sizes = [float(features.numel()), *map(float, signs), float(norms.sum()), float(norms.square().sum())]
        entries = torch.tensor(sizes, dtype=torch.float64)
        self.count = count if self.count is None else self.count + count
        self.entries = entries if self.entries is None else self.entries + entries

    def _absorb(self, other: Self) -> None:
        self.count = self.count + other.count
        self.entries = self.entries + other.entries
