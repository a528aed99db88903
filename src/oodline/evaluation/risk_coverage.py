"""What a threshold costs: risk against coverage, and how far apart the raw scores lie.

AUROC asks whether OOD is told from ID. Someone who runs a classifier asks another question: of the answers that are
given, how many are wrong? An answer is wrong for an ID input of another class, and for every OOD input.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from oodline.errors import InputError
from oodline.evaluation.counts import check_scores


@dataclass(frozen=True, eq=False)
class RiskCoverage:
    """Risk at every coverage, from the strictest threshold to the one that accepts everything.

    Parameters
    ----------
    threshold : ndarray (U,)
        The distinct scores in descending order: inputs that score at least so much are answered.
    coverage : ndarray (U,)
        Fraction of all inputs, ID and OOD, that is answered; ascending, the last is 1.
    risk : ndarray (U,)
        Fraction of the answers that is wrong.
    aurc : float
        Area under risk and coverage (Geifman, Uziel and El-Yaniv, ICLR 2019): the mean risk over k answers, k from 1 to
        all of them, in [0, 1], lower is better. Inputs of one score count in the mean of all their orders.
    """

    threshold: NDArray[np.float64]
    coverage: NDArray[np.float64]
    risk: NDArray[np.float64]
    aurc: float

    def coverage_at(self, risk: float) -> float:
        """The largest coverage whose risk is at most `risk`, 0 where there is none."""
        within = self.coverage[self.risk <= risk]
        return float(within.max()) if len(within) else 0.0


def risk_coverage(id_scores: ArrayLike, correct: ArrayLike, ood_scores: ArrayLike | None = None) -> RiskCoverage:
    """Risk and coverage when inputs are answered from the highest score down.

    Parameters
    ----------
    id_scores : array_like (n,)
        Scores of ID inputs, higher = more in-distribution.
    correct : array_like (n,), bool
        Whether the classifier is right about each.
    ood_scores : array_like (m,), optional
        Scores of OOD inputs, about each of which every answer is wrong; without them, the curve of misclassification.

    Raises
    ------
    InputError
        A list is empty, is not one-dimensional, or holds NaN; `correct` has another length or is not a truth value.

    Examples
    --------
    >>> curve = risk_coverage([3.0, 1.0], [True, False], [2.0, 0.0])
    >>> curve.coverage, curve.risk
    (array([0.25, 0.5 , 0.75, 1.  ]), array([0.        , 0.5       , 0.66666667, 0.75      ]))
    >>> curve.coverage_at(0.5)
    0.5
    """
    scores = check_scores("ID", id_scores)
    right = np.asarray(correct)
    if right.shape != scores.shape:
        raise InputError(f"there are {len(scores)} ID scores, and `correct` has shape {right.shape}.")
    if not np.isin(right, (0, 1)).all():
        raise InputError("`correct` says of each ID sample whether its class was right: true or false, not a label.")
    wrong = 1 - right.astype(np.int64)
    if ood_scores is not None:
        others = check_scores("OOD", ood_scores)
        scores, wrong = np.concatenate([scores, others]), np.concatenate([wrong, np.ones(len(others), np.int64)])
    values, place = np.unique(-scores, return_inverse=True)
    size = np.bincount(place)
    errors = np.bincount(place, weights=wrong)
    answered, mistakes = size.cumsum(), errors.cumsum()
    # within a group of equal scores, the expected number of mistakes grows evenly from one answer to the next
    k = np.arange(1, len(scores) + 1)
    group = np.repeat(np.arange(len(values)), size)
    expected = (mistakes - errors)[group] + (k - (answered - size)[group]) * (errors / size)[group]
    return RiskCoverage(-values, answered / len(scores), mistakes / answered, float((expected / k).mean()))


def autc(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Area under the threshold curve (Humblot-Renaux, Escalera and Moeslund, CVPRW 2023): how far apart the scores lie.

    The mean, over thresholds spread evenly from the lowest to the highest score, of the rates of ID flagged and OOD
    accepted, which is `(1 - mean ID + mean OOD) / 2` for scores scaled to [0, 1]. In [0, 1], lower is better; 0.5 where
    the means agree, and where all scores are equal. Unlike AUROC it changes when scores are rescaled unevenly, so
    compare detectors by it only where their scores are of one kind.

    Raises
    ------
    InputError
        A list is empty, is not one-dimensional, or holds NaN or infinite scores.

    Examples
    --------
    >>> autc([4.0, 5.0], [1.0, 2.0])
    0.125
    """
    i, o = check_scores("ID", id_scores), check_scores("OOD", ood_scores)
    together = np.concatenate([i, o])
    if infinite := int(np.isinf(together).sum()):
        raise InputError(f"{infinite} of {len(together)} scores are infinite: no evenly spread thresholds reach them.")
    # halved before they are subtracted: the difference of two finite numbers need not be finite
    low, high = together.min() / 2, together.max() / 2
    if low == high:
        return 0.5
    scaled_id, scaled_ood = (((side / 2 - low) / (high - low)).mean() for side in (i, o))
    return float((1 - scaled_id + scaled_ood) / 2)
