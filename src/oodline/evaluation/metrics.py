"""Detection metrics from two lists of scores, exact on ties, with the convention of each in its name.

A higher score always means more in-distribution. Everything is counted in float64 from sorted scores: no histogram, no
table of pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

from oodline.errors import InputError, SettingError

Scores = NDArray[np.float64]


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
    i, o = _check(id_scores, ood_scores)
    return Metrics(
        auroc=auroc(i, o),
        aupr_in=aupr_in(i, o),
        aupr_out=aupr_out(i, o),
        fpr95_id_positive=fpr_at_tpr_id_positive(i, o),
        fpr95_ood_positive=fpr_at_tpr_ood_positive(i, o),
        n_id=len(i),
        n_ood=len(o),
    )


def auroc(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Probability that a random ID score exceeds a random OOD score, ties counting half.

    In [0, 1]; 0.5 is chance, constant scores give exactly that. The same whichever class is called positive.

    Examples
    --------
    >>> auroc([1.0, 1.0], [1.0])
    0.5
    """
    i, o = _check(id_scores, ood_scores)
    below = np.searchsorted(o, i, side="left").sum()
    up_to = np.searchsorted(o, i, side="right").sum()
    return float(int(below) + int(up_to)) / (2 * len(i) * len(o))


def aupr_in(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Average precision with ID positive: the step-wise area under precision and recall.

    In [0, 1]; chance is `n_id / (n_id + n_ood)`, so compare only at equal set sizes.

    Examples
    --------
    >>> round(aupr_in([2.0, 3.0], [1.0, 2.5]), 4)
    0.8333
    """
    return _average_precision(*_check(id_scores, ood_scores))


def aupr_out(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Average precision with OOD positive; chance is `n_ood / (n_id + n_ood)`.

    Examples
    --------
    >>> aupr_out([2.0, 3.0], [0.0, 1.0])
    1.0
    """
    i, o = _check(id_scores, ood_scores)
    return _average_precision(-o[::-1], -i[::-1])


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
    i, o = _check(id_scores, ood_scores)
    threshold = i[len(i) - _count(tpr, len(i))]
    return float(len(o) - np.searchsorted(o, threshold, side="left")) / len(o)


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
    i, o = _check(id_scores, ood_scores)
    threshold = o[_count(tpr, len(o)) - 1]
    return float(np.searchsorted(i, threshold, side="right")) / len(i)


def _average_precision(positive: Scores, negative: Scores) -> float:
    # at each distinct positive score, all scores at least as large are retrieved together: ties share one step
    values, counts = np.unique(positive, return_counts=True)
    true = len(positive) - np.searchsorted(positive, values, side="left")
    false = len(negative) - np.searchsorted(negative, values, side="left")
    return float((counts / len(positive) * true / (true + false)).sum())


def _count(tpr: float, n: int) -> int:
    if not 0 < tpr <= 1:
        raise SettingError(f"a TPR lies in (0, 1]; {tpr} does not.")
    # 0.95 * 20 is a little above 19 in floating point; the decimal that was written is meant
    return math.ceil(Fraction(str(float(tpr))) * n)


def _check(id_scores: ArrayLike, ood_scores: ArrayLike) -> tuple[Scores, Scores]:
    found = []
    for side, scores in (("ID", id_scores), ("OOD", ood_scores)):
        values = np.asarray(scores, dtype=np.float64)
        if values.ndim != 1:
            raise InputError(f"the {side} scores have shape {values.shape}; one score a sample, (N,), is needed.")
        if len(values) == 0:
            raise InputError(f"there are no {side} scores.")
        if missing := int(np.isnan(values).sum()):
            raise InputError(f"{missing} of {len(values)} {side} scores are NaN: no metric is defined on them.")
        found.append(np.sort(values))
    return found[0], found[1]
