"""From held-out ID scores to conformal p-values, and to a threshold that bounds the false-alarm rate.

Split conformal prediction (Vovk, Gammerman and Shafer, 2005; for OOD: Bates et al., Annals of Statistics 2023). The one
assumption is exchangeability: the held-out inputs and the new ID input could have come in any order, and the detector
saw none of them. Nothing is assumed of the scores' distribution or of the detector's quality.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from oodline._util.checked import checked
from oodline._util.ranges import Rate
from oodline._util.validation import shown
from oodline._util.warning import warn
from oodline.errors import InputError, SettingError


class ConstantScoresWarning(UserWarning):
    """A detector gives all held-out ID data the same score."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """Scores of held-out ID data, the false-alarm rate that is promised, and the threshold that keeps the promise.

    For an ID input that is exchangeable with the held-out ones, `P(flagged) <= false_alarm`, whatever the number n of
    held-out scores. The probability is over the held-out sample as well: one calibration's own rate varies around it,
    for scores without ties as Beta(k, n + 1 - k) with `k = floor(false_alarm (n + 1))`.

    Parameters
    ----------
    scores : Tensor (n,), float64
        Held-out ID scores in ascending order.
    false_alarm : float
        The promised rate, in (0, 1).
    threshold : float
        What lies below it is flagged; the k-th smallest held-out score, so that `score < threshold` holds exactly
        where `p_value <= false_alarm`.

    Examples
    --------
    >>> calibration = calibrate(torch.arange(99.0), false_alarm=0.05)
    >>> calibration.is_ood(torch.tensor([3.0, 4.0]))
    tensor([ True, False])
    >>> calibration.p_value(torch.tensor([3.0, 4.0]))
    tensor([0.0500, 0.0600], dtype=torch.float64)
    """

    scores: Float[Tensor, " n"]
    false_alarm: float
    threshold: float

    def is_ood(self, scores: Float[Tensor, " m"], predicted: Int[Tensor, " m"] | None = None) -> Bool[Tensor, " m"]:
        """Whether each score is below the threshold; one threshold for all, so `predicted` is not read."""
        # in float64, as calibrated: a held-out input is judged the same again; and what is not a number is flagged
        return ~(check_tensor("scores", scores).double() >= self.threshold)

    def threshold_of(self, predicted: Int[Tensor, " m"]) -> Float[Tensor, " m"]:
        """The threshold for each predicted class (M,), float64: the same one."""
        return torch.full(check_tensor("predicted", predicted).shape, self.threshold, dtype=torch.float64)

    def p_value(
        self,
        scores: Float[Tensor, " m"],
        predicted: Int[Tensor, " m"] | None = None,
        *,
        random: torch.Generator | None = None,
    ) -> Float[Tensor, " m"]:
        """Conformal p-value of "this input is in-distribution"; small means OOD.

        Parameters
        ----------
        scores : Tensor (M,)
            Higher = more in-distribution.
        predicted : Tensor (M,), optional
            Not read here; `ClassCalibration` needs it.
        random : torch.Generator, optional
            Breaks ties at random: the p-value of ID data is then exactly uniform on (0, 1]. Without it ties count
            against an alarm: `P(p <= a) <= a` for every a.

        Returns
        -------
        Tensor (M,), float64
            `(1 + #{held-out <= score}) / (n + 1)`, or with `random`, for u uniform on (0, 1],
            `(#{held-out < score} + u (1 + #{held-out = score})) / (n + 1)`. NaN is below all.
        """
        scores = fail_closed(check_tensor("scores", scores)).cpu().contiguous()
        up_to = torch.searchsorted(self.scores, scores, right=True)
        if random is None:
            return (1 + up_to).double() / (len(self.scores) + 1)
        below = torch.searchsorted(self.scores, scores)
        u = 1 - torch.rand(len(scores), generator=random, dtype=torch.float64)
        return (below + u * (1 + up_to - below)) / (len(self.scores) + 1)


@checked
def calibrate(scores: Float[Tensor, " n"], false_alarm: Rate = 0.05) -> Calibration:
    """Choose the threshold at which at most a fraction `false_alarm` of ID data is flagged.

    Parameters
    ----------
    scores : Tensor (n,)
        Scores of ID data that the detector was *not* fitted on, higher = more in-distribution.
    false_alarm : float
        In (0, 1); the smallest rate that n scores can promise is 1 / (n + 1).

    Raises
    ------
    SettingError
        `false_alarm` is outside (0, 1), or there are too few scores for it; says how many are needed.
    InputError
        There is no score, one is NaN or infinite, or they are not one row.

    Warns
    -----
    ConstantScoresWarning
        All scores are the same.

    Examples
    --------
    >>> calibrate(torch.arange(999.0), false_alarm=0.01).threshold
    9.0
    """
    scores = check_tensor("scores", scores)
    if scores.ndim != 1:
        raise InputError(f"held-out scores must be one row (n,); got shape {tuple(scores.shape)}.")
    check_enough(len(scores), false_alarm)
    if bad := int((~torch.isfinite(scores)).sum()):
        raise InputError(f"{bad} of {len(scores)} held-out scores are NaN or infinite.")
    ascending = scores.double().cpu().sort().values
    if len(ascending) > 1 and float(ascending[0]) == float(ascending[-1]):
        warn(
            f"all {len(ascending)} held-out scores are {float(ascending[0]):.6g}: the detector does not rank ID "
            "inputs, and flags whatever scores lower. Look at its settings, or take another one.",
            ConstantScoresWarning,
        )
    rank = math.floor(_exact(false_alarm) * (len(ascending) + 1))
    return Calibration(ascending, false_alarm, float(ascending[rank - 1]))


def fail_closed(scores: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
    """Scores in float64, NaN as the lowest: what is not a number is flagged.

    Examples
    --------
    >>> fail_closed(torch.tensor([1.0, torch.nan, torch.inf]))
    tensor([1., -inf, inf], dtype=torch.float64)
    """
    return scores.double().nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)


def check_tensor(name: str, value: Any) -> Tensor:
    """The tensor, or that of a NumPy array; a graph can be made of this check.

    Raises
    ------
    InputError
        It is something else.
    """
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.as_tensor(value)
    if not isinstance(value, Tensor):
        raise InputError(f"`{name}` must be a tensor; got {shown(value)}.")
    return value


def check_false_alarm(false_alarm: float) -> None:
    """Raise `SettingError` where a false-alarm rate is outside (0, 1)."""
    if not 0 < false_alarm < 1:
        raise SettingError(f"`false_alarm` must be a number between 0 and 1, both excluded; got {false_alarm:g}.")


def samples_needed(false_alarm: float) -> int:
    """Fewest held-out scores that can promise a false-alarm rate: the smallest n with `1 / (n + 1) <= false_alarm`.

    Raises
    ------
    SettingError
        `false_alarm` is outside (0, 1).

    Examples
    --------
    >>> [samples_needed(rate) for rate in (0.1, 0.05, 0.01)]
    [9, 19, 99]
    """
    check_false_alarm(false_alarm)
    return math.ceil(1 / _exact(false_alarm)) - 1


def check_enough(n: int, false_alarm: float) -> None:
    """Raise where n held-out samples cannot promise a false-alarm rate, saying how many can; see `calibrate`."""
    needed = samples_needed(false_alarm)
    if n == 0:
        raise InputError("no score to calibrate on: the loader of held-out ID data was empty. Check its data.")
    if n < needed:
        raise SettingError(
            f"{n} held-out samples are too few for a false-alarm rate of {false_alarm:g}: the smallest that they allow "
            f"is 1/{n + 1} = {1 / (n + 1):.3g}. Calibrate on at least {needed} samples, or ask for a larger rate."
        )


def false_alarm_of(false_alarm: float | None, tpr: float | None, default: float = 0.05) -> float:
    """The rate that is meant by either spelling: `tpr=0.95` is `false_alarm=0.05`.

    Raises
    ------
    SettingError
        Both are given, or `tpr` is outside (0, 1).

    Examples
    --------
    >>> false_alarm_of(None, 0.99), false_alarm_of(None, None)
    (0.01, 0.05)
    """
    if tpr is None:
        return default if false_alarm is None else false_alarm
    if false_alarm is not None:
        raise SettingError(f"false_alarm={false_alarm:g} and tpr={tpr:g} say the same thing twice. Give one of them.")
    if not 0 < tpr < 1:  # also where it is NaN
        raise SettingError(f"`tpr` must be a number between 0 and 1, both excluded; got {tpr:g}.")
    return float(1 - _exact(tpr))


def _exact(rate: float) -> Fraction:
    # 0.07 * 100 is a little above 7 in floating point; the decimal that the user wrote is meant
    return Fraction(str(float(rate)))
