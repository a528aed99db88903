"""RMDS: the Mahalanobis distance less what any image is away from the data as a whole (Ren et al., 2021, Eq. 3)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from oodline._util.ranges import Share
from oodline.detectors.assumptions import TellsApart
from oodline.detectors.base import Detector
from oodline.detectors.fitted import Fitted
from oodline.detectors.mahalanobis import (
    PLUS_PLUS,
    POWERS,
    Mahalanobis,
    MoreThanDimensionsUnlessShrunk,
    Shrinkage,
    regularised,
    whitening,
)
from oodline.detectors.paper import Paper
from oodline.detectors.parts.shrinkage import SAMPLE
from oodline.model.activations import Activations, Needs
from oodline.model.head import Head
from oodline.statistics import Covariance, Reservoir, Statistic, features_scaled_by, scaled


class RelativeMahalanobis(Detector):
    """Relative Mahalanobis distance: `-min_c (d_c(f) - d_0(f))`. Higher = more in-distribution.

    `d_c` is the squared distance of `Mahalanobis` to class c, and `d_0` that to the overall mean, by the covariance
    around it. Any real number, no unit.

    Parameters
    ----------
    normalise, shrinkage, unseen
        As in `Mahalanobis`, for both distances.

    Raises
    ------
    SettingError
        A setting is out of range.
    LabelError
        A class has no sample, or no class has two different ones, so that there is no covariance.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> RelativeMahalanobis().fit(classifier, loader)(classifier(loader[0][0])).shape
    torch.Size([60])
    """

    name: ClassVar = "relative-mahalanobis"
    needs: ClassVar = Needs.FEATURES
    assumes: ClassVar = (MoreThanDimensionsUnlessShrunk(), TellsApart())
    paper: ClassVar = Paper(
        "A Simple Fix to Mahalanobis Distance for Improving Near-OOD Detection", "ICML workshop 2021", "2106.09022"
    )
    presets: ClassVar = PLUS_PLUS
    tunable: ClassVar = POWERS
    centre: Fitted[Float[Tensor, " D"]]
    whiten_all: Fitted[Float[Tensor, "D R"]]

    def __init__(
        self,
        *,
        normalise: Share = 0.0,
        shrinkage: Shrinkage = "none",
        unseen: Literal["error", "skip"] = "error",
    ) -> None:
        super().__init__()
        self.normalise = normalise
        self.shrinkage = shrinkage
        self.unseen = unseen
        self.to_classes = Mahalanobis(normalise=normalise, shrinkage=shrinkage, unseen=unseen)

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """Covariance of all features as one group; `Mahalanobis` asks for its own."""
        source = features_scaled_by(self.normalise)
        found: dict[str, Statistic] = {"covariance": Covariance(source, "all")}
        if self.shrinkage != "none":
            found["sample"] = Reservoir(SAMPLE, source)
        return found

    def estimate(self, head: Head, covariance: Covariance, sample: Reservoir | None = None) -> None:
        """Whiten the data as a whole."""
        self.centre = covariance.mean[0].float()
        self.whiten_all = whitening(regularised(covariance, sample)).float()

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Negative relative distance (N,)."""
        features = scaled(activations.features, self.normalise).double()
        overall = ((features - self.centre) @ self.whiten_all.double()).square().sum(1)
        to_classes: Float[Tensor, " n"] = self.to_classes(activations)
        return to_classes + torch.as_tensor(overall)
