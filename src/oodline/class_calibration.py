"""A false-alarm rate that is promised for each predicted class, not only on average over them.

Mondrian conformal prediction (Vovk et al., 2005, Sec. 4.5): an input is compared with the held-out inputs of the same
predicted class alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from oodline.calibration import Calibration, calibrate, samples_needed
from oodline.errors import InputError, SettingError
from oodline.scoring import Scores

CHUNK = 2**22
"""Comparisons of scores with held-out scores that are made at a time."""


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

    def __post_init__(self) -> None:
        # found here and now: while a graph is traced they would be found as the tracer's stand-ins, and kept
        _ = self._rows, self._sizes, self._table

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
        return scores.double().cpu() < self.threshold_of(_known(predicted))

    def threshold_of(self, predicted: Int[Tensor, " m"]) -> Float[Tensor, " m"]:
        """The threshold for each predicted class (M,), float64."""
        return torch.tensor([c.threshold for c in self.classes], dtype=torch.float64)[predicted.cpu()]

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
            `predicted` is missing.
        """
        scores, rows = scores.double().cpu(), self._rows[_known(predicted)]
        # a graph takes batches of any size whole, since it cannot count them
        samples = max(1, CHUNK // self._table.shape[1])
        whole = torch.compiler.is_compiling() or len(scores) <= samples
        parts = [slice(None)] if whole else [slice(i, i + samples) for i in range(0, len(scores), samples)]
        counts = [self._counts(scores[part], rows[part]) for part in parts]
        below, up_to = (torch.cat(found) for found in zip(*counts, strict=True))
        u = 1 - torch.rand(len(scores), generator=random, dtype=torch.float64) if random is not None else 1
        return (below + u * (1 + up_to - below)).double() / (self._sizes[rows] + 1)

    def _counts(self, scores: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        mine, score = self._table[rows], scores.unsqueeze(1)
        return (mine < score).sum(1), (mine <= score).sum(1)

    @cached_property
    def _rows(self) -> Tensor:
        """Row of each class in the table (C,); those that are judged together share one."""
        distinct = list(dict.fromkeys(map(id, self.classes)))
        return torch.tensor([distinct.index(id(c)) for c in self.classes])

    @cached_property
    def _sizes(self) -> Tensor:
        return torch.tensor([len(c.scores) for c in self._distinct])

    @cached_property
    def _table(self) -> Tensor:
        """Held-out scores (R, n), of every class or pool a row, padded with NaN, which is neither above nor below."""
        return pad_sequence([c.scores for c in self._distinct], batch_first=True, padding_value=torch.nan)

    @property
    def _distinct(self) -> list[Calibration]:
        return list({id(c): c for c in self.classes}.values())


AnyCalibration = Calibration | ClassCalibration


def calibrate_by_class(
    scores: Float[Tensor, " n"], predicted: Int[Tensor, " n"], num_classes: int, false_alarm: float = 0.05
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
        As `calibrate`, for all scores together.
    """
    order = scores.double().cpu().sort().indices
    return split_by_class(calibrate(scores, false_alarm), predicted.cpu().long()[order], num_classes)


def calibrate_all(
    found: Scores, num_classes: int, false_alarm: float, by: Literal["all", "predicted"] = "all"
) -> dict[str, AnyCalibration]:
    """Calibrate every detector of a pass over held-out ID data, on average or by predicted class.

    Raises
    ------
    SettingError, InputError
        As `calibrate`; `by` is neither.
    """
    if by == "all":
        return {name: calibrate(scores, false_alarm) for name, scores in found.scores.items()}
    if by == "predicted":
        return {
            name: calibrate_by_class(scores, found.predicted, num_classes, false_alarm)
            for name, scores in found.scores.items()
        }
    raise SettingError(f"a calibration is by='all' or 'predicted', not {by!r}.")


def split_by_class(overall: Calibration, predicted: Int[Tensor, " n"], num_classes: int) -> ClassCalibration:
    """Split a calibration by the predicted class (n,) of each of its scores."""
    needed = samples_needed(overall.false_alarm)
    count = torch.bincount(predicted, minlength=num_classes)
    # With classes of exactly `needed` samples in it, the pool is the same whichever small class the new input belongs
    # to and counts for: it and the held-out inputs of the pool are exchangeable, and the promise for them is exact.
    pooled = (count <= needed)[predicted]
    shared = calibrate(overall.scores[pooled], overall.false_alarm) if int(pooled.sum()) >= needed else overall
    small = torch.nonzero(count < needed).flatten().tolist()
    own = {
        c: calibrate(overall.scores[predicted == c], overall.false_alarm)
        for c in range(num_classes)
        if count[c] >= needed
    }
    return ClassCalibration(overall, predicted, tuple(own.get(c, shared) for c in range(num_classes)), tuple(small))


def _known(predicted: Tensor | None) -> Tensor:
    if predicted is None:
        raise InputError("a calibration by class needs the predicted class of each score: pass predicted=.")
    return predicted.cpu()
