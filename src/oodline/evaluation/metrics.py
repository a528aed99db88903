"""Detection metrics from two lists of scores, exact on ties, with the convention of each in its name.

A higher score always means more in-distribution. Everything is counted in integers from the distinct scores: no
histogram, no table of pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from oodline.evaluation.counts import Counts, Integers, at_least, count

Rates = Mapping[str, Any]
"""The rates of `Metrics` by name: numbers, or arrays of one value per resample."""


@dataclass(frozen=True)
class Metrics:
    """All metrics of one detector on one pair of ID and OOD sets; rates are in [0, 1].

    Parameters
    ----------
    auroc, aupr_in, aupr_out, fpr95_id_positive, fpr95_ood_positive : float
        See the functions of these names; FPR at a TPR of 0.95.
    n_id, n_ood : int
        Sizes of the two sets; both AUPRs depend on their ratio.
    """

    auroc: float
    aupr_in: float
    aupr_out: float
    fpr95_id_positive: float
    fpr95_ood_positive: float
    n_id: int
    n_ood: int


@dataclass(frozen=True)
class Convention:
    """A way to count: every rate from `Counts`, for one row of them or for one row a resample.

    Examples
    --------
    >>> EXACT.measure([2.0, 3.0], [1.0, 2.5]).auroc
    0.75
    """

    name: str
    """What to call it in a table."""
    rates: Callable[[Counts], Rates]
    """From counts (..., U) to rates (...)."""

    def measure(self, id_scores: ArrayLike, ood_scores: ArrayLike) -> Metrics:
        """Compute every metric; raises as `compute_metrics`."""
        counts = count(id_scores, ood_scores)
        rates = {name: float(value) for name, value in self.rates(counts).items()}
        return Metrics(**rates, n_id=int(counts.n_id), n_ood=int(counts.n_ood))


def exact_rates(counts: Counts) -> Rates:
    """Every rate, ties counted as the functions of this module say."""
    return {
        "auroc": area_under_roc(counts),
        "aupr_in": _average_precision(counts.id, counts.id_from, counts.ood_from),
        "aupr_out": _average_precision(*(each[..., ::-1] for each in (counts.ood, *_up_to(counts)))),
        "fpr95_id_positive": _accepted(counts, 0.95),
        "fpr95_ood_positive": _flagged(counts, 0.95),
    }


EXACT = Convention("exact", exact_rates)
"""Ties count as they are; see the functions of this module."""


def compute_metrics(id_scores: ArrayLike, ood_scores: ArrayLike) -> Metrics:
    """Compute every metric.

    Raises
    ------
    InputError
        A list is empty, is not one-dimensional, or holds NaN. Infinite scores are ordered like any other.

    Examples
    --------
    >>> compute_metrics([2.0, 3.0], [1.0, 2.5]).auroc
    0.75
    """
    return EXACT.measure(id_scores, ood_scores)


def auroc(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Probability that a random ID score exceeds a random OOD score, ties counting half.

    In [0, 1]; 0.5 is chance, constant scores give exactly that. The same whichever class is called positive.

    Examples
    --------
    >>> auroc([1.0, 1.0], [1.0])
    0.5
    """
    return float(area_under_roc(count(id_scores, ood_scores)))


def aupr_in(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Average precision with ID positive: the step-wise area under precision and recall.

    In [0, 1]; chance is `n_id / (n_id + n_ood)`, so compare only at equal set sizes.

    Examples
    --------
    >>> round(aupr_in([2.0, 3.0], [1.0, 2.5]), 4)
    0.8333
    """
    return float(exact_rates(count(id_scores, ood_scores))["aupr_in"])


def aupr_out(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Average precision with OOD positive; chance is `n_ood / (n_id + n_ood)`.

    Examples
    --------
    >>> aupr_out([2.0, 3.0], [0.0, 1.0])
    1.0
    """
    return float(exact_rates(count(id_scores, ood_scores))["aupr_out"])


def fpr_at_tpr_id_positive(id_scores: ArrayLike, ood_scores: ArrayLike, tpr: float = 0.95) -> float:
    """Fraction of OOD accepted at the threshold that accepts a fraction `tpr` of ID.

    The convention of the LINe, DICE and ReAct papers. The threshold is the largest that at least `tpr` of the ID scores
    reach. In [0, 1], lower is better; constant scores give 1.

    The same scores can give very different numbers under the two conventions, so a table must say which it prints.

    Raises
    ------
    SettingError
        `tpr` is outside (0, 1].

    Examples
    --------
    >>> ids, oods = np.arange(100.0), np.append(np.full(90, -1.0), np.full(10, 49.5))
    >>> fpr_at_tpr_id_positive(ids, oods), fpr_at_tpr_ood_positive(ids, oods)
    (0.1, 0.5)
    """
    return float(_accepted(count(id_scores, ood_scores), tpr))


def fpr_at_tpr_ood_positive(id_scores: ArrayLike, ood_scores: ArrayLike, tpr: float = 0.95) -> float:
    """Fraction of ID flagged at the threshold that flags a fraction `tpr` of OOD.

    The convention of OpenOOD. The threshold is the smallest that at least `tpr` of the OOD scores do not exceed. In
    [0, 1], lower is better; constant scores give 1.

    Raises
    ------
    SettingError
        `tpr` is outside (0, 1].

    Examples
    --------
    >>> fpr_at_tpr_ood_positive([2.0, 3.0, 4.0, 5.0], [1.0, 2.5])
    0.25
    """
    return float(_flagged(count(id_scores, ood_scores), tpr))


def area_under_roc(counts: Counts) -> Any:
    """AUROC of every row of counts."""
    below = counts.ood.cumsum(-1) - counts.ood
    pairs = (counts.id * (2 * below + counts.ood)).sum(-1)
    return pairs / (2 * counts.n_id * counts.n_ood)


def _average_precision(positive: Integers, true: Integers, false: Integers) -> Any:
    # all scores at least as far out as each are retrieved together: ties share one step
    precision = true / np.maximum(true + false, 1)
    return (positive * precision).sum(-1) / positive.sum(-1)


def _up_to(counts: Counts) -> tuple[Integers, Integers]:
    return counts.ood.cumsum(-1), counts.id.cumsum(-1)


def _accepted(counts: Counts, tpr: float) -> Any:
    accepted = counts.id_from
    needed = at_least(tpr, int(accepted[..., 0].flat[0]))  # resamples have the size of the sample
    last = (accepted >= needed).sum(-1) - 1
    return _pick(counts.ood_from, last) / counts.n_ood


def _flagged(counts: Counts, tpr: float) -> Any:
    flagged = counts.ood.cumsum(-1)
    needed = at_least(tpr, int(flagged[..., -1].flat[0]))
    first = (flagged < needed).sum(-1)
    return _pick(counts.id.cumsum(-1), first) / counts.n_id


def _pick(values: Integers, place: Any) -> NDArray[np.int64]:
    return np.take_along_axis(values, np.expand_dims(place, -1), -1)[..., 0]
