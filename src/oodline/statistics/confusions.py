"""Count how often samples of each label are predicted as each class, to detect labels in another class order."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Tensor

from oodline.model.activations import Activations
from oodline.statistics.base import Statistic

WAITING = 2**16
"""Samples that are gathered before they are counted."""


class Confusions(Statistic):
    """The cells of the confusion matrix that are not zero (K, 3), int64: label, predicted class, number of samples.

    Sparse, since a matrix of 21,000 classes would take 3.5 GB. Labels below 0, and batches without labels or with other
    than one number per sample, do not count.

    Examples
    --------
    >>> from oodline.testing import activations_of
    >>> confusions, activations = Confusions(), activations_of(torch.eye(3))
    >>> confusions.update(activations, activations.logits.argmax(1))
    >>> confusions.cells[:, 2].sum()
    tensor(3)
    """

    tensors: ClassVar = ("cells",)
    rows_may_differ: ClassVar = True

    def __init__(self) -> None:
        self._cells: Tensor | None = None
        self._waiting: list[Tensor] = []

    @property
    def key(self) -> tuple[object, ...]:
        """The class."""
        return (type(self).__name__,)

    @property
    def cells(self) -> Tensor | None:
        """The cells, in ascending order; None where there are none."""
        if self._waiting:
            self._cells = _count(torch.cat(self._waiting if self._cells is None else [self._cells, *self._waiting]))
            self._waiting = []
        return self._cells

    @cells.setter
    def cells(self, value: Tensor | None) -> None:
        self._cells, self._waiting = value, []

    def update(self, activations: Activations, labels: Tensor | None) -> None:
        """Take in one batch; see `Statistic.update`."""
        if labels is None or labels.shape != (len(activations),) or labels.is_floating_point():
            return
        if activations.logits.shape[1] == 0:  # features alone: nothing is predicted
            return
        labels, predicted = labels.cpu().long(), activations.logits.argmax(1).cpu()
        pairs = torch.stack([labels, predicted, torch.ones_like(labels)], dim=1)[labels >= 0]
        if len(pairs):
            self._waiting.append(pairs)
        if sum(map(len, self._waiting)) >= WAITING:
            _ = self.cells

    def _absorb(self, other: Self) -> None:
        parts = [part for part in (self.cells, other.cells) if part is not None]
        self.cells = _count(torch.cat(parts))


def _count(rows: Tensor) -> Tensor:
    pairs, place = torch.unique(rows[:, :2], dim=0, return_inverse=True)
    return torch.cat([pairs, torch.zeros(len(pairs), 1, dtype=torch.long).index_add_(0, place, rows[:, 2:])], dim=1)
