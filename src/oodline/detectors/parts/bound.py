"""A bound on activations, written as a value or as a percentile of what the training data shows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from oodline._util.ranges import Refused
from oodline.errors import SettingError
from oodline.statistics import Quantiles, Statistic


def _percentile(written: float | str) -> float | None:
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+) ?%", written.strip()) if isinstance(written, str) else None
    return float(match[1]) if match else None


class _Written:
    replaces_type = True  # infinity, which numbers may not be, is a bound that bounds nothing

    def accept(self, value: Any) -> float | str:
        if isinstance(value, str):
            percentile = _percentile(value)
            if percentile is None or percentile > 100:
                raise Refused
            return value
        try:
            number = float(value) if isinstance(value, int | float | np.integer | np.floating) else np.nan
        except OverflowError:
            number = np.nan
        if np.isnan(number) or isinstance(value, bool):
            raise Refused
        return number

    def words(self, kind: str) -> str:
        return "a value, or a percentile from '0%' to '100%'"


Bound = Annotated[float | str, _Written()]
"""A setting that is a value in the units of the features, or a percentile such as "90%" of all training activations."""


@dataclass(frozen=True)
class Threshold:
    """A value in the units of the features, or the fraction of all training activations that lie below it.

    Examples
    --------
    >>> Threshold.of("90%")
    Threshold(value=None, fraction=0.9)
    >>> Threshold.of(1.5)
    Threshold(value=1.5, fraction=None)
    """

    value: float | None
    fraction: float | None

    @classmethod
    def of(cls, written: float | str) -> Threshold:
        """Read a setting that is a `Bound`."""
        percentile = _percentile(written)
        return cls(float(written), None) if percentile is None else cls(None, percentile / 100)

    def statistics(self) -> dict[str, Statistic]:
        """What must be known of the training data: nothing for a value."""
        return {} if self.fraction is None else {"activations": Quantiles()}

    def estimate(self, activations: Quantiles | None = None) -> Float[Tensor, ""]:
        """The value, as a scalar tensor."""
        if self.fraction is None or activations is None:
            return torch.tensor(self.value)
        return torch.tensor(activations.quantile(self.fraction))

    def estimate_exactly(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
        """The value, or the exact percentile of all entries of a sample, as a scalar tensor."""
        if self.fraction is None:
            return torch.tensor(self.value)
        return torch.tensor(float(np.quantile(rows.double().numpy(), self.fraction)))


def check_largest(name: str, value: float | None) -> None:
    """Raise `SettingError` where the largest activation that counts is not positive, so that nothing would count."""
    if value is not None and not value > 0:
        raise SettingError(f"`{name}` must be above 0, since it is the largest activation that counts; got {value:g}.")
