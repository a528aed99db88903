"""LTS: the logits of each sample scaled by how much of its features a few of them hold (Djurisic et al., MVA 2025)."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from oodline._util.ranges import Fraction
from oodline.detectors.ash import largest
from oodline.detectors.assumptions import Rectified, TellsApart
from oodline.detectors.base import Detector
from oodline.detectors.paper import Paper
from oodline.detectors.rectifier import Rectifier
from oodline.model.activations import Activations, Needs


def scaling(features: Float[Tensor, "n d"], p: float) -> Float[Tensor, "n 1"]:
    """`(s1 / s2)^2`, s1 and s2 being the sums of all features and of the largest (1 - p) D; negative ones count as 0.

    It is 1 for a sample without a positive feature.
    """
    active = features.clamp(min=0)
    kept, _ = largest(active, p)
    before, after = active.sum(1, keepdim=True), kept.sum(1, keepdim=True)
    most = features.shape[1] / kept.shape[1]
    # the clamp tames features so small that rounding decides their ratio, and the 0 / 0 of those without any
    return torch.where(after > 0, before / after, 1.0).clamp(1.0, most).square()


class LTS(Rectifier):
    """Logit scaling, scored by energy: the logits are multiplied by `(s1 / s2)^2`.

    `s1` is the sum of all D features of a sample, and `s2` that of the largest (1 - p) D of them. Features stay as they
    are, and so does the predicted class. Higher = more in-distribution; units of the logits. Negative features count as
    zero, as in the authors' code.

    Parameters
    ----------
    p : float
        Fraction of the features left out of s2, in [0, 1); 0.95 in the paper, whose own p is what is kept, 5 %.
    scorer : Detector, optional
        Scores the activations with the scaled logits; energy by default.

    Raises
    ------
    SettingError
        p is out of range.

    Examples
    --------
    >>> scaling(torch.tensor([[3.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]), p=0.75)
    tensor([[ 1.7778],
            [16.0000]])
    """

    name: ClassVar = "lts"
    needs: ClassVar = Needs.FEATURES | Needs.LOGITS
    assumes: ClassVar = (Rectified(), TellsApart())
    tunable: ClassVar = {"p": (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98)}
    paper: ClassVar = Paper(
        "Logit Scaling for Out-of-Distribution Detection", "Machine Vision and Applications 2025", "2409.01175"
    )

    def __init__(self, *, p: Fraction = 0.95, scorer: Detector | None = None) -> None:
        super().__init__(scorer)
        self.p = p

    def rectify(self, activations: Activations) -> Activations:
        """Scale the logits."""
        return activations.replace(logits=activations.logits * scaling(activations.features, self.p))
