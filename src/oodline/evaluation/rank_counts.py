"""How many ID and OOD rows have each score, of any number of rows, in memory that is bounded."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import Self

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from oodline._util.ranges import Count
from oodline.errors import InputError
from oodline.evaluation.counts import Counts

MOST = 2**18
"""Different scores that are told apart, unless told otherwise: 6 MB."""


class RankCounts:
    """Counts of ID and OOD rows by score: exact while there are at most `most` different scores.

    With more, as many of the last bits of the scores (as float64) are dropped as needed, so that two scores that differ
    by more than a part 2**(bits - 52) of themselves are still told apart, and others count as equal. What comes out
    depends on the scores alone, not on their order, their batches or how parts are merged.

    Parameters
    ----------
    most : int
        Different scores to tell apart at most; 24 bytes each.

    Examples
    --------
    >>> ranks = RankCounts()
    >>> ranks.add(torch.tensor([2.0, 3.0, 1.0]), torch.tensor([[1, 0], [2, 0], [0, 4]]))
    >>> counts = ranks.counts()
    >>> counts.id, counts.ood, ranks.bits
    (array([0, 1, 2]), array([4, 0, 0]), 0)
    """

    def __init__(self, most: Count = MOST) -> None:
        self.most = most
        self.bits = 0
        """How many of a score's last bits were dropped."""
        self._keys = torch.zeros(0, dtype=torch.int64)
        self._counts = torch.zeros(0, 2, dtype=torch.int64)

    def add(self, scores: Float[Tensor, " m"], counts: Int[Tensor, "m 2"]) -> None:
        """Add rows (M,), each with its score, its number of ID pixels and its number of OOD pixels.

        Raises
        ------
        InputError
            A score that counts is NaN.
        """
        scores, counts = scores.detach().cpu(), counts.cpu()
        kept = counts.sum(1) > 0
        scores, counts = scores[kept].double(), counts[kept]
        if missing := int(scores.isnan().sum()):
            raise InputError(f"{missing} of {len(scores)} scores are NaN: no metric is defined on them.")
        self._take(ordered(scores) >> self.bits, counts)

    def merge(self, other: Self) -> Self:
        """Take in all that `other` has counted."""
        bits = max(self.bits, other.bits)
        self._drop(bits - self.bits)
        self._take(other._keys >> (bits - other.bits), other._counts)
        return self

    def counts(self) -> Counts:
        """Counts at each score, ascending."""
        found = self._counts.numpy().T
        if 2 * float(found[0].sum()) * float(found[1].sum()) > 2**62:  # of pairs: more than an integer holds
            found = found.astype(np.float64)
        return Counts(found[0], found[1])

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors to send, by name."""
        return {"keys": self._keys, "counts": self._counts, "bits": torch.tensor(self.bits)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore from `state_dict()`."""
        self._keys, self._counts, self.bits = state["keys"], state["counts"], int(state["bits"])

    def _take(self, keys: Tensor, counts: Tensor) -> None:
        self._keys, place = torch.unique(torch.cat([self._keys, keys]), return_inverse=True)
        whole = torch.cat([self._counts, counts])
        self._counts = torch.zeros(len(self._keys), 2, dtype=torch.int64).index_add_(0, place, whole)
        if len(self._keys) > self.most:
            self._drop(1 + bisect_left(range(1, 63), True, key=self._fits))

    def _fits(self, bits: int) -> bool:
        return len(torch.unique_consecutive(self._keys >> bits)) <= self.most

    def _drop(self, bits: int) -> None:
        if bits > 0:
            self.bits += bits
            keys, counts = self._keys >> bits, self._counts
            self._keys = self._keys[:0]
            self._counts = self._counts[:0]
            self._take(keys, counts)


def ordered(scores: Float[Tensor, " m"]) -> Int[Tensor, " m"]:
    """Whole numbers in the order of float64 scores, from their bits; equal scores have equal ones.

    Examples
    --------
    >>> ordered(torch.tensor([-2.0, -1.0, -0.0, 0.0, 1.0]).double()).diff().tolist()
    [4503599627370496, 4607182418800017408, 0, 4607182418800017408]
    """
    bits = (scores + 0.0).view(torch.int64)  # there is a 0 below 0, and they are equal
    return torch.where(bits >= 0, bits, -(bits & 0x7FFFFFFFFFFFFFFF))
