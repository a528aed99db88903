"""RankFeat: energy of the feature map without its leading component (Song, Sebe and Wang, NeurIPS 2022, Eq. 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from oodline.detectors.assumptions import KeepsClasses
from oodline.detectors.paper import Paper
from oodline.detectors.rectifier import Rectifier
from oodline.model.activations import Activations, Needs


def leading_direction(feature_map: Float[Tensor, "n k s"]) -> Float[Tensor, "n s"]:
    """The right singular vector of the largest singular value, one per image."""
    wide = feature_map.double()
    found: Tensor = torch.linalg.eigh(wide.transpose(1, 2) @ wide).eigenvectors[:, :, -1]
    return found.to(feature_map)


@dataclass(frozen=True)
class WithoutLeading:
    """Mean over places of the feature map less its largest rank-1 part (N, K)."""

    def __call__(self, activations: Activations, groups: Int[Tensor, " n"]) -> Float[Tensor, "n k"]:
        """The features that are left."""
        feature_map = activations.require_feature_map().flatten(2)
        direction = leading_direction(feature_map)
        # the mean over places of (A v) v' is A v times the mean of v: the rank-1 part itself is never needed
        leading = (feature_map @ direction.unsqueeze(2)).squeeze(2) * direction.mean(1, keepdim=True)
        return feature_map.mean(2) - leading


class RankFeat(Rectifier):
    """Features of the map less its largest rank-1 part: `mean over places of A - s u v'`, scored by energy.

    A is the map (K, H W) of one image and s, u, v its largest singular triplet. Higher = more in-distribution; units
    of the logits.

    Parameters
    ----------
    scorer : Detector, optional
        Scores the rectified activations; energy by default.

    Raises
    ------
    HeadError
        The classifier has no feature map, or it must be named.

    Notes
    -----
    This is the paper's variant on the last map. Its variant that averages the logits with those of the map before needs
    the network cut open there.

    Examples
    --------
    >>> leading_direction(torch.tensor([[[3.0, 4.0], [0.0, 0.0]]])).abs()
    tensor([[0.6000, 0.8000]])
    """

    name: ClassVar = "rankfeat"
    needs: ClassVar = Needs.FEATURES | Needs.FEATURE_MAP | Needs.HEAD
    assumes: ClassVar = (KeepsClasses(WithoutLeading()),)
    paper: ClassVar = Paper(
        "RankFeat: Rank-1 Feature Removal for Out-of-distribution Detection", "NeurIPS 2022", "2209.08590"
    )
    not_exportable: ClassVar = "takes an eigenvector of each feature map, for which ONNX has no operator"

    def rectify(self, activations: Activations) -> Activations:
        """Remove the leading component and recompute features and logits."""
        features = WithoutLeading()(activations, activations.logits.argmax(1))
        return activations.replace(features=features, logits=activations.head(features))
