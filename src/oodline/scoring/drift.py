"""Monitor a stream of scores for drift towards OOD, with a bounded probability that a false alarm is ever raised.

A test martingale: capital that is bet against the hypothesis that the scores are exchangeable with the held-out ones.
Under the hypothesis, the probability that the capital ever reaches 1/alpha times its start is at most alpha (Ville,
1939), however often it is checked. The bets are on conformal p-values (Vovk, Gammerman and Shafer, 2005,
Ch. 7; Vovk, 2021): each score is ranked among the held-out scores *and those seen since*, ties broken at random. Ranked
among the held-out scores alone, all p-values would share the luck of one sample, and a long stream would expose it as
a false drift.

Memory is bounded. Up to a fixed number of scores are kept; after that, each new score replaces a random one. Which one
is replaced is independent of the new one's rank, so the p-values stay independent and uniform.
"""

from __future__ import annotations

import bisect
import math
import struct
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from oodline._util.checked import checked
from oodline._util.digests import Digest
from oodline._util.ranges import Range, Rate, Seed
from oodline.errors import InputError, MismatchError, SettingError
from oodline.scoring.class_calibration import AnyCalibration, ClassCalibration

MEMORY = 10_000
"""Scores to rank among at most, or the held-out ones, where there are more of those."""

MOST_WINDOW = 10**9
"""Scores in a window at most."""

MOST_SOURCES = 1000
"""Files that a state remembers at most, the last ones."""

SHARES = (0.05, 0.15, 0.4, 1.0)
"""Shares of OOD inputs that the bettors stake on, each with a part of the money."""

POWER = 0.3
"""How small the p-values of OOD inputs are taken to be: density `POWER p^(POWER - 1)`."""


@dataclass(frozen=True)
class DriftReport:
    """What a monitor knows after an update.

    Parameters
    ----------
    seen : int
        Scores so far.
    flagged : int
        How many of the last `window` scores are flagged.
    window : int
        How many scores that is: the window's length, or fewer at first.
    rate, low, high : float
        `flagged / window` with its 95 % interval (Wilson, 1927); all 0 before the first score.
    promised : float
        The false-alarm rate of the calibration: with a `low` above it, this window is probably not ID alone. Windows
        are not a test that may be repeated; `alarm_at` is.
    evidence : float
        Against "no drift", now: 1 is none.
    peak : float
        The most it was so far; `1 / peak` is a p-value that holds whenever one looks.
    limit : float
        Evidence at which the monitor alarms, 1 / alpha.
    alarm_at : int, optional
        Number of the score, from 1, at which it did.

    Examples
    --------
    >>> from oodline.scoring.calibration import calibrate
    >>> report = DriftMonitor(calibrate(torch.arange(99.0), 0.05)).update(torch.tensor([3.0, 50.0]))
    >>> report.seen, report.flagged, report.rate, report.promised
    (2, 1, 0.5, 0.05)
    """

    seen: int
    flagged: int
    window: int
    rate: float
    low: float
    high: float
    promised: float
    evidence: float
    peak: float
    limit: float
    alarm_at: int | None

    def to_dict(self) -> dict[str, Any]:
        """A plain dict, ready for JSON."""
        return asdict(self)


Count = Annotated[int, Field(ge=0, lt=2**63)]
Money = Annotated[float, Field(ge=0, le=1e306)]


class Watched(BaseModel):
    """Scores that a monitor has taken in from one source, such as a file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    count: Count
    """How many, from its beginning."""
    sha256: str
    """Digest of their values."""


class _State(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal["oodline drift monitor"] = "oodline drift monitor"
    format_version: int = 1
    calibration: str
    alpha: float
    window: int
    seen: Count
    since_reset: Count
    alarm_at: Count | None
    evidence: Money
    peak: Money
    stakes: tuple[Money, ...]
    flags: tuple[bool, ...]
    ranked: tuple[float, ...]
    random: dict[str, Any]
    sources: tuple[Watched, ...] = ()


class DriftMonitor:
    """Rate of flagged inputs in a window, and a sequential test of drift that may be looked at at any time.

    The promise: on a stream of inputs that is exchangeable with the held-out ones, the probability of an alarm, ever,
    is at most `alpha`, for any number of held-out scores. When drift begins late, it is found nearly as fast as early.

    The test asks whether scores have become lower *than they were*: a drift so slow that within `MEMORY` inputs little
    changes is missed by it, and shows in the window's rate alone.

    Parameters
    ----------
    calibration : Calibration or ClassCalibration
        Of the guard whose scores come.
    alpha : float
        Probability of a false alarm, in (0, 1).
    window : int
        Scores that the rate of flagged ones is taken of.
    seed : int
        For breaking ties and for forgetting.

    Raises
    ------
    SettingError
        A setting is out of range.

    Examples
    --------
    >>> from oodline.scoring.calibration import calibrate
    >>> generator = torch.Generator().manual_seed(0)
    >>> monitor = DriftMonitor(calibrate(torch.randn(500, generator=generator)))
    >>> monitor.update(torch.randn(1000, generator=generator)).alarm_at is None
    True
    >>> monitor.update(torch.randn(100, generator=generator) - 3).alarm_at
    1007
    """

    @checked
    def __init__(
        self,
        calibration: AnyCalibration,
        *,
        alpha: Rate = 0.01,
        window: Annotated[int, Range(1, MOST_WINDOW)] = 500,
        seed: Seed = 0,
    ) -> None:
        self.calibration = calibration
        self.alpha = alpha
        self.window = window
        self.seen = 0
        self._flags: deque[bool] = deque(maxlen=window)
        self._random = np.random.default_rng(seed)
        self.sources: list[Watched] = []
        """Which files it has taken in, where whoever fed them said so; see `already`."""
        self._digest, self._named = Digest(), False
        self.reset()

    def reset(self) -> None:
        """Begin the test anew after an alarm, ranking among the held-out scores alone; the window goes on.

        The promise begins anew, too: each time, an alarm may be false with probability `alpha`.
        """
        self.alarm_at: int | None = None
        self._since_reset = 0
        self._evidence = self._peak = 1.0
        self._stakes = [0.0] * len(SHARES)
        self._ranked: list[float] = self.calibration.scores.tolist()
        self._capacity = max(MEMORY, len(self._ranked))

    @checked
    def update(self, scores: Float[Tensor, " n"], predicted: Int[Tensor, " n"] | None = None) -> DriftReport:
        """Take in scores in the order they came.

        Parameters
        ----------
        scores : Tensor (N,)
            Of the guard's detector, higher = more in-distribution.
        predicted : Tensor (N,), optional
            Predicted classes; needed where the calibration is by class.

        Raises
        ------
        InputError
            A score is NaN or infinite, or the predicted classes are missing; nothing is taken in.
        """
        if scores.ndim != 1:
            raise InputError(f"`scores` must be one row (N,); got shape {tuple(scores.shape)}.")
        if not bool(torch.isfinite(scores).all()):
            raise InputError(f"{int((~torch.isfinite(scores)).sum())} of {len(scores)} scores are NaN or infinite.")
        self._flags.extend(self.calibration.is_ood(scores, predicted).tolist())
        values = scores.double().tolist()
        if self._named:
            self._digest.add(struct.pack(f"<{len(values)}d", *values))
            last = self.sources[-1]
            changes = {"count": last.count + len(values), "sha256": self._digest.hex()}
            self.sources[-1] = last.model_copy(update=changes)
        for score in values:
            self.seen += 1
            if self.alarm_at is None:
                self._bet(self._p_value(score))
        return self.report

    def begin(self, name: str) -> None:
        """Say from what the next scores come, so that the same ones are known when they come again."""
        self.sources.append(Watched(name=name, count=0, sha256=""))
        self._digest, self._named = Digest(), True

    def already(self, scores: Iterable[float]) -> Watched | None:
        """The longest source that these scores, in their order, are or begin with; None where they are new.

        Examples
        --------
        >>> from oodline.scoring.calibration import calibrate
        >>> monitor = DriftMonitor(calibrate(torch.arange(99.0)))
        >>> monitor.begin("monday.csv")
        >>> _ = monitor.update(torch.tensor([3.0, 50.0]))
        >>> monitor.already([3.0, 50.0, 7.0]).name, monitor.already([50.0, 3.0])
        ('monday.csv', None)
        """
        known = {(source.count, source.sha256): source for source in self.sources if source.count}
        counts = {source.count for source in self.sources}
        begun, found = Digest(), None
        for count, score in enumerate(scores, start=1):
            begun.add(struct.pack("<d", score))
            if count in counts:
                found = known.get((count, begun.hex()), found)
        return found

    @property
    def report(self) -> DriftReport:
        """What is known so far."""
        flagged, window = sum(self._flags), len(self._flags)
        low, high = wilson(flagged, window)
        return DriftReport(
            seen=self.seen,
            flagged=flagged,
            window=window,
            rate=flagged / window if window else 0.0,
            low=low,
            high=high,
            promised=self.calibration.false_alarm,
            evidence=self._evidence,
            peak=self._peak,
            limit=1 / self.alpha,
            alarm_at=self.alarm_at,
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything it remembers, ready for JSON: at most the window and `MEMORY` scores, whatever it has seen."""
        return _State(
            calibration=_digest(self.calibration),
            alpha=self.alpha,
            window=self.window,
            seen=self.seen,
            since_reset=self._since_reset,
            alarm_at=self.alarm_at,
            evidence=self._evidence,
            peak=self._peak,
            stakes=tuple(self._stakes),
            flags=tuple(self._flags),
            ranked=tuple(self._ranked),
            random=dict(self._random.bit_generator.state),
            sources=tuple(source for source in self.sources[-MOST_SOURCES:] if source.count),
        ).model_dump(mode="json")

    @classmethod
    def from_state_dict(cls, calibration: AnyCalibration, state: Mapping[str, Any]) -> Self:
        """Go on where `state_dict()` was taken, as if there had been no break.

        Raises
        ------
        InputError
            It is not a state of a monitor.
        MismatchError
            It was taken with another calibration.
        """
        try:
            kept = _State.model_validate(state)
            monitor = cls(calibration, alpha=kept.alpha, window=kept.window)
            monitor._random.bit_generator.state = kept.random
        except (ValidationError, SettingError, ValueError, TypeError, KeyError) as error:
            raise InputError(f"this is not a state of a drift monitor: {str(error).splitlines()[0]}.") from error
        if kept.format_version > 1 or len(kept.stakes) != len(SHARES) or sorted(kept.ranked) != list(kept.ranked):
            raise InputError("this state of a drift monitor is damaged, or of a newer oodline. Begin a new one.")
        if kept.calibration != _digest(calibration):
            raise MismatchError("this state of a drift monitor belongs to another calibration. Begin a new one.")
        monitor.seen, monitor.alarm_at, monitor._since_reset = kept.seen, kept.alarm_at, kept.since_reset
        monitor._evidence, monitor._peak, monitor._stakes = kept.evidence, kept.peak, list(kept.stakes)
        monitor._flags.extend(kept.flags)
        monitor._ranked = list(kept.ranked)
        monitor.sources = list(kept.sources)
        return monitor

    def _p_value(self, score: float) -> float:
        below, up_to = bisect.bisect_left(self._ranked, score), bisect.bisect_right(self._ranked, score)
        p = (below + (1 - self._random.random()) * (1 + up_to - below)) / (len(self._ranked) + 1)
        self._ranked.insert(up_to, score)
        if len(self._ranked) > self._capacity:
            self._ranked.pop(int(self._random.integers(len(self._ranked))))
        return p

    def _bet(self, p: float) -> None:
        # A part of the money waits; at every step some of it, ever less, is staked on a drift that begins now. So the
        # whole is a martingale, and a drift that begins at step t is met with money that only its logarithm eats up.
        waiting, self._since_reset = _waiting(self._since_reset), self._since_reset + 1
        left = _waiting(self._since_reset)
        new = (waiting - left) / len(SHARES)
        density = POWER * p ** (POWER - 1)
        self._stakes = [
            (stake + new) * (1 - share + share * density) for stake, share in zip(self._stakes, SHARES, strict=True)
        ]
        self._evidence = sum(self._stakes) + left
        self._peak = max(self._peak, self._evidence)
        if self._evidence >= 1 / self.alpha:
            self.alarm_at = self.seen


def wilson(successes: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Interval of a rate of which `successes` of n were seen (Wilson, 1927); of 95 % at z = 1.96.

    Examples
    --------
    >>> [round(end, 3) for end in wilson(5, 100)]
    [0.022, 0.112]
    """
    if n == 0:
        return 0.0, 0.0
    rate, spread = successes / n, z * z / n
    centre = (rate + spread / 2) / (1 + spread)
    half = math.sqrt(spread * (rate * (1 - rate) + spread / 4)) / (1 + spread)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def _waiting(steps: int) -> float:
    return 1 / (1 + math.log1p(steps))


def _digest(calibration: AnyCalibration) -> str:
    whole = Digest(calibration.scores, f"{type(calibration).__name__} {calibration.false_alarm!r}")
    if isinstance(calibration, ClassCalibration):
        whole.add(calibration.predicted, str(len(calibration.classes)))
    return whole.hex()
