"""ASH-S: prune small activations of each sample and sharpen the rest (Djurisic et al., ICLR 2023, Algorithm 3)."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from oodline.activations import Activations, Needs
from oodline.detectors.base import Detector, Paper
from oodline.detectors.rectifier import Rectifier, check_fraction


def sharpen(features: Float[Tensor, "n d"], p: float) -> Float[Tensor, "n d"]:
    """Keep the largest (1 - p) D features of each row and multiply them by exp(sum before / sum after)."""
    width = features.shape[1]
    kept = max(1, width - round(width * p))
    values, places = features.topk(kept, dim=1)
    before, after = features.sum(1), values.sum(1)
    # for non-negative features, before / after lies in [1, D / kept]: the clamp only tames signed features, and the
    # zero rows whose ratio is 0 / 0
    ratio = torch.where(after > 0, before / after, 1.0).clamp(0.0, width / kept)
    return torch.zeros_like(features).scatter(1, places, values * ratio.exp().unsqueeze(1))


class ASHS(Rectifier):
    """Activation shaping, variant S, on the penultimate features, scored by energy.

    Of each sample the p D smallest features are set to zero and the others multiplied by `exp(s1 / s2)`, s1 and s2
    being the sums before and after. Higher = more in-distribution; units of the logits. Meant for
    non-negative features.

    Parameters
    ----------
    p : float
        Fraction of the features pruned, in [0, 1); 0.9 in the paper's ImageNet experiments.
    scorer : Detector, optional
        Scores the shaped activations; energy by default.

    Examples
    --------
    >>> sharpen(torch.tensor([[1.0, 3.0, 0.0, 0.0]]), p=0.75)
    tensor([[ 0.0000, 11.3810,  0.0000,  0.0000]])
    """

    name: ClassVar = "ash-s"
    needs: ClassVar = Needs.FEATURES | Needs.HEAD
    paper: ClassVar = Paper(
        "Extremely Simple Activation Shaping for Out-of-Distribution Detection", "ICLR 2023", "2209.09858"
    )

    def __init__(self, *, p: float = 0.9, scorer: Detector | None = None) -> None:
        super().__init__(scorer)
        check_fraction("ASH-S", p=p)
        self.p = p

    def rectify(self, activations: Activations) -> Activations:
        """Shape the features and recompute the logits."""
        features = sharpen(activations.features, self.p)
        return activations.replace(features=features, logits=activations.head(features))
