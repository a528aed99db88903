"""Confidence intervals of metrics by the stratified percentile bootstrap (Efron and Tibshirani, 1993, ch. 13).

ID and OOD samples are drawn with replacement each from its own set, so set sizes stay what they are. A resample is a
row of counts of the distinct scores, and all rows of a block are measured at once. What is drawn depends on the seed
and the name of the set only: every detector sees the same resamples, and another set beside it changes nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from oodline.errors import SettingError
from oodline.evaluation.counts import Counts, Scores, check_scores
from oodline.evaluation.metrics import EXACT, Convention

Values = NDArray[np.float64]

_BLOCK = 1 << 19
"""Counts that are worked on at a time: few enough to stay in the cache."""


@dataclass(frozen=True)
class Interval:
    """Where a metric lies with a stated confidence, from `low` to `high`.

    Examples
    --------
    >>> round(Interval(0.9, 0.96).half_width, 3)
    0.03
    """

    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half of the distance between the ends, which need not lie symmetrically about the metric."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Bootstrap:
    """How to draw resamples.

    Parameters
    ----------
    resamples : int
        How many, at least 2; percentiles far out in the tails want 1,000.
    level : float
        Confidence, in (0, 1).
    seed : int
        At least 0; the same seed gives the same intervals, on any machine.

    Raises
    ------
    SettingError
        A setting is out of range.

    Notes
    -----
    The interval says how far the metric would move with other samples of the same data sets. It says nothing about
    other training runs or other OOD sets. Where no resample can differ, as at an AUROC of exactly 1, it has no width.

    Examples
    --------
    >>> values = Bootstrap(resamples=200).resample([1.0, 2.0, 3.0, 4.0], {"svhn": [0.0, 1.5]})
    >>> values["svhn"]["auroc"].shape
    (200,)
    """

    resamples: int = 1000
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resamples < 2:
            raise SettingError(f"a bootstrap needs at least 2 resamples; {self.resamples} is fewer.")
        if not 0 < self.level < 1:
            raise SettingError(f"the level of an interval lies in (0, 1); {self.level} does not.")
        if self.seed < 0:
            raise SettingError(f"a seed is at least 0; {self.seed} is not.")

    def resample(
        self, id_scores: ArrayLike, ood_scores: Mapping[str, ArrayLike], convention: Convention = EXACT
    ) -> dict[str, dict[str, Values]]:
        """Every rate of every resample, by OOD set and rate; `convention` says how to count.

        The ID resamples are the same for all sets, so the mean over sets of one resample is a resample of the mean.

        Raises
        ------
        InputError
            As `compute_metrics`.
        """
        i = check_scores("ID", id_scores)
        return {
            name: self._measure(i, check_scores(f"OOD ('{name}')", scores), name, convention)
            for name, scores in ood_scores.items()
        }

    def interval(self, values: Values) -> Interval:
        """The central percentiles of resampled values (resamples,)."""
        tail = (1 - self.level) / 2
        low, high = np.quantile(values, [tail, 1 - tail])
        return Interval(float(low), float(high))

    def _measure(self, i: Scores, o: Scores, name: str, convention: Convention) -> dict[str, Values]:
        values, place = np.unique(np.concatenate([i, o]), return_inverse=True)
        draw_id, draw_ood = self._generator("id data"), self._generator(f"ood {name}")
        rows = max(1, _BLOCK // len(values))
        found: dict[str, list[Values]] = {}
        for start in range(0, self.resamples, rows):
            size = min(rows, self.resamples - start)
            counts = Counts(
                _drawn(draw_id, place[: len(i)], size, len(values)),
                _drawn(draw_ood, place[len(i) :], size, len(values)),
            )
            for rate, value in convention.rates(counts).items():
                found.setdefault(rate, []).append(value)
        return {rate: np.concatenate(parts) for rate, parts in found.items()}

    def _generator(self, name: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])


def _drawn(generator: np.random.Generator, place: NDArray[np.int64], rows: int, width: int) -> NDArray[np.int64]:
    """Counts (rows, width) of samples drawn with replacement, `place` (N,) being the column of each sample."""
    # one row at a time: what is drawn must not depend on how many rows a block has
    counts = np.empty((rows, width), dtype=np.int64)
    for row in counts:
        row[:] = np.bincount(place[generator.integers(0, len(place), len(place))], minlength=width)
    return counts
