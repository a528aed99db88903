"""Stop an answer while it is written: a running score per token, compared with that of whole held-out answers.

The running score is the mean of the last tokens, and what is calibrated is the lowest that an answer ever had
(`LowestMean`). So an answer of `n + 1` exchangeable ones is stopped at any time with probability at most the rate of
the calibration, however long it is and however often one looks. A test martingale on the tokens, as `DriftMonitor` bets
on inputs, would promise nothing: tokens of one answer are not exchangeable.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from oodline._util.checked import checked
from oodline.errors import InputError, SettingError
from oodline.model.rows.per_input import Lowest, LowestMean, PerInput
from oodline.scoring.calibration import Calibration, check_tensor

MOST_OPEN = 10_000
"""Answers that are followed at a time; beyond, the one that had no token for longest has ended."""


class _AnswerState(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    seen: int = Field(ge=0)
    last: tuple[float, ...]
    lowest: float | None
    stopped_at: int | None


class AnswerMonitor:
    """Follows the scores of the tokens of one answer, and says when to stop it.

    The promise: of answers that are exchangeable with the held-out ones, at most a fraction `false_alarm` is ever
    stopped. It is about answers and not about tokens, and void where prompts or sampling settings are others.

    Parameters
    ----------
    calibration : Calibration
        Of a guard whose rows are tokens that are judged while they come: `Tokens(judged="running")` or `"lowest"`.
    per_input : LowestMean or Lowest
        How it judges answers: `guard.classifier.rows.per_input`.

    Raises
    ------
    SettingError
        Answers are judged in a way that is known at their end only, such as by their mean.

    Examples
    --------
    >>> from oodline.scoring.calibration import calibrate
    >>> held_out = torch.linspace(-1.0, 1.0, 99)
    >>> monitor = AnswerMonitor(calibrate(held_out, 0.05), LowestMean(2))
    >>> monitor.update(torch.tensor([0.5, -0.5])), monitor.score
    (False, 0.0)
    >>> monitor.update(torch.tensor([-2.0])), monitor.stopped_at
    (True, 3)
    """

    @checked
    def __init__(self, calibration: Calibration, per_input: Any) -> None:
        self.calibration, self.window = calibration, _window(per_input)
        self.seen = 0
        """Tokens so far."""
        self.stopped_at: int | None = None
        """Number of the token, from 1, at which it was stopped."""
        self._last: deque[float] = deque(maxlen=self.window)
        self._lowest = math.inf

    @property
    def stopped(self) -> bool:
        """Whether the answer was to be stopped."""
        return self.stopped_at is not None

    @property
    def score(self) -> float:
        """Lowest running score so far, higher = more in-distribution; the mean of all with fewer tokens than a window.

        Infinite before the first token.
        """
        if self.seen < self.window and self._last:
            return math.fsum(self._last) / len(self._last)
        return self._lowest

    @property
    def p_value(self) -> float:
        """Share of held-out answers, itself among them, whose score is as low: falls as tokens come."""
        return float(self.calibration.p_value(torch.tensor([self.score], dtype=torch.float64)))

    @checked
    def update(self, scores: Float[Tensor, " n"]) -> bool:
        """Take in the scores of the next tokens, in their order; whether the answer is to be stopped.

        Parameters
        ----------
        scores : Tensor (N,)
            Of the guard's detector, higher = more in-distribution; often of one token.

        Raises
        ------
        InputError
            A score is NaN or infinite; nothing is taken in.
        """
        scores = check_tensor("scores", scores)
        if scores.ndim != 1 or not bool(torch.isfinite(scores).all()):
            raise InputError(
                f"`scores` must be finite numbers of tokens (N,); got shape {tuple(scores.shape)} with "
                f"{int((~torch.isfinite(scores)).sum())} NaN or infinite ones."
            )
        for value in scores.double().tolist():
            self.seen += 1
            self._last.append(value)
            if self.seen >= self.window:
                # from the oldest on, as LowestMean adds them
                self._lowest = min(self._lowest, sum(self._last) / self.window)
                if self.stopped_at is None and self._lowest <= self.calibration.threshold:
                    self.stopped_at = self.seen
        return self.stopped

    def state_dict(self) -> dict[str, Any]:
        """All that it remembers, ready for JSON: the scores of one window at most."""
        lowest = None if math.isinf(self._lowest) else self._lowest
        return _AnswerState(
            seen=self.seen, last=tuple(self._last), lowest=lowest, stopped_at=self.stopped_at
        ).model_dump(mode="json")

    @classmethod
    def from_state_dict(cls, calibration: Calibration, per_input: PerInput, state: Mapping[str, Any]) -> Self:
        """Go on where `state_dict()` was taken.

        Raises
        ------
        InputError
            It is not a state of such a monitor.
        """
        monitor = cls(calibration, per_input)
        try:
            kept = _AnswerState.model_validate(state)
        except ValidationError as error:
            raise InputError(f"this is not a state of an answer: {str(error).splitlines()[0]}.") from error
        if len(kept.last) != min(kept.seen, monitor.window):
            raise InputError("this is the state of an answer that is judged in another window. Begin a new one.")
        monitor.seen, monitor.stopped_at = kept.seen, kept.stopped_at
        monitor._last.extend(kept.last)
        monitor._lowest = math.inf if kept.lowest is None else kept.lowest
        return monitor


class _State(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["oodline answers"] = "oodline answers"
    format_version: int = 1
    answers: dict[str, dict[str, Any]] = Field(max_length=MOST_OPEN)


class Answers:
    """Monitors of many answers at a time, by their names.

    Parameters
    ----------
    calibration, per_input
        As `AnswerMonitor`.

    Examples
    --------
    >>> from oodline.scoring.calibration import calibrate
    >>> answers = Answers(calibrate(torch.linspace(-1.0, 1.0, 99), 0.05), Lowest())
    >>> answers.update("a", 0.5).stopped, answers.update("b", -2.0).stopped, list(answers.open)
    (False, True, ['a', 'b'])
    >>> answers.end("a").score
    0.5
    """

    def __init__(self, calibration: Calibration, per_input: PerInput) -> None:
        self.calibration, self.per_input = calibration, per_input
        self.open: OrderedDict[str, AnswerMonitor] = OrderedDict()
        """Monitors of answers that have not ended, the one whose last token came first of all coming first."""
        AnswerMonitor(calibration, per_input)  # raises where they cannot be followed

    def update(self, name: str, score: float) -> AnswerMonitor:
        """Take in the score of the next token of an answer; raises `InputError` where it is NaN or infinite."""
        monitor = self.open.get(name) or AnswerMonitor(self.calibration, self.per_input)
        monitor.update(torch.tensor([score], dtype=torch.float64))
        self.open[name] = monitor
        self.open.move_to_end(name)
        return monitor

    def end(self, name: str | None = None) -> AnswerMonitor:
        """Forget an answer, the oldest if no name is given; returns its monitor."""
        return self.open.popitem(last=False)[1] if name is None else self.open.pop(name)

    def state_dict(self) -> dict[str, Any]:
        """The answers that have not ended, ready for JSON."""
        return _State(answers={name: monitor.state_dict() for name, monitor in self.open.items()}).model_dump()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict()` was taken; raises `InputError` where it is not one."""
        try:
            kept = _State.model_validate(state)
        except ValidationError as error:
            raise InputError(f"this is not a state of answers: {str(error).splitlines()[0]}.") from error
        for name, answer in kept.answers.items():
            self.open[name] = AnswerMonitor.from_state_dict(self.calibration, self.per_input, answer)


def _window(per_input: PerInput) -> int:
    if isinstance(per_input, LowestMean):
        return per_input.window
    if isinstance(per_input, Lowest) and per_input == Lowest():
        return 1
    raise SettingError(
        f"`per_input` must be LowestMean(...) or Lowest(), which only fall while an answer goes on; got {per_input!r}. "
        "Take RowClassifier(model, Tokens(judged='running')), and fit and calibrate a guard on that."
    )
