"""Entropy of the softmax, and GEN, its generalisation (Liu et al., CVPR 2023, Eq. 3)."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from oodline._util.ranges import Count, Rate
from oodline.detectors.assumptions import SOFTMAX
from oodline.detectors.base import Detector
from oodline.detectors.paper import Paper, Preset
from oodline.model.activations import Activations, Needs


class Entropy(Detector):
    """Negative Shannon entropy of the softmax, `sum_y p_y log p_y`. Higher = more in-distribution.

    Range: [-log C, 0], in nats. Two samples tie at 0 only where one logit leads by more than 745, in double precision.

    Examples
    --------
    >>> from oodline.testing import activations_of
    >>> Entropy()(activations_of(torch.tensor([[0.0, 0.0], [0.0, 9.0]])))
    tensor([-0.6931, -0.0012], dtype=torch.float64)
    """

    name: ClassVar = "entropy"
    needs: ClassVar = Needs.LOGITS
    assumes: ClassVar = (SOFTMAX,)
    paper: ClassVar = Paper(
        "Predictive Uncertainty Estimation via Prior Networks (the entropy baseline)", "NeurIPS 2018", "1802.10501"
    )

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Negative entropy (N,)."""
        z = activations.logits.double()
        largest, winner = z.max(1, keepdim=True)
        behind = z - largest
        # the largest probability is all but the others, so that its logarithm is not a difference of large numbers
        others = behind.exp().scatter(1, winner, 0.0)
        rest = others.sum(1)
        return (others * behind).sum(1) / (1 + rest) - rest.log1p()


def generalised_entropy(logits: Float[Tensor, "n c"], gamma: float, top: int) -> Float[Tensor, " n"]:
    """`sum over the largest top p of p^gamma (1 - p)^gamma`."""
    z = logits.double()
    largest, winner = z.max(1, keepdim=True)
    behind = z - largest
    log_rest = behind.scatter(1, winner, -torch.inf).logsumexp(1, keepdim=True)
    if top < z.shape[1]:
        behind, winner = behind.topk(top, dim=1).values, torch.zeros_like(winner)
    log_total = log_rest.exp().log1p()
    log_p = behind - log_total
    # the largest p can be all but one, and what is left of it is then the sum of the others, not a difference
    log_left = torch.log1p(-log_p.exp()).scatter(1, winner, log_rest - log_total)
    return (gamma * (log_p + log_left)).exp().sum(1)


class GEN(Detector):
    """Negative generalised entropy: `-sum_m p_m^gamma (1 - p_m)^gamma` over the M largest probabilities.

    A small gamma weighs small probabilities more, so that near certainty still differs from certainty. Higher = more
    in-distribution. Range: [-M 4^-gamma, 0]. Two samples tie at 0 only where one logit leads by more than 745 / gamma.

    Parameters
    ----------
    gamma : float
        In (0, 1); 0.1 in the paper.
    top : int
        M, how many of the largest probabilities count; 100 in the paper for ImageNet, all C where C is smaller.

    Raises
    ------
    SettingError
        A setting is out of range.

    Examples
    --------
    >>> from oodline.testing import activations_of
    >>> round(float(GEN(gamma=0.5)(activations_of(torch.tensor([[0.0, 0.0]])))), 6)
    -1.0
    """

    name: ClassVar = "gen"
    needs: ClassVar = Needs.LOGITS
    assumes: ClassVar = (SOFTMAX,)
    paper: ClassVar = Paper("GEN: Pushing the Limits of Softmax-Based Out-of-Distribution Detection", "CVPR 2023")
    presets: ClassVar = {"imagenet": Preset({"gamma": 0.1, "top": 100}, "the paper's ImageNet experiments")}
    tunable: ClassVar = {"gamma": (0.5, 0.3, 0.1, 0.05, 0.01), "top": (10, 100)}

    def __init__(self, *, gamma: Rate = 0.1, top: Count = 100) -> None:
        super().__init__()
        self.gamma = gamma
        self.top = top

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Negative generalised entropy (N,)."""
        return -generalised_entropy(activations.logits, self.gamma, self.top)
