"""ID and OOD scores as counts of their distinct values: what every metric that depends only on order is computed from.

Ties are then nothing special, a resample of the bootstrap is another row of counts, and nothing is rounded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from oodline.errors import InputError, SettingError

Scores = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Counts:
    """How many ID and OOD samples have each score.

    Parameters
    ----------
    id, ood : ndarray (..., U), int64
        Samples at each of U scores in ascending order; leading dimensions are resamples.

    Examples
    --------
    >>> counts = count([2.0, 3.0, 3.0], [1.0, 2.0])
    >>> counts.id, counts.ood, counts.id_from, counts.ood_from
    (array([0, 1, 2]), array([1, 1, 0]), array([3, 3, 2]), array([2, 1, 0]))
    """

    id: Integers
    ood: Integers

    @property
    def n_id(self) -> Any:
        """Number of ID samples, (...)."""
        return self.id.sum(-1)

    @property
    def n_ood(self) -> Any:
        """Number of OOD samples, (...)."""
        return self.ood.sum(-1)

    @property
    def id_from(self) -> Integers:
        """ID samples at or above each score, (..., U)."""
        return _from_above(self.id)

    @property
    def ood_from(self) -> Integers:
        """OOD samples at or above each score, (..., U)."""
        return _from_above(self.ood)


def count(id_scores: ArrayLike, ood_scores: ArrayLike) -> Counts:
    """Count two lists of scores.

    Raises
    ------
    InputError
        A list is empty, is not one-dimensional, or holds NaN. Infinite scores are ordered like any other.
    """
    i, o = check_scores("ID", id_scores), check_scores("OOD", ood_scores)
    values, place = np.unique(np.concatenate([i, o]), return_inverse=True)
    return Counts(
        np.bincount(place[: len(i)], minlength=len(values)), np.bincount(place[len(i) :], minlength=len(values))
    )


def check_scores(side: str, scores: ArrayLike) -> Scores:
    """Scores (N,) as float64, `side` being what to call them in a message.

    Raises
    ------
    InputError
        There is none, they are not one-dimensional, or some are NaN.

    Examples
    --------
    >>> check_scores("ID", [1, 2])
    array([1., 2.])
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1:
        raise InputError(f"the {side} scores have shape {values.shape}; one score per sample, (N,), is needed.")
    if len(values) == 0:
        raise InputError(f"there are no {side} scores.")
    if missing := int(np.isnan(values).sum()):
        raise InputError(f"{missing} of {len(values)} {side} scores are NaN: no metric is defined on them.")
    return values


def at_least(tpr: float, n: int) -> int:
    """The smallest number of `n` samples that is a fraction `tpr` of them.

    Raises
    ------
    SettingError
        `tpr` is outside (0, 1].

    Examples
    --------
    >>> at_least(0.95, 20), math.ceil(0.95 * 60), at_least(0.95, 60)
    (19, 57, 57)
    """
    if not 0 < tpr <= 1:
        raise SettingError(f"a TPR lies in (0, 1]; {tpr} does not.")
    # 0.95 * 20 is a little above 19 in floating point; the decimal that was written is meant
    return math.ceil(Fraction(str(float(tpr))) * n)


def _from_above(counts: Integers) -> Integers:
    found: Integers = counts.sum(-1, keepdims=True) - counts.cumsum(-1) + counts
    return found
