"""Record which samples were counted, as intervals of their positions, so that counting one twice is an error.

A sum cannot tell that a shard went into it twice. The engines therefore keep this record beside the statistics that
they merge. Shares that are read in order are a few intervals, however many samples they hold.
"""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from jaxtyping import Int
from torch import Tensor

from oodline.errors import StatisticsError
from oodline.model.activations import Activations
from oodline.statistics.base import Statistic

MOST = 2**20
"""Largest number of intervals that are kept: 16 MB."""


class Seen(Statistic):
    """Positions that were taken in: disjoint half-open intervals in ascending order.

    Raises
    ------
    StatisticsError
        On `update` and `merge`: a sample was already taken in, or the positions lie in more than `MOST` pieces.

    Examples
    --------
    >>> from oodline.testing import activations_of
    >>> seen = Seen()
    >>> seen.update(activations_of(torch.ones(3, 2)).replace(index=torch.tensor([4, 0, 1])), None)
    >>> seen.intervals
    tensor([[0, 2],
            [4, 5]])
    >>> seen.total, seen.missing(6)
    (3, [2, 3, 5])
    """

    tensors: ClassVar = ("intervals",)
    rows_may_differ: ClassVar = True

    def __init__(self) -> None:
        self.intervals: Int[Tensor, "r 2"] = None  # type: ignore[assignment]

    @property
    def key(self) -> tuple[object, ...]:
        """The class."""
        return (type(self).__name__,)

    @property
    def total(self) -> int:
        """Number of samples."""
        return 0 if self.empty else int((self.intervals[:, 1] - self.intervals[:, 0]).sum())

    def missing(self, n: int) -> list[int]:
        """Positions below `n` that were not taken in."""
        left: list[int] = []
        start = 0
        for first, end in [] if self.empty else self.intervals.tolist():
            left += range(start, min(first, n))
            start = end
        return left + list(range(start, n))

    def update(self, activations: Activations, labels: Tensor | None) -> None:
        """Take in one batch; labels are not used."""
        index = activations.samples.cpu().long()
        if len(index):
            self._take(torch.stack([index, index + 1], dim=1))

    def _absorb(self, other: Self) -> None:
        self._take(other.intervals)

    def _take(self, intervals: Tensor) -> None:
        both = intervals if self.empty else torch.cat([self.intervals, intervals])
        first, end = both[both[:, 0].argsort()].unbind(1)
        twice = first[1:] < end[:-1]
        if bool(twice.any()):
            raise StatisticsError(
                f"sample {int(first[1:][twice][0])} was counted twice: two shares of the data hold it. Let every "
                "process open the whole data set in the same order, and the engine divide it."
            )
        apart = torch.ones(len(first) + 1, dtype=torch.bool)
        apart[1:-1] = first[1:] != end[:-1]
        joined = torch.stack([first[apart[:-1]], end[apart[1:]]], dim=1)
        if len(joined) > MOST:
            raise StatisticsError(
                f"the positions of the samples lie in more than {MOST} pieces. Read the data in order, not shuffled."
            )
        self.intervals = joined
