"""NAP: how much the strongest activation of a channel stands out from its mean (Wan, Zhang and Jin, 2024)."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from oodline._util.ranges import Positive
from oodline.detectors.assumptions import PerClass, Rectified
from oodline.detectors.base import Detector
from oodline.detectors.paper import Paper
from oodline.model.activations import Activations, Needs


def peakedness(feature_map: Float[Tensor, "n k h w"], epsilon: float) -> Float[Tensor, " n"]:
    """Mean over channels of `(max / (mean + epsilon))^2`; negative entries count as zero."""
    active = feature_map.clamp(min=0).flatten(2)
    return (active.amax(2) / (active.mean(2) + epsilon)).square().mean(1)


class NAP(Detector):
    """Neural activation prior: `1/K sum_k (max(A_k) / (mean(A_k) + epsilon))^2` over the channels of the feature map.

    In an ID image a few places of a channel respond strongly; in an OOD image responses are weak and spread. Higher =
    more in-distribution. Range: [0, inf), no unit. Meant for maps behind a ReLU: negative entries count as zero.

    Parameters
    ----------
    epsilon : float
        Above 0, in the units of the features; 1 in the authors' experiments.

    Raises
    ------
    SettingError
        epsilon is not positive.
    HeadError
        The classifier has no feature map, or it must be named.

    Examples
    --------
    >>> import torch
    >>> peakedness(torch.tensor([[[[4.0, 0.0], [0.0, 0.0]]]]), epsilon=1.0)
    tensor([4.])
    """

    name: ClassVar = "nap"
    needs: ClassVar = Needs.FEATURE_MAP
    assumes: ClassVar = (Rectified(), PerClass(10, "an estimate of each class"))
    paper: ClassVar = Paper("Neural Activation Prior for Out-of-Distribution Detection", "arXiv 2024", "2402.18162")

    def __init__(self, *, epsilon: Positive = 1.0) -> None:
        super().__init__()
        self.epsilon = epsilon

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """How peaked the channels are (N,)."""
        return peakedness(activations.require_feature_map(), self.epsilon)
