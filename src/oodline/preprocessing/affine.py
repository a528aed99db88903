"""Combine several scaling and normalising steps into one mean and one standard deviation per channel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from oodline.errors import SettingError


@dataclass(frozen=True)
class Affine:
    """What became of pixels x in [0, 1]: `(x - mean) / std`.

    Examples
    --------
    >>> Affine().times(2).normalised([0.5], [0.25])
    Affine(mean=(0.25,), std=(0.125,))
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def times(self, factor: float) -> Affine:
        """Each value times a factor."""
        if not (isinstance(factor, int | float) and math.isfinite(factor) and factor > 0):
            raise SettingError(f"it multiplies pixels by {factor}, and only positive numbers can be expressed.")
        return Affine(self.mean, tuple(_neat(s / factor) for s in self.std))

    def normalised(self, mean: Any, std: Any) -> Affine:
        """Each value minus a mean, by a standard deviation: one number, or one per channel."""
        means, stds = _numbers(mean), _numbers(std)
        if not all(s > 0 for s in stds):
            raise SettingError(f"it divides by {stds}, and only positive numbers can be expressed.")
        channels = max(len(self.mean), len(self.std), len(means), len(stds))
        pairs = zip(*(_spread(v, channels) for v in (self.mean, self.std, means, stds)), strict=True)
        found = [(m + s * by, s * over) for m, s, by, over in pairs]
        return Affine(tuple(m for m, _ in found), tuple(s for _, s in found))

    def channels(self, number: int) -> dict[str, tuple[float, ...]]:
        """`mean` and `std` for this number of channels."""
        return {"mean": _spread(self.mean, number), "std": _spread(self.std, number)}


def _numbers(values: Any) -> tuple[float, ...]:
    # a float32 such as of a tensor is written as people write it: 0.485, not 0.48500001430511475
    if isinstance(values, Tensor):
        values = values.flatten().float().numpy()
    if isinstance(values, np.ndarray):
        values = [float(str(v)) for v in values.flatten()]
    if not isinstance(values, Sequence):
        values = [values]
    if not values or not all(isinstance(v, int | float) and math.isfinite(v) for v in values):
        raise SettingError(f"it normalises by {values}, which are not numbers.")
    return tuple(float(v) for v in values)


def _spread(values: tuple[float, ...], number: int) -> tuple[float, ...]:
    if len(values) not in (1, number):
        raise SettingError(f"it normalises {number} channels by {len(values)} values.")
    return values * number if len(values) == 1 else values


def _neat(value: float) -> float:
    return 1.0 if math.isclose(value, 1.0, rel_tol=1e-12) else value
