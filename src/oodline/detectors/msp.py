"""Maximum softmax probability, the baseline of the field (Hendrycks and Gimpel, ICLR 2017, Sec. 2)."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from oodline.detectors.assumptions import SOFTMAX
from oodline.detectors.base import Detector
from oodline.detectors.paper import Paper
from oodline.model.activations import Activations, Needs


def log_max_softmax(logits: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
    """Log of the largest softmax probability of each row, exact also where the probability rounds to one."""
    top, winner = logits.max(dim=1, keepdim=True)
    others = (logits - top).exp().scatter(1, winner, 0.0).sum(1)
    return -others.log1p()


class MSP(Detector):
    """Log of the maximum softmax probability: `log max_c softmax(z)_c`. Higher = more in-distribution.

    The logarithm keeps the ranking of the paper's score and does not saturate: two confident samples whose
    probabilities both round to 1 still differ, up to a lead of 103 between the two largest logits (745 for a classifier
    that computes in double precision), beyond which `log p` itself rounds to 0. `exp(score)` is the probability. Range:
    [-log C, 0].

    Examples
    --------
    >>> import torch
    >>> from oodline.testing import activations_of
    >>> MSP()(activations_of(torch.tensor([[0.0, 0.0], [0.0, 9.0]]))).exp()
    tensor([0.5000, 0.9999])
    """

    name: ClassVar = "msp"
    needs: ClassVar = Needs.LOGITS
    assumes: ClassVar = (SOFTMAX,)
    paper: ClassVar = Paper(
        "A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural Networks",
        "ICLR 2017",
        "1610.02136",
    )
    is_log: bool = True
    is_log_probability: bool = True

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Log probability of the predicted class (N,)."""
        return log_max_softmax(activations.logits)
