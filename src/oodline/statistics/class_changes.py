"""Count the samples whose predicted class changes where the head reads something else than the features."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from jaxtyping import Int
from torch import Tensor

from oodline.model.activations import Activations
from oodline.statistics.base import Statistic
from oodline.statistics.sources import Source


class ClassChanges(Statistic):
    """Number of samples whose predicted class changes, and of all (2,), int64.

    Parameters
    ----------
    of : Source
        Vectors (N, D) that the head reads in place of the features.

    Examples
    --------
    >>> from oodline.statistics.sources import Contributions
    >>> from oodline.testing import activations_of
    >>> changes = ClassChanges(Contributions())
    >>> changes.update(activations_of(torch.tensor([[0.0, 2.0], [1.0, 3.0]])), None)
    >>> changes.fraction
    0.0
    """

    tensors: ClassVar = ("counts",)

    def __init__(self, of: Source) -> None:
        self.of = of
        self.counts: Int[Tensor, " 2"] = None  # type: ignore[assignment]

    @property
    def key(self) -> tuple[object, ...]:
        """The class and the source."""
        return (type(self).__name__, self.of)

    @property
    def fraction(self) -> float:
        """Share of the samples whose class changes, in [0, 1]; 0 where none was seen."""
        changed, samples = (0, 0) if self.empty else self.counts.tolist()
        return changed / samples if samples else 0.0

    def update(self, activations: Activations, labels: Tensor | None) -> None:
        """Take in one batch; labels are not used."""
        before = activations.logits.argmax(1)
        after = activations.head(self.of(activations, before)).argmax(1)
        counts = torch.tensor([int((before != after).sum()), len(activations)])
        self.counts = counts if self.empty else self.counts + counts

    def _absorb(self, other: Self) -> None:
        self.counts = self.counts + other.counts
