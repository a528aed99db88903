"""Calibrate each predicted class separately, so that the false-alarm rate holds for each class.

Mondrian conformal prediction (Vovk et al., 2005, Sec. 4.5): an input is compared with the held-out inputs of the same
predicted class alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from oodline._util.checked import checked
from oodline._util.ranges import Count, Rate
from oodline.errors import InputError, SettingError
from oodline.scoring.calibration import (
    Calibration,
    ConstantScoresWarning,
    calibrate,
    check_tensor,
    fail_closed,
    samples_needed,
)
from oodline.scoring.score import Scores


@dataclass(frozen=True, eq=False)
class _Pools:
    """The held-out scores that classes are compared with, one pool after the other; classes may share one."""

    scores: Float[Tensor, " n"]
    """Each pool in ascending order."""
    start: Int[Tensor, " r"]
    size: Int[Tensor, " r"]
    row: Int[Tensor, " c"]
    """Which pool each class has."""
    largest: int
    """Scores of the largest pool: a number, since a graph cannot ask a tensor how many steps to take."""

    @classmethod
    def of(cls, classes: Sequence[Calibration]) -> Self:
        pools = {id(c): c.scores for c in classes}
        places = {key: row for row, key in enumerate(pools)}
        size = torch.tensor([len(scores) for scores in pools.values()])
        row = torch.tensor([places[id(c)] for c in classes])
        return cls(torch.cat(list(pools.values())), size.cumsum(0) - size, size, row, int(size.max()))

    def count(self, scores: Float[Tensor, " m"], rows: Int[Tensor, " m"], *, ties: bool) -> Int[Tensor, " m"]:
        """How many of each score's pool lie below it, or with `ties` not above it: by a bisection without branches."""
        start, size, found = self.start[rows], self.size[rows], torch.zeros_like(rows)
        for bit in reversed(range(self.largest.bit_length())):
            more = found + 2**bit
            probe = self.scores[(start + more - 1).clamp(max=self.scores.shape[0] - 1)]
            found = torch.where((more <= size) & (probe <= scores if ties else probe < scores), more, found)
        return found


@dataclass(frozen=True, eq=False)
class ClassCalibration:
    """One `Calibration` for each predicted class: `P(flagged | predicted as c) <= false_alarm` for ID inputs.

    A class with fewer held-out samples than the rate needs (`samples_needed`) has no threshold of its own. Such
    classes are judged against one pool, of all classes with at most that many samples, and the promise holds for them
    together. Where even the pool has too few, they are judged against all held-out scores, and nothing is promised
    for them by themselves.

    Parameters
    ----------
    overall : Calibration
        Of all held-out scores, whatever their class.
    predicted : Tensor (n,), int64
        Predicted class of each score of `overall`.
    classes : tuple of Calibration
        In the order of the logits.
    small : tuple of int
        The classes that have too few samples for a threshold of their own.

    Examples
    --------
    >>> scores, predicted = torch.arange(80.0), torch.arange(80) % 2
    >>> calibration = calibrate_by_class(scores, predicted, num_classes=2, false_alarm=0.05)
    >>> calibration.threshold_of(torch.tensor([0, 1]))
    tensor([2., 3.], dtype=torch.float64)
    """

    overall: Calibration
    predicted: Int[Tensor, " n"]
    classes: tuple[Calibration, ...]
    small: tuple[int, ...]

    _pools: _Pools = field(init=False, repr=False)
    _thresholds: Float[Tensor, " c"] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_pools", _Pools.of(self.classes))
        thresholds = torch.tensor([c.threshold for c in self.classes], dtype=torch.float64)
        object.__setattr__(self, "_thresholds", thresholds)

    @property
    def scores(self) -> Float[Tensor, " n"]:
        """All held-out ID scores in ascending order (n,)."""
        return self.overall.scores

    @property
    def false_alarm(self) -> float:
        """The promised rate."""
        return self.overall.false_alarm

    @property
    def threshold(self) -> float:
        """The threshold that one calibration of all classes would have: for pictures; `is_ood` does not use it."""
        return self.overall.threshold

    def is_ood(self, scores: Float[Tensor, " m"], predicted: Int[Tensor, " m"] | None = None) -> Bool[Tensor, " m"]:
        """Whether each score is below the threshold of its predicted class."""
        scores = check_tensor("scores", scores)
        return ~(scores.double().cpu() >= self._thresholds[self._known(predicted, scores)])

    def threshold_of(self, predicted: Int[Tensor, " m"]) -> Float[Tensor, " m"]:
        """The threshold for each predicted class (M,), float64."""
        return self._thresholds[self._known(predicted, predicted)]

    def p_value(
        self,
        scores: Float[Tensor, " m"],
        predicted: Int[Tensor, " m"] | None = None,
        *,
        random: torch.Generator | None = None,
    ) -> Float[Tensor, " m"]:
        """Conformal p-value among held-out inputs of the same predicted class; see `Calibration.p_value`.

        Raises
        ------
        InputError
            `predicted` is missing, or is not one class of the calibration for each score.
        """
        scores = fail_closed(check_tensor("scores", scores)).cpu()
        rows = self._pools.row[self._known(predicted, scores)]
        below, up_to = (self._pools.count(scores, rows, ties=ties) for ties in (False, True))
        u = 1 - torch.rand(len(scores), generator=random, dtype=torch.float64) if random is not None else 1
        return (below + u * (1 + up_to - below)).double() / (self._pools.size[rows] + 1)

    def _known(self, predicted: Any, scores: Tensor) -> Tensor:
        if predicted is None:
            raise InputError("a calibration by class needs the predicted class of each score: pass predicted=.")
        known = check_tensor("predicted", predicted)
        if torch.compiler.is_exporting():
            return known.cpu()  # an argmax, whose values a graph cannot look at
        check_classes(known, scores, len(self.classes))
        return known.cpu().long()


AnyCalibration = Calibration | ClassCalibration


@checked
def calibrate_by_class(
    scores: Float[Tensor, " n"], predicted: Int[Tensor, " n"], num_classes: Count, false_alarm: Rate = 0.05
) -> ClassCalibration:
    """Choose one threshold a predicted class.

    Parameters
    ----------
    scores : Tensor (n,)
        Scores of ID data that the detector was not fitted on, higher = more in-distribution.
    predicted : Tensor (n,), int64
        Class that the classifier predicts for each, in [0, num_classes).
    num_classes : int
        Number of logits C.
    false_alarm : float
        In (0, 1).

    Raises
    ------
    SettingError, InputError
        As `calibrate`, for all scores together; or `predicted` is not one class for each score.
    """
    check_classes(predicted, scores, num_classes)
    overall = calibrate(scores, false_alarm)
    return split_by_class(overall, predicted.cpu().long()[scores.double().cpu().sort().indices], num_classes)


def calibrate_all(
    scores: Scores, num_classes: int, false_alarm: float, by: Literal["all", "predicted"] = "all"
) -> dict[str, AnyCalibration]:
    """Calibrate every detector of a pass over held-out ID data, on average or by predicted class.

    Raises
    ------
    SettingError, InputError
        As `calibrate`; `by` is neither.
    """
    if by == "all":
        return {name: calibrate(column, false_alarm) for name, column in scores.scores.items()}
    if by == "predicted":
        return {
            name: calibrate_by_class(column, scores.predicted, num_classes, false_alarm)
            for name, column in scores.scores.items()
        }
    raise SettingError(f"`by` must be 'all' or 'predicted'; got {by!r}.")


def split_by_class(overall: Calibration, predicted: Int[Tensor, " n"], num_classes: int) -> ClassCalibration:
    """Split a calibration by the predicted class (n,) of each of its scores."""
    needed = samples_needed(overall.false_alarm)
    count = torch.bincount(predicted, minlength=num_classes)
    # With classes of exactly `needed` samples in it, the pool is the same whichever small class the new input belongs
    # to and counts for: it and the held-out inputs of the pool are exchangeable, and the promise for them is exact.
    pooled = (count <= needed)[predicted]
    shared = _part(overall, pooled) if int(pooled.sum()) >= needed else overall
    small = torch.nonzero(count < needed).flatten().tolist()
    own = {c: _part(overall, predicted == c) for c in range(num_classes) if count[c] >= needed}
    return ClassCalibration(overall, predicted, tuple(own.get(c, shared) for c in range(num_classes)), tuple(small))


def _part(overall: Calibration, chosen: Bool[Tensor, " n"]) -> Calibration:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantScoresWarning)  # said of all scores, where it holds for all
        return calibrate(overall.scores[chosen], overall.false_alarm)


def check_classes(predicted: Tensor, scores: Tensor, num_classes: int) -> None:
    """Raise `InputError` unless `predicted` has one class in [0, num_classes) for each score."""
    if predicted.shape != scores.shape:
        raise InputError(
            f"`predicted` must have one class per score, shape {tuple(scores.shape)}; got {tuple(predicted.shape)}."
        )
    if predicted.dtype == torch.bool or predicted.is_floating_point() or predicted.is_complex():
        raise InputError(f"`predicted` must be integers; got {predicted.dtype}.")
    outside = (predicted < 0) | (predicted >= num_classes)
    if bool(outside.any()):
        raise InputError(
            f"{int(outside.sum())} of {predicted.numel()} predicted classes are outside [0, {num_classes - 1}] (first: "
            f"{int(predicted[outside][0])}). They must be those of the classifier that was calibrated."
        )
