"""The metric code of the LINe, DICE and ReAct papers, number for number.

Their repositories share one file (`util/metrics.py`; LINe at commit db5836a, DICE at 43896f8). Beside `metrics`:

- **FPR95** accepts OOD *strictly above* `known[round(0.05 n)]`, the ID scores ascending and `round` to even: an OOD
  score tied with the threshold is rejected, and the TPR is not exactly 95 % where 0.05 n is not an integer;
- **AUIN, AUOUT** join the points of the precision-recall curve by straight lines, where average precision takes steps,
  and draw a last line to precision 0 at recall 0, which costs half of what the most confident scores earn;
- **DTERR** weighs ID and OOD by their numbers;
- **AUROC** is the same: half for ties.

For comparing with the papers. For everything else `compute_metrics` says what the scores are worth.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from oodline.evaluation.counts import Counts, Integers, count
from oodline.evaluation.metrics import Convention, Metrics, Rates, area_under_roc


def paper_rates(counts: Counts) -> Rates:
    """Every rate as the authors' code counts it.

    The authors have no FPR with OOD positive: `fpr95_ood_positive` is their rule with the two sets exchanged.
    """
    return {
        "auroc": area_under_roc(counts),
        "aupr_in": _area(counts.id_from, counts.ood_from),
        "aupr_out": _area(counts.ood.cumsum(-1)[..., ::-1], counts.id.cumsum(-1)[..., ::-1]),
        "fpr95_id_positive": _beyond(counts.id, counts.ood),
        "fpr95_ood_positive": _beyond(counts.ood[..., ::-1], counts.id[..., ::-1]),
    }


PAPER = Convention("paper", paper_rates)
"""As the authors of LINe, DICE and ReAct count."""


def paper_metrics(id_scores: ArrayLike, ood_scores: ArrayLike) -> Metrics:
    """Compute every metric as the authors' code does: `aupr_in` and `aupr_out` are their AUIN and AUOUT.

    Raises
    ------
    InputError
        As `compute_metrics`.

    Examples
    --------
    An OOD score tied with the threshold is accepted by the definition, and rejected by the authors' code:

    >>> from oodline.evaluation.metrics import compute_metrics
    >>> scores = [1.0, 2.0], [0.0, 1.0]
    >>> compute_metrics(*scores).fpr95_id_positive, paper_metrics(*scores).fpr95_id_positive
    (0.5, 0.0)
    """
    return PAPER.measure(id_scores, ood_scores)


def detection_error(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """DTERR: the smallest share of all samples, ID and OOD together, that one threshold takes for the other kind.

    In [0, min(n_id, n_ood) / (n_id + n_ood)]: always answering the more frequent kind gives that bound.

    Raises
    ------
    InputError
        As `compute_metrics`.

    Examples
    --------
    >>> detection_error([2.0, 3.0], [1.0, 2.5])
    0.25
    """
    counts = count(id_scores, ood_scores)
    rejected, accepted = np.append(0, counts.id.cumsum()), np.append(counts.ood_from, 0)
    return float((rejected + accepted).min() / (counts.n_id + counts.n_ood))


def _beyond(known: Integers, novel: Integers) -> Any:
    """Share of `novel` strictly above the known score of rank `round(0.05 n)`, counted from 0."""
    up_to = known.cumsum(-1)
    rank = round(0.05 * int(up_to[..., -1].flat[0]))  # in floating point and to even, as the authors' code
    threshold = (up_to <= rank).sum(-1)
    above = novel.sum(-1, keepdims=True) - novel.cumsum(-1)
    return np.take_along_axis(above, np.expand_dims(threshold, -1), -1)[..., 0] / novel.sum(-1)


def _area(true: Integers, false: Integers) -> Any:
    """Area under the straight lines that join (recall, precision), from recall 1 down to (0, 0).

    `true` and `false` (..., U) are retrieved at each threshold, the most generous one first.
    """
    found = true + false
    precision: NDArray[np.float64] = true / np.maximum(found, 1)
    recall = true / true[..., :1]
    # where nothing is retrieved there is no point; recall is 0 there, and so is the width of the line to it
    end = np.zeros_like(recall[..., :1])
    precision = np.concatenate([precision, end], -1)
    recall = np.concatenate([recall, end], -1)
    return -(np.diff(recall, axis=-1) * (precision[..., 1:] + precision[..., :-1]) / 2).sum(-1)
