"""One over the distance between the weights of two classes, for distances to decision boundaries.

Up to `LARGEST_TABLE` classes a fitted table (C, C) holds them, as exact as float64 can. Of more, that table would be
larger than the head itself: each batch computes its own rows from the norms of the weights and one product with them.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

LARGEST_TABLE = 2048
"""Classes up to which all distances are kept: 17 MB."""

SAME = 1e-5
"""Squared distance, over the sum of the squared norms, up to which two rows count as equal where it is computed from a
product: float32 tells no smaller one from rounding."""


def inverse_gap_table(weight: Float[Tensor, "c d"]) -> Float[Tensor, "h c"]:
    """The table of all classes (C, C), float32; where there are too many, the squared norms of their weights (1, C).

    Classes of equal weights have no boundary, and get 0 in place of infinity.

    Examples
    --------
    >>> inverse_gap_table(torch.tensor([[0.0], [2.0], [2.0]]))
    tensor([[0.0000, 0.5000, 0.5000],
            [0.5000, 0.0000, 0.0000],
            [0.5000, 0.0000, 0.0000]])
    """
    weight = weight.detach().cpu()
    if len(weight) > LARGEST_TABLE:
        norms: Tensor = torch.linalg.vector_norm(weight, dim=1, dtype=torch.float64)
        return norms.square().float().unsqueeze(0)
    weight = weight.double()
    gap = torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist")
    return torch.where(gap > 0, 1 / gap, 0.0).float()


def inverse_gaps(
    table: Float[Tensor, "h c"], weight: Float[Tensor, "c d"], classes: Int[Tensor, " n"]
) -> Float[Tensor, "n c"]:
    """One over the distance of the weights of each of `classes` from those of all classes (N, C).

    Parameters
    ----------
    table : Tensor (C, C) or (1, C)
        Of `inverse_gap_table`.
    weight : Tensor (C, D)
        The weights; not read where the table holds all.
    classes : Tensor (N,), int64
        In [0, C).

    Examples
    --------
    >>> weight = torch.tensor([[0.0], [2.0], [2.0]])
    >>> inverse_gaps(weight.square().T, weight, torch.tensor([1]))
    tensor([[0.5000, 0.0000, 0.0000]])
    """
    if len(table) == table.shape[1]:
        return table[classes]
    weight, squares = weight.to(table.dtype), table[0]
    sums = squares[classes].unsqueeze(1) + squares
    gaps = torch.addmm(sums, weight[classes], weight.T, alpha=-2)
    return torch.where(gaps > SAME * sums, gaps.clamp(min=torch.finfo(gaps.dtype).tiny).rsqrt(), 0.0)
