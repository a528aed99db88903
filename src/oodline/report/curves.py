"""What the plots of a report are drawn from: counts in bins, thinned curves, and the positions of a threshold slider.

A page holds no score of every image, whatever the size of a run. Bins and thinned curves are near the whole ones, by a
stated distance; the counts at the slider's positions are exact.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from oodline.evaluation.counts import Scores, at_least, check_scores, count
from oodline.evaluation.risk_coverage import RiskCoverage

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Points of a line: x (P,) and y (P,)."""

BINS, POINTS = 48, 100
"""Bins of a histogram at most, and parts that a curve is thinned to."""

LEAST_ANSWERS, LEAST_SHARE = 20, 0.01
"""Where a risk curve starts: at least this many inputs, and this fraction of them, are answered. Earlier it jumps."""

BEGINNING = f"Curves begin where at least {LEAST_ANSWERS} inputs, and {100 * LEAST_SHARE:.0f} % of them, are answered."

_SHARES = np.concatenate([[0, 0.001, 0.002, 0.005], np.arange(2, 40) / 200, np.arange(10, 51) / 50])
"""False-alarm rates of the slider's positions: close together where people set thresholds."""

_STEPS = 20
"""Positions for OOD scores: one for every 5 % of all OOD images together."""

_LARGEST = float(np.finfo(np.float64).max)


@dataclass(frozen=True, eq=False)
class Bins:
    """How many ID and other scores lie in each of B equal bins.

    Parameters
    ----------
    low, high : float
        From where to where the bins reach. The first and the last one also hold what lies beyond.
    id, other : ndarray (B,), int64
        Counts; their sums are the numbers of scores.
    """

    low: float
    high: float
    id: NDArray[np.int64]
    other: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Ladder:
    """The positions of a threshold slider, and what is flagged at each: exact counts, nothing in between.

    Parameters
    ----------
    thresholds : ndarray (T,)
        Ascending. Scores below a threshold are flagged as OOD, as `Calibration.is_ood` does it.
    marked : int
        Position of the threshold that the report begins with.
    flagged : dict of str to ndarray (T,), int64
        By data set; at the first position nothing is flagged, at the last everything.
    """

    thresholds: NDArray[np.float64]
    marked: int
    flagged: dict[str, NDArray[np.int64]]


def bins(id_scores: ArrayLike, others: Mapping[str, ArrayLike], number: int | None = None) -> dict[str, Bins]:
    """Count ID scores and those of each other set in bins that are common to all, so that panels can be compared.

    Each set has at most 1 % of its scores beyond either end, unless it lies far from ID: the bins reach beyond the ID
    scores by at most twice what those span. Without a `number`, there are fewer bins where there are few scores.

    Raises
    ------
    InputError
        As `compute_metrics`.

    Examples
    --------
    >>> found = bins([1.0, 2.0, 3.0, 3.0], {"svhn": [0.0, 1.0]}, number=3)["svhn"]
    >>> found.low, found.high, found.id, found.other
    (0.0, 3.0, array([0, 1, 3]), array([1, 1, 0]))
    """
    ours = finite(check_scores("ID", id_scores))
    theirs = {name: finite(check_scores("OOD", scores)) for name, scores in others.items()}
    low, high = _span([ours])
    if (width := high - low) > 0:
        lowest, highest = _span([ours, *theirs.values()])
        low, high = max(lowest, low - 2 * width), min(highest, high + 2 * width)
    else:
        low, high = _span([ours, *theirs.values()])
    if not high - low > 1e-12 * max(abs(high), abs(low)):  # bins that thin could not be told apart
        margin = max(1e-6 * abs(low), 0.5)
        low, high = low - margin, high + margin
    if number is None:
        number = int(np.clip(2 * np.sqrt(min(map(len, [ours, *theirs.values()]))), 8, BINS))
    edges = np.linspace(low, high, number + 1)
    counts = {name: np.histogram(np.clip(s, low, high), edges)[0] for name, s in theirs.items()}
    own = np.histogram(np.clip(ours, low, high), edges)[0]
    return {name: Bins(low, high, own, count) for name, count in counts.items()}


def tallest(found: Collection[Bins]) -> float:
    """The largest share of a set in one bin, for a common axis; of other sets, in those bins that hold nothing beyond.

    Examples
    --------
    >>> tallest(bins([1.0, 2.0, 3.0, 3.0], {"svhn": [0.0, 1.0]}, number=3).values())
    0.75
    """
    own = [each.id.max() / each.id.sum() for each in found]
    return float(max(own + [each.other[1:-1].max(initial=0) / each.other.sum() for each in found]))


def _span(sets: Sequence[Scores]) -> tuple[float, float]:
    """From the lowest 1 % of any set to the highest 1 % of any."""
    low = min(float(np.quantile(s, 0.01, method="lower")) for s in sets)
    return low, max(float(np.quantile(s, 0.99, method="higher")) for s in sets)


def roc(id_scores: ArrayLike, ood_scores: ArrayLike, points: int = POINTS) -> Curve:
    """The ROC curve with ID positive, from (0, 0) to (1, 1), thinned to about `points` of its points.

    x is the fraction of OOD accepted, y that of ID. No point of the whole curve is farther than 2 / `points` from the
    thinned one; equal scores are a straight line, as AUROC counts them.

    Raises
    ------
    InputError
        As `compute_metrics`.

    Examples
    --------
    >>> roc([2.0, 3.0], [1.0, 2.0])
    (array([0. , 0. , 0.5, 1. ]), array([0. , 0.5, 1. , 1. ]))
    """
    counts = count(id_scores, ood_scores)
    x = np.append(0.0, (counts.ood_from / counts.n_ood)[::-1])
    y = np.append(0.0, (counts.id_from / counts.n_id)[::-1])
    kept = _thinned((x + y) / 2, points)
    return x[kept], y[kept]


def risk_curve(curve: RiskCoverage, samples: int, points: int = POINTS) -> Curve:
    """Coverage and risk over `samples` inputs, thinned to about `points` of the points, without those of few answers.

    Examples
    --------
    >>> from oodline.evaluation.risk_coverage import risk_coverage
    >>> coverage, risk = risk_curve(risk_coverage(range(100), [True] * 99 + [False]), samples=100)
    >>> float(coverage[0]), float(risk[0])
    (0.2, 0.05)
    """
    kept = _thinned(curve.coverage, points)
    least = max(LEAST_ANSWERS / samples, LEAST_SHARE) - 1e-9
    kept = kept[(curve.coverage[kept] >= least) | (kept == kept[-1])]
    return curve.coverage[kept], curve.risk[kept]


def ladder(id_scores: ArrayLike, others: Mapping[str, ArrayLike], marked: float, *, id_name: str = "id") -> Ladder:
    """The positions of a slider for one detector.

    They are those of false-alarm rates from 0 to 1 (in steps of 0.5 % below 20 %), of every 5 % of all other images,
    and `marked`, the threshold to begin with.

    Raises
    ------
    InputError
        As `compute_metrics`.

    Examples
    --------
    >>> found = ladder([2.0, 3.0, 4.0], {"svhn": [1.0, 2.5]}, marked=2.0)
    >>> float(found.thresholds[found.marked])
    2.0
    >>> [{name: int(flagged[place]) for name, flagged in found.flagged.items()} for place in (0, found.marked, -1)]
    [{'id': 0, 'svhn': 0}, {'id': 0, 'svhn': 1}, {'id': 3, 'svhn': 2}]
    """
    sets = {id_name: check_scores("ID", id_scores)}
    sets |= {name: check_scores(f"OOD ('{name}')", scores) for name, scores in others.items()}
    ascending = {name: np.sort(finite(scores)) for name, scores in sets.items()}
    ids, every = ascending[id_name], np.sort(np.concatenate(list(ascending.values())))
    rest = every if len(ascending) == 1 else np.sort(np.concatenate(list(ascending.values())[1:]))
    n = len(ids)
    wanted = [ids[np.minimum((_SHARES * n).astype(np.int64), n - 1)]]
    wanted += [rest[np.arange(_STEPS) * len(rest) // _STEPS]]
    wanted += [np.array([every[0], np.nextafter(every[-1], np.inf), marked])]
    thresholds = np.unique(finite(np.concatenate(wanted)))
    return Ladder(
        thresholds,
        int(np.searchsorted(thresholds, marked)),
        {name: np.searchsorted(scores, thresholds) for name, scores in ascending.items()},
    )


def accepting(id_scores: ArrayLike, tpr: float) -> float:
    """The largest threshold at which at least a fraction `tpr` of these scores is accepted.

    Examples
    --------
    >>> accepting([1.0, 2.0, 3.0, 4.0], 0.75)
    2.0
    """
    ascending = np.sort(check_scores("ID", id_scores))
    return float(ascending[len(ascending) - at_least(tpr, len(ascending))])


def finite(scores: Scores) -> Scores:
    """The same with infinite scores at the ends of the floating-point numbers, where they can be drawn and written.

    Examples
    --------
    >>> bool(np.isfinite(finite(np.array([-np.inf, 1.0]))).all())
    True
    """
    return np.clip(scores, -_LARGEST / 4, _LARGEST / 4)


def _thinned(along: NDArray[np.float64], points: int) -> NDArray[np.int64]:
    """Positions of the first value of each of `points` equal parts of [0, 1], and of the last of all."""
    part = np.minimum((along * points).astype(np.int64), points - 1)
    first = np.flatnonzero(np.diff(part, prepend=-1))
    return np.unique(np.append(first, len(along) - 1))
