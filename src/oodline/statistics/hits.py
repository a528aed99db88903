"""Count the samples that the classifier predicts correctly: a check that weights, labels and preprocessing fit."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from jaxtyping import Int
from torch import Tensor

from oodline.model.activations import Activations
from oodline.statistics.base import Statistic


class Hits(Statistic):
    """Number of samples whose label has the largest logit, and of all that have a label (2,), int64.

    A label of C or more is wrong. Samples with a label below 0, and batches without one label per sample, count for
    neither: detectors that read labels complain about them.

    Examples
    --------
    >>> from oodline.testing import activations_of
    >>> hits, activations = Hits(), activations_of(torch.randn(3, 2))
    >>> hits.update(activations, activations.logits.argmax(1))
    >>> hits.accuracy
    1.0
    """

    tensors: ClassVar = ("counts",)

    def __init__(self) -> None:
        self.counts: Int[Tensor, " 2"] = None  # type: ignore[assignment]

    @property
    def key(self) -> tuple[object, ...]:
        """The class."""
        return (type(self).__name__,)

    @property
    def accuracy(self) -> float | None:
        """Fraction of the labelled samples that are right, in [0, 1]; None where no sample has a label."""
        right, labelled = (0, 0) if self.empty else self.counts.tolist()
        return right / labelled if labelled else None

    def update(self, activations: Activations, labels: Tensor | None) -> None:
        """Take in one batch; see `Statistic.update`."""
        if labels is None or labels.shape != (len(activations),) or activations.logits.shape[1] == 0:
            return  # nothing to compare
        right = int((activations.logits.argmax(1).cpu() == labels.cpu()).sum())
        counts = torch.tensor([right, int((labels >= 0).sum())])
        self.counts = counts if self.empty else self.counts + counts

    def _absorb(self, other: Self) -> None:
        self.counts = self.counts + other.counts
