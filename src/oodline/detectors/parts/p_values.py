"""From scores to p-values against ID scores of the same detector: smooth, and with a tail beyond the sample.

A conformal p-value counts the reference scores below: of n it can say no less than 1 / (n + 1), so that all that lies
beyond them looks the same, and it jumps by 1 / (n + 1) at each. As a scale on which detectors meet it should do
neither: a few quantiles of the reference are joined by straight lines, and exponential tails go on from the last ones.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

LEVELS = tuple(i / 20 for i in range(2, 19))
"""Fractions of ID scores that lie below the knots: 10 %, 15 %, ..., 90 %. Beyond the outermost are the tails."""

WIDTH = len(LEVELS) + 2
"""Numbers that are kept for each detector: the quantiles at `LEVELS` and the two tails."""

NARROWEST = 1e-3
"""Neighbouring knots lie at least this fraction of all their range apart, lest rounding decides between tied scores."""


def scale_of(scores: Float[Tensor, "r m"]) -> Float[Tensor, "m k"]:
    """What is kept of reference scores: for each detector the quantiles at `LEVELS`, ascending, and the two tails.

    Parameters
    ----------
    scores : Tensor (R, M)
        ID scores of M detectors, R >= 10.

    Returns
    -------
    Tensor (M, K + 2)
        The knots, then the mean excess of the scores below the lowest knot, and of those above the highest.
    """
    columns = scores.T.double()
    knots = columns.quantile(columns.new_tensor(LEVELS), dim=1).T
    first, last = knots[:, :1], knots[:, -1:]
    floor = torch.finfo(scores.dtype).eps * knots.abs().amax(1, keepdim=True) + torch.finfo(scores.dtype).tiny ** 0.5
    narrowest = NARROWEST * (last - first) + floor
    knots = knots + narrowest * torch.arange(len(LEVELS)).to(knots)
    tails = [_mean_excess(first - columns), _mean_excess(columns - last)]
    return torch.cat([knots, *(torch.maximum(tail, narrowest) for tail in tails)], dim=1).to(scores.dtype)


def log_p_values(scores: Float[Tensor, "n m"], scale: Float[Tensor, "m k"]) -> Float[Tensor, "n m"]:
    """Logarithms of p-values of "this is an ID score", one per detector; small means OOD.

    Between knots p rises linearly. Below the lowest knot u, of level a, excesses `u - s` are taken to be exponential
    (a generalised Pareto tail of shape 0; Pickands, Annals of Statistics 1975), with the mean that they have in the
    reference: `log p = log a - (u - s) / mean excess`. Above the highest knot 1 - p falls off in the same way.

    Parameters
    ----------
    scores : Tensor (N, M)
        Of M detectors, higher = more in-distribution.
    scale : Tensor (M, K + 2)
        What `scale_of` made of their reference scores.

    Returns
    -------
    Tensor (N, M)
        In (-inf, 0]; strictly increasing in the score, as far as floating numbers can tell.

    Examples
    --------
    >>> scale = scale_of(torch.arange(101.0).unsqueeze(1))
    >>> p = log_p_values(torch.tensor([[50.0], [10.0], [-10.0], [200.0]]), scale).exp()
    >>> p.flatten().round(decimals=3)
    tensor([0.4940, 0.1000, 0.0030, 1.0000])
    """
    knots, low_excess, high_excess = scale[:, :-2], scale[:, -2:-1], scale[:, -1:]
    levels = scale.new_tensor(LEVELS)
    at = scores.T
    # counting is as quick as a search among so few, and any runtime can do it
    place = (at.unsqueeze(2) >= knots.unsqueeze(1)).sum(2).clamp(1, len(LEVELS) - 1)
    low, high = knots.gather(1, place - 1), knots.gather(1, place)
    step = ((at - low) / (high - low)).clamp(0, 1)
    inside = (levels[place - 1] + step * (levels[1] - levels[0])).log()
    below, above = (knots[:, :1] - at).clamp(min=0), (at - knots[:, -1:]).clamp(min=0)
    beyond = torch.log1p(-(1 - LEVELS[-1]) * (-above / high_excess).exp())
    return torch.where(below > 0, math.log(LEVELS[0]) - below / low_excess, torch.where(above > 0, beyond, inside)).T


def _mean_excess(excess: Float[Tensor, "m r"]) -> Float[Tensor, "m 1"]:
    beyond = excess > 0
    return (excess * beyond).sum(1, keepdim=True) / beyond.sum(1, keepdim=True).clamp(min=1)
