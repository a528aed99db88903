"""The shrunk covariance of Ledoit and Wolf (2004), from a pooled covariance and a sample of deviations."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

SAMPLE = 10_000
"""Training samples at most from which the one number that a covariance does not hold is estimated."""


def ledoit_wolf(
    covariance: Float[Tensor, "d d"], deviations: Float[Tensor, "s d"], samples: int
) -> Float[Tensor, "d d"]:
    """`(1 - a) S + a tr(S) / D I`, with the a that is expected to bring it nearest to the true covariance.

    `a = min(1, (m / N - |S|^2 / N) / |S - tr(S) / D I|^2)`, where m is the mean of `|x|^4` over the deviations.

    Parameters
    ----------
    covariance : Tensor (D, D)
        S, the maximum-likelihood covariance of all samples.
    deviations : Tensor (S, D)
        Of all samples or some, from their class means.
    samples : int
        N, how many S was computed from.

    Examples
    --------
    >>> x = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]]).double()
    >>> ledoit_wolf(x.T @ x / 4, x, 4)
    tensor([[1.2917, 0.0000],
            [0.0000, 1.2083]], dtype=torch.float64)
    """
    width = len(covariance)
    scale = covariance.diagonal().mean()
    target = scale * torch.eye(width, dtype=covariance.dtype)
    size, distance = covariance.square().sum(), (covariance - target).square().sum()
    fourth = deviations.to(covariance).square().sum(1).square().mean()
    noise = (fourth - size).clamp(min=0) / samples
    fraction = torch.where(distance > noise, noise / distance, 1.0)
    return (1 - fraction) * covariance + fraction * target
