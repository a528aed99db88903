"""From held-out ID scores to a threshold and to p-values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from oodline.errors import InputError, SettingError


@dataclass(frozen=True, eq=False)
class Calibration:
    """The scores of held-out ID data, and the threshold at which a chosen fraction of them is accepted.

    Parameters
    ----------
    scores : Tensor (n,), float64
        Held-out ID scores in ascending order.
    tpr : float
        Fraction of ID data to accept, in (0, 1]; the false-alarm rate aimed at is `1 - tpr`.
    threshold : float
        The largest score such that at least `tpr` of the held-out scores are not below it.

    Examples
    --------
    >>> calibration = Calibration(torch.arange(100.0, dtype=torch.float64), tpr=0.95, threshold=5.0)
    >>> calibration.is_ood(torch.tensor([4.0, 5.0]))
    tensor([ True, False])
    """

    scores: Float[Tensor, " n"]
    tpr: float
    threshold: float

    def is_ood(self, scores: Float[Tensor, " m"]) -> Bool[Tensor, " m"]:
        """Whether each score is below the threshold."""
        return scores < self.threshold

    def p_value(self, scores: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
        """Conformal p-value of "this input is in-distribution": `(1 + #{held-out <= score}) / (n + 1)`.

        In [1 / (n + 1), 1]; small means OOD. Under exchangeability P(p <= a) <= a for every a (Vovk et al., 2005).
        """
        below = torch.searchsorted(self.scores, scores.double().cpu().contiguous(), right=True)
        return (1 + below).double() / (len(self.scores) + 1)


def check_tpr(tpr: float) -> None:
    """Raise `SettingError` where `tpr` is outside (0, 1]."""
    if not 0 < tpr <= 1:
        raise SettingError(f"a guard is calibrated at a TPR in (0, 1]; {tpr} is not.")


def calibrate(scores: Float[Tensor, " n"], tpr: float = 0.95) -> Calibration:
    """Choose the threshold at which a fraction `tpr` of held-out ID scores is accepted.

    Parameters
    ----------
    scores : Tensor (n,)
        Scores of ID data that the detector was *not* fitted on, higher = more in-distribution.
    tpr : float
        In (0, 1].

    Raises
    ------
    SettingError
        `tpr` is outside (0, 1].
    InputError
        There is no score, or one is NaN.

    Examples
    --------
    >>> calibration = calibrate(torch.arange(100.0), tpr=0.95)
    >>> calibration.threshold, int(calibration.is_ood(torch.arange(100.0)).sum())
    (5.0, 5)
    """
    check_tpr(tpr)
    if len(scores) == 0:
        raise InputError("no score to calibrate on: the loader of held-out ID data was empty.")
    ascending = scores.double().cpu().sort().values
    if bool(ascending.isnan().any()):
        raise InputError(f"{int(ascending.isnan().sum())} of {len(ascending)} held-out scores are NaN.")
    # 0.95 * 20 is a little above 19 in floating point; the decimal that the user wrote is meant
    accepted = math.ceil(Fraction(str(tpr)) * len(ascending))
    return Calibration(ascending, tpr, float(ascending[len(ascending) - accepted]))
