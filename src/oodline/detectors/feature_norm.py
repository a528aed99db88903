"""Norms: of the features (RNA, TMLR 2024) and of the gradient of the head (GradNorm, NeurIPS 2021, Sec. 3.2)."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from oodline.detectors.assumptions import SOFTMAX, TellsApart
from oodline.detectors.base import Detector
from oodline.detectors.paper import Paper
from oodline.model.activations import Activations, Needs


class FeatureNorm(Detector):
    """Euclidean length of the penultimate features, `|f|`. Higher = more in-distribution.

    Range: [0, inf), in the units of the features.

    Examples
    --------
    >>> from oodline.testing import activations_of
    >>> FeatureNorm()(activations_of(torch.tensor([[3.0, 4.0]])))
    tensor([5.])
    """

    name: ClassVar = "feature-norm"
    needs: ClassVar = Needs.FEATURES
    assumes: ClassVar = (TellsApart(),)
    paper: ClassVar = Paper(
        "Representation Norm Amplification for Out-of-Distribution Detection in Long-Tail Learning", "TMLR 2024"
    )

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Length (N,)."""
        length: Tensor = torch.linalg.vector_norm(activations.features, dim=1)
        return length


class GradNorm(Detector):
    """L1 norm of the gradient of KL(uniform, softmax) with respect to W, which is `|f|_1 |softmax(z) - 1/C|_1`.

    The gradient is an outer product, so its norm needs no backward pass. Higher = more in-distribution. Range:
    [0, inf), in the units of the features.

    Examples
    --------
    >>> from oodline.testing import activations_of
    >>> GradNorm()(activations_of(torch.tensor([[0.0, 0.0], [90.0, 0.0]])))
    tensor([ 0., 90.])
    """

    name: ClassVar = "gradnorm"
    needs: ClassVar = Needs.FEATURES | Needs.LOGITS | Needs.LINEAR_HEAD
    assumes: ClassVar = (
        SOFTMAX,
        TellsApart(below=0.1, beside="energy"),
    )
    paper: ClassVar = Paper(
        "On the Importance of Gradients for Detecting Distributional Shifts in the Wild", "NeurIPS 2021", "2110.00218"
    )

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Norm of the gradient (N,)."""
        p = torch.softmax(activations.logits, dim=1)
        return activations.features.abs().sum(1) * (p - 1 / p.shape[1]).abs().sum(1)
