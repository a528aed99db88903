"""A bound on activations, written as a value or as a percentile of what the training data shows."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from oodline.errors import SettingError
from oodline.statistics import Quantiles, Statistic


@dataclass(frozen=True)
class Threshold:
    """A value in the units of the features, or the fraction of all training activations that lie below it.

    Examples
    --------
    >>> Threshold.of("ReAct", "clip", "90%")
    Threshold(value=None, fraction=0.9)
    >>> Threshold.of("ReAct", "clip", 1.5)
    Threshold(value=1.5, fraction=None)
    """

    value: float | None
    fraction: float | None

    @classmethod
    def of(cls, method: str, name: str, written: float | str) -> Threshold:
        """Read a setting: a number, or a percentile such as "90%" over every feature of every training sample.

        Raises
        ------
        SettingError
            It is neither, or the percentile is outside [0, 100].
        """
        if isinstance(written, str):
            match = re.fullmatch(r"(\d+\.?\d*|\.\d+) ?%", written.strip())
            if not match or float(match[1]) > 100:
                raise SettingError(
                    f"{method} needs {name} as a value or a percentile from '0%' to '100%', such as '90%'; "
                    f"{written!r} is neither."
                )
            return cls(None, float(match[1]) / 100)
        if math.isnan(written):
            raise SettingError(f"{method} needs {name} as a value or a percentile; NaN is neither.")
        return cls(float(written), None)

    def statistics(self) -> dict[str, Statistic]:
        """What must be known of the training data: nothing for a value."""
        return {} if self.fraction is None else {"activations": Quantiles()}

    def estimate(self, statistics: Mapping[str, Any]) -> Float[Tensor, ""]:
        """The value, as a scalar tensor."""
        if self.fraction is None:
            return torch.tensor(self.value)
        return torch.tensor(statistics["activations"].quantile(self.fraction))

    def estimate_exactly(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
        """The value, or the exact percentile of all entries of a sample, as a scalar tensor."""
        if self.fraction is None:
            return torch.tensor(self.value)
        return torch.tensor(float(np.quantile(rows.double().numpy(), self.fraction)))


def check_largest(method: str, name: str, value: float | None) -> None:
    """Raise `SettingError` where the largest activation that counts is not positive, so that nothing would count."""
    if value is not None and not value > 0:
        raise SettingError(f"{method} needs {name} above 0, the largest activation that counts; {value} is not.")
