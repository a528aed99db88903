"""How the p-values of several detectors become one number: classical rules, as functions of log p-values.

Logarithms, since p-values far out are smaller than any floating number. All rules are symmetric in their M columns, and
take (N, M) to (N,): higher = more in-distribution, and never lower where a p-value grows. None of them needs the
p-values to be independent to be a good *score*: what the score is worth is calibrated afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor

TINY = -20.0
"""Where log p is below this, `tan(pi p)` is `pi p` to the last digit."""

FAR = -50.0
"""Where log p is below this, an expansion gives the normal quantile to the last digit of a float32."""


def fisher(log_p: Float[Tensor, "n m"]) -> Float[Tensor, " n"]:
    """`sum_i log p_i` (Fisher, Statistical Methods for Research Workers, 1932, Sec. 21.1), in (-inf, 0).

    Minus half of his chi-squared statistic. Several members a little surprised count as much as one that is very.

    Examples
    --------
    >>> fisher(torch.tensor([[0.1, 0.2]]).log()).exp()
    tensor([0.0200])
    """
    return log_p.sum(1)


def stouffer(log_p: Float[Tensor, "n m"]) -> Float[Tensor, " n"]:
    """`sum_i Phi^-1(p_i) / sqrt(M)` (Stouffer et al., The American Soldier, 1949), any real number.

    A p-value near 1 speaks for an input as loudly as one near 0 speaks against it.

    Examples
    --------
    >>> stouffer(torch.tensor([[0.1, 0.9], [0.5, 0.5]]).log()).abs() < 1e-6
    tensor([True, True])
    """
    return normal_quantile(log_p).sum(1) / math.sqrt(log_p.shape[1])


def harmonic(log_p: Float[Tensor, "n m"]) -> Float[Tensor, " n"]:
    """`log(M / sum_i 1 / p_i)`, the harmonic mean (Wilson, PNAS 2019, Eq. 1), in (-inf, 0).

    The smallest p-values decide; meant for dependent ones.

    Examples
    --------
    >>> harmonic(torch.tensor([[0.1, 0.4]]).log()).exp()
    tensor([0.1600])
    """
    return math.log(log_p.shape[1]) - torch.logsumexp(-log_p, 1)


def cauchy(log_p: Float[Tensor, "n m"]) -> Float[Tensor, " n"]:
    """`log(1/2 - arctan(T) / pi)`, `T = mean_i tan(pi (1/2 - p_i))` (Liu and Xie, JASA 2020, Eq. 1), in (-inf, 0).

    Like the harmonic mean where p-values are small; one next to 1 outweighs others as one next to 0 does.

    Examples
    --------
    >>> cauchy(torch.tensor([[0.1, 0.1]]).log()).exp()
    tensor([0.1000])
    """
    smallest = log_p.amin(1)
    # T times the smallest p-value stays finite, however small that is
    p = log_p.exp().clamp(max=1 - torch.finfo(log_p.dtype).eps)
    usual = smallest.exp().unsqueeze(1) / torch.tan(math.pi * p)
    terms = torch.where(log_p < TINY, (smallest.unsqueeze(1) - log_p).exp() / math.pi, usual)
    mean = terms.mean(1)
    near = torch.atan2(smallest.clamp(min=4 * TINY).exp(), mean).div(math.pi).log()
    # atan2 of something this small is the quotient; where members next to 1 outweigh it, it is not small
    return torch.where((smallest < TINY) & (mean > 0), smallest - (math.pi * mean.clamp(min=1e-30)).log(), near)


def minimum(log_p: Float[Tensor, "n m"]) -> Float[Tensor, " n"]:
    """`log min_i p_i` (Tippett, The Methods of Statistics, 1931), in (-inf, 0): the most surprised member decides.

    Examples
    --------
    >>> minimum(torch.tensor([[0.1, 0.4]]).log()).exp()
    tensor([0.1000])
    """
    return log_p.amin(1)


def z_sum(
    scores: Float[Tensor, "n m"], mean: Float[Tensor, " m"], deviation: Float[Tensor, " m"]
) -> Float[Tensor, " n"]:
    """`sum_i (s_i - mean_i) / deviation_i` of the scores themselves (CombOOD, SDM 2024), any real number.

    Unlike a p-value, a standardised score does not level off: one member may outweigh all others, either way.

    Parameters
    ----------
    scores : Tensor (N, M)
        Of M detectors, higher = more in-distribution.
    mean, deviation : Tensor (M,)
        Of each detector's ID scores; deviations above 0.

    Examples
    --------
    >>> z_sum(torch.tensor([[3.0, 10.0]]), torch.tensor([1.0, 20.0]), torch.tensor([2.0, 5.0]))
    tensor([-1.])
    """
    return ((scores - mean) / deviation).sum(1)


def moments_of(scores: Float[Tensor, "r m"]) -> Float[Tensor, "m 2"]:
    """What `z_sum` needs of reference scores (R, M): mean and standard deviation of each detector, above 0.

    Examples
    --------
    >>> moments_of(torch.tensor([[1.0], [3.0]]))
    tensor([[2., 1.]])
    """
    columns = scores.T.double()
    number = torch.finfo(scores.dtype)
    least = number.eps * columns.abs().amax(1) + number.tiny**0.5  # scores that are all the same tell nothing apart
    found = torch.stack([columns.mean(1), torch.maximum(columns.std(1, unbiased=False), least)], dim=1)
    return found.to(scores.dtype)


RULES: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"fisher": fisher, "stouffer": stouffer, "harmonic": harmonic, "cauchy": cauchy, "minimum": minimum}
)
"""Every rule for p-values by name; `z_sum` combines scores."""


def normal_quantile(log_p: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
    """`Phi^-1(exp(log_p))`, also where `exp(log_p)` is not a floating number any more.

    Examples
    --------
    >>> normal_quantile(torch.tensor([[-1000.0, -0.6931472]])).round(decimals=3)
    tensor([[-44.6160,   0.0000]])
    """
    largest = 1 - torch.finfo(log_p.dtype).eps
    upper = -torch.special.ndtri((-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny))
    lower = torch.special.ndtri(log_p.clamp(min=FAR).exp().clamp(max=largest))
    # log Phi(z) = -z^2/2 - log|z| - log(2 pi)/2 + log(1 - 1/z^2 + 3/z^4 - ...), solved for z^2
    twice = -2 * log_p.clamp(max=FAR) - math.log(2 * math.pi)
    square = twice
    for _ in range(6):
        square = twice - square.log() + 2 * torch.log1p(-1 / square + 3 / square**2 - 15 / square**3)
    return torch.where(log_p < FAR, -square.sqrt(), torch.where(log_p > math.log(0.5), upper, lower))
