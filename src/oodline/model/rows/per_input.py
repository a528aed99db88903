"""How an input with many rows is judged: one score per input from the scores of its rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from oodline._util.checked import checked_fields
from oodline._util.hashing import splitmix64
from oodline._util.ranges import Count, Range

ROUNDING = 1e-9
"""A share of 0.07 of 100 rows is 7 of them, although 0.07 * 100 is a little above 7 in floating point."""


@runtime_checkable
class PerInput(Protocol):
    """From scores of rows to one score per input, higher = more in-distribution."""

    def __call__(
        self, scores: Float[Tensor, " m"], group: Int[Tensor, " m"], samples: Int[Tensor, " g"]
    ) -> Float[Tensor, " g"]:
        """One score per input (G,); infinite where an input has no row.

        Parameters
        ----------
        scores : Tensor (M,)
            Of the rows, those of one input after the other.
        group : Tensor (M,)
            Which input each row is of, 0..G-1, in ascending order.
        samples : Tensor (G,)
            Position of each input in its data set.
        """
        ...

    def of_all(self, scores: Float[Tensor, "g p"]) -> Float[Tensor, " g"]:
        """The same where every input has all P rows, for a graph."""
        ...


@checked_fields
@dataclass(frozen=True)
class Lowest:
    """The k-th lowest score of an input's rows: it is below a threshold exactly where at least k rows are.

    So with the threshold of a guard, an input is flagged where a region of at least k rows is, and a promise on inputs
    is one on regions: at most a fraction `false_alarm` of ID inputs has any.

    Parameters
    ----------
    share : float
        k as a share of the input's rows, rounded up.
    count : int
        k at least.

    Examples
    --------
    >>> scores, group = torch.tensor([3.0, 1.0, 2.0, 5.0]), torch.tensor([0, 0, 0, 1])
    >>> Lowest()(scores, group, torch.arange(3)), Lowest(count=2)(scores, group, torch.arange(2))
    (tensor([1., 5., inf]), tensor([2., 5.]))
    """

    share: Annotated[float, Range(0, 1)] = 0.0
    count: Count = 1

    def __call__(
        self, scores: Float[Tensor, " m"], group: Int[Tensor, " m"], samples: Int[Tensor, " g"]
    ) -> Float[Tensor, " g"]:
        """The k-th lowest of each input, or the highest where it has fewer rows than k."""
        order = scores.argsort(stable=True)
        order = order[group[order].argsort(stable=True)]  # by input, then by score
        rows = torch.bincount(group, minlength=len(samples))
        wanted = (rows.double() * self.share - ROUNDING).ceil().long().clamp(min=self.count)
        first = rows.cumsum(0) - rows
        chosen = (first + torch.minimum(wanted, rows) - 1).clamp(0, max(len(scores) - 1, 0))
        if len(scores) == 0:
            return torch.full_like(rows, torch.inf, dtype=scores.dtype)
        return torch.where(rows > 0, scores[order][chosen], torch.inf)

    def of_all(self, scores: Float[Tensor, "g p"]) -> Float[Tensor, " g"]:
        """The k-th lowest of each input."""
        size = scores.shape[1]
        wanted = min(max(math.ceil(size * self.share - ROUNDING), self.count), size)
        return scores.topk(wanted, dim=1, largest=False).values[:, -1]


@dataclass(frozen=True)
class Mean:
    """The mean score of an input's rows: for what is odd as a whole, such as a text.

    Examples
    --------
    >>> Mean()(torch.tensor([3.0, 1.0, 5.0]), torch.tensor([0, 0, 1]), torch.arange(3))
    tensor([2., 5., inf])
    """

    def __call__(
        self, scores: Float[Tensor, " m"], group: Int[Tensor, " m"], samples: Int[Tensor, " g"]
    ) -> Float[Tensor, " g"]:
        """The mean of each input."""
        rows = torch.bincount(group, minlength=len(samples))
        total = torch.zeros(len(samples), dtype=torch.float64, device=scores.device).index_add_(
            0, group, scores.double()
        )
        return torch.where(rows > 0, total / rows.clamp(min=1), torch.inf).to(scores.dtype)

    def of_all(self, scores: Float[Tensor, "g p"]) -> Float[Tensor, " g"]:
        """The mean of each input."""
        return scores.double().mean(1).to(scores.dtype)


@checked_fields
@dataclass(frozen=True)
class LowestMean:
    """The lowest mean of `window` rows in succession: for what turns odd somewhere, such as an answer.

    It can only fall as rows come, so that an input may be flagged before its end (`AnswerMonitor`). The mean of all
    where an input has fewer rows.

    Parameters
    ----------
    window : int
        Rows of one mean.

    Examples
    --------
    >>> scores, group = torch.tensor([3.0, 1.0, 2.0, 5.0]), torch.tensor([0, 0, 0, 1])
    >>> LowestMean(2)(scores, group, torch.arange(3))
    tensor([1.5000, 5.0000,    inf], dtype=torch.float64)
    """

    window: Count = 16

    def __call__(
        self, scores: Float[Tensor, " m"], group: Int[Tensor, " m"], samples: Int[Tensor, " g"]
    ) -> Float[Tensor, " g"]:
        """The lowest such mean of each input, in float64."""
        found = Mean()(scores.double(), group, samples)
        count = len(scores) - self.window + 1
        rows = torch.bincount(group, minlength=len(samples))
        if count < 1:
            return found
        # in the order in which a monitor adds them, so that both have the same sum to the last bit
        total = torch.zeros(count, dtype=torch.float64, device=scores.device)
        for i in range(self.window):
            total += scores[i : count + i]
        inside = group[:count] == group[self.window - 1 :]
        lowest = torch.full((len(samples),), torch.inf, dtype=torch.float64, device=scores.device)
        lowest.scatter_reduce_(0, group[:count][inside], (total / self.window)[inside], "amin")
        return torch.where(rows < self.window, found, lowest)

    def of_all(self, scores: Float[Tensor, "g p"]) -> Float[Tensor, " g"]:
        """Never asked: tokens are in no graph."""
        raise NotImplementedError


@dataclass(frozen=True)
class Drawn:
    """The score of one row of each input, drawn by a hash of the input's position in its data set.

    Rows of one input resemble each other, so that a calibration on all of them would count one input many times. One
    drawn row of each of several inputs is exchangeable with one drawn row of another, as the inputs are.

    Examples
    --------
    >>> scores, group = torch.tensor([3.0, 1.0, 2.0, 5.0]), torch.tensor([0, 0, 0, 2])
    >>> Drawn()(scores, group, torch.arange(3))
    tensor([1., inf, 5.])
    """

    def __call__(
        self, scores: Float[Tensor, " m"], group: Int[Tensor, " m"], samples: Int[Tensor, " g"]
    ) -> Float[Tensor, " g"]:
        """That of each input (G,)."""
        rows = torch.bincount(group, minlength=len(samples))
        drawn = torch.from_numpy((splitmix64(samples.cpu().numpy().astype("uint64")) >> np.uint64(33)).astype("int64"))
        chosen = rows.cumsum(0) - rows + drawn.to(rows) % rows.clamp(min=1)
        padded = torch.cat([scores, scores.new_full((1,), torch.inf)])
        return torch.where(rows > 0, padded[chosen.clamp(max=len(scores))], torch.inf)

    def of_all(self, scores: Float[Tensor, "g p"]) -> Float[Tensor, " g"]:
        """Never asked: boxes are in no graph."""
        raise NotImplementedError
