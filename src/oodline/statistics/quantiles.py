"""Quantiles of all entries of a source, from an exact count of their leading float32 bits.

The bit pattern of a float32, read as a number, grows with the value, and its leading bits are a logarithmic bin: sign,
exponent and the first bits of the mantissa. Counting bins is exact, so order, batches and workers cannot change the
result, unlike a sampled or a randomised sketch.
"""

from __future__ import annotations

import math
from typing import ClassVar, Self

import torch
from jaxtyping import Int
from torch import Tensor

from oodline.errors import SettingError
from oodline.model.activations import Activations
from oodline.statistics.base import Statistic
from oodline.statistics.sources import Features, Grouping, Source, group

MANTISSA_BITS = 11
_SHIFT = 23 - MANTISSA_BITS
_HALF = 1 << (31 - _SHIFT)

RELATIVE_ERROR = 2.0**-MANTISSA_BITS
"""An entry is known within this fraction of itself (0.05 %), far better where bins are full, and zero exactly."""


class Quantiles(Statistic):
    """How many entries fell into each of 2**20 logarithmic bins: 8 MB, whatever the data.

    Parameters
    ----------
    of : Source
        Whose entries, all N*K of them together; features by default.

    Examples
    --------
    >>> from oodline.model.activations import Activations
    >>> from oodline.model.head import LinearHead
    >>> head = LinearHead(torch.eye(2), torch.zeros(2))
    >>> f = torch.arange(1000.0).reshape(500, 2)
    >>> quantiles = Quantiles()
    >>> quantiles.update(Activations(f, head(f), head, torch.arange(500)), None)
    >>> abs(quantiles.quantile(0.9) / 899.1 - 1) <= RELATIVE_ERROR
    True
    """

    tensors: ClassVar = ("bins",)

    def __init__(self, of: Source | None = None) -> None:
        self.of = of if of is not None else Features()
        self.bins: Int[Tensor, " b"] = None  # type: ignore[assignment]

    @property
    def key(self) -> tuple[object, ...]:
        """The class and its source."""
        return (type(self).__name__, self.of)

    def update(self, activations: Activations, labels: Tensor | None) -> None:
        """Take in one batch; labels are not used."""
        by: Grouping = "all"
        values = self.of(activations, group(activations, labels, by)[0]).to("cpu", torch.float32)
        counts = torch.bincount(_bin(values.flatten()), minlength=2 * _HALF)
        self.bins = counts if self.bins is None else self.bins.add_(counts)

    def _absorb(self, other: Self) -> None:
        self.bins += other.bins

    def quantile(self, q: float) -> float:
        """The q-th quantile by linear interpolation (NumPy's default).

        Off by at most `RELATIVE_ERROR` times the larger size of the two entries it lies between.

        Raises
        ------
        SettingError
            `q` is outside [0, 1].
        """
        if not 0 <= q <= 1:
            raise SettingError(f"a quantile must lie in [0, 1]; {q} does not.")
        total = self.bins.cumsum(0)
        rank = q * (int(total[-1]) - 1)
        low, high = self._entry(math.floor(rank), total), self._entry(math.ceil(rank), total)
        return low + (high - low) * (rank - math.floor(rank))

    def _entry(self, rank: int, total: Tensor) -> float:
        index = int(torch.searchsorted(total, rank, right=True))
        if index == _HALF:
            return 0.0  # the bin of zero also holds subnormals, which are zero for any purpose here
        low, high = _edges(index)
        # the entries of a bin are taken to lie evenly in it
        count = int(self.bins[index])
        return low + (high - low) * (rank - int(total[index]) + count + 0.5) / count


def _bin(values: Tensor) -> Tensor:
    bits = (values + 0.0).view(torch.int32)  # adding zero turns -0.0 into 0.0
    # negative floats grow in the wrong direction: flip their magnitude bits
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return (ordered >> _SHIFT).long() + _HALF


def _edges(index: int) -> tuple[float, float]:
    edges = torch.tensor([(index - _HALF) << _SHIFT, ((index - _HALF + 1) << _SHIFT) - 1], dtype=torch.int64)
    ordered = edges.to(torch.int32)
    bits = torch.where(ordered < 0, ordered ^ 0x7FFFFFFF, ordered)
    low, high = bits.view(torch.float32).double().tolist()
    return low, high
