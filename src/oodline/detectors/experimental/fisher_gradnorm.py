"""Gradient norm in the metric of a factored diagonal Fisher information: our own variant of GradNorm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from oodline.detectors.assumptions import SOFTMAX, PerClass, TellsApart
from oodline.detectors.base import Detector
from oodline.detectors.fitted import Fitted
from oodline.detectors.paper import Paper
from oodline.model.activations import Activations, Needs
from oodline.model.head import Head
from oodline.statistics import ClassMoments, Statistic


@dataclass(frozen=True)
class SquaredPull:
    """`(softmax(z) - 1/C)^2`, (N, C)."""

    def __call__(self, activations: Activations, groups: Int[Tensor, " n"]) -> Float[Tensor, "n c"]:
        """Squares."""
        p = torch.softmax(activations.logits.double(), dim=1)
        return (p - 1 / p.shape[1]).square()


@dataclass(frozen=True)
class SquaredFeatures:
    """`f^2`, (N, D)."""

    def __call__(self, activations: Activations, groups: Int[Tensor, " n"]) -> Float[Tensor, "n d"]:
        """Squares."""
        return activations.features.double().square()


class FisherGradNorm(Detector):
    """Squared gradient of KL(uniform, softmax) for W, each entry divided by its mean square over training samples.

    The gradient is the outer product of `u = softmax(z) - 1/C` and f, and its mean square is taken as the product of
    the mean squares of the two: `sum_c u_c^2 / E[u_c^2] * sum_d f_d^2 / E[f_d^2]`. Higher = more in-distribution.
    Range: [0, inf), no unit.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> FisherGradNorm().fit(classifier, loader)(classifier(loader[0][0])).shape
    torch.Size([60])
    """

    name: ClassVar = "fisher-gradnorm"
    needs: ClassVar = Needs.FEATURES | Needs.LOGITS | Needs.LINEAR_HEAD
    assumes: ClassVar = (SOFTMAX, PerClass(10, "an estimate of each class"), TellsApart(below=0.08))
    paper: ClassVar = Paper(
        "On the Importance of Gradients for Detecting Distributional Shifts in the Wild", "NeurIPS 2021", "2110.00218"
    )
    experimental: ClassVar = (
        "our own variant: GradNorm with a factored diagonal Fisher information; the paper that rectifies gradients by "
        "Fisher information is not public"
    )
    pull: Fitted[Float[Tensor, " C"]]
    size: Fitted[Float[Tensor, " D"]]

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """Mean squares of both factors of the gradient."""
        return {"pull": ClassMoments(SquaredPull(), "all"), "features": ClassMoments(SquaredFeatures(), "all")}

    def estimate(self, head: Head, pull: ClassMoments, features: ClassMoments) -> None:
        """Invert the mean squares; what never moved counts nothing."""
        self.pull = _inverse(pull.overall_mean)
        self.size = _inverse(features.overall_mean)

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Squared norm (N,)."""
        # squares of large features are beyond single precision
        p, features = torch.softmax(activations.logits.double(), dim=1), activations.features.double()
        return (p - 1 / p.shape[1]).square() @ self.pull.double() * (features.square() @ self.size.double())


def _inverse(mean: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    # relative to the largest: a mean square of 1e-12 of it is rounding, and would drown everything else
    solid = mean > 1e-12 * mean.amax()
    return torch.where(solid, 1 / mean, 0.0).float()
