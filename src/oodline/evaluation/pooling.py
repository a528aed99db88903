"""Several OOD sets at one threshold, and covariate-shifted data as ID.

A table's mean over OOD sets sets a threshold for each of them. A deployed guard has one. With ID positive that is no
difference in the threshold, since only ID data sets it, but every *image* counts the same in place of every set; with
OOD positive it is another threshold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from oodline.errors import InputError
from oodline.evaluation.counts import Scores, at_least, check_scores


@dataclass(frozen=True)
class OneThreshold:
    """What one threshold does to ID data and to every OOD set.

    Parameters
    ----------
    threshold : float
        Inputs that score above it are accepted, all others flagged.
    id_flagged : float
        Fraction of ID data that is flagged: the false alarms.
    ood_flagged : dict of str to float
        Fraction of each OOD set that is flagged.
    """

    threshold: float
    id_flagged: float
    ood_flagged: dict[str, float]


def pool(ood_scores: Mapping[str, ArrayLike]) -> Scores:
    """Scores of all OOD sets as one set, in which every image counts the same.

    Raises
    ------
    InputError
        There is no set, or as `compute_metrics`; the message names the set.

    Examples
    --------
    >>> pool({"svhn": [1.0, 2.0], "textures": [3.0]})
    array([1., 2., 3.])
    """
    if not ood_scores:
        raise InputError("there is no OOD set to pool.")
    return np.concatenate([check_scores(f"OOD ('{name}')", scores) for name, scores in ood_scores.items()])


def one_threshold(id_scores: ArrayLike, ood_scores: Mapping[str, ArrayLike], tpr: float = 0.95) -> OneThreshold:
    """The smallest threshold that flags a fraction `tpr` of all OOD images together, and what it does to each set.

    `id_flagged` equals `fpr_at_tpr_ood_positive` of the pooled sets, ties included.

    Raises
    ------
    InputError
        As `pool`.
    SettingError
        `tpr` is outside (0, 1].

    Examples
    --------
    Two sets that are easy and hard by themselves: a threshold for both lets a part of the hard one through.

    >>> one_threshold([4.0, 5.0, 6.0, 7.0], {"easy": [0.0, 1.0, 2.0, 3.0], "hard": [5.5]}, tpr=0.8)
    OneThreshold(threshold=3.0, id_flagged=0.0, ood_flagged={'easy': 1.0, 'hard': 0.0})
    """
    i, together = check_scores("ID", id_scores), np.sort(pool(ood_scores))
    threshold = together[at_least(tpr, len(together)) - 1]
    return OneThreshold(
        float(threshold),
        float((i <= threshold).mean()),
        {name: float((np.asarray(scores, np.float64) <= threshold).mean()) for name, scores in ood_scores.items()},
    )


def full_spectrum(
    id_scores: Mapping[str, Float[Tensor, " n"]], csid_scores: Mapping[str, Mapping[str, Float[Tensor, " m"]]]
) -> dict[str, Float[Tensor, " k"]]:
    """ID scores with those of covariate-shifted ID sets, which count as ID (full-spectrum; Yang et al., IJCV 2023).

    Parameters
    ----------
    id_scores : mapping of str to Tensor (n,)
        By detector.
    csid_scores : mapping of str to mapping of str to Tensor (m,)
        By set and detector: the same classes under blur, noise, another style.

    Returns
    -------
    dict of str to Tensor (n + all m,)
        By detector, to be given to `tabulate` in place of the ID scores.

    Examples
    --------
    >>> full_spectrum({"energy": torch.tensor([1.0])}, {"blur": {"energy": torch.tensor([2.0, 3.0])}})
    {'energy': tensor([1., 2., 3.])}
    """
    return {
        name: torch.cat([scores, *(by_name[name] for by_name in csid_scores.values())])
        for name, scores in id_scores.items()
    }
