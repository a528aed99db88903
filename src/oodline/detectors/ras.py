"""RAS: sorted features replaced by the mean sorted features of the training data (Guglielmo and Masana, ECCV 2026)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from oodline.detectors.assumptions import LeavesMost
from oodline.detectors.base import Detector
from oodline.detectors.fitted import Fitted
from oodline.detectors.paper import Paper
from oodline.detectors.rectifier import Rectifier
from oodline.model.activations import Activations, Needs
from oodline.model.head import Head
from oodline.statistics import ClassMoments, Statistic


@dataclass(frozen=True)
class SortedFeatures:
    """The features of each sample in ascending order (N, D)."""

    def __call__(self, activations: Activations, groups: Int[Tensor, " n"]) -> Float[Tensor, "n d"]:
        """The sorted features."""
        return activations.features.sort(1).values


class RAS(Rectifier):
    """Each feature replaced by the mean, over training samples, of the feature of the same rank; scored by energy.

    With `m_r` the mean of the r-th smallest feature of a training sample, the feature of rank r within its own sample
    becomes `m_r`: what is left of a sample is the order of its features. Higher = more in-distribution; units of the
    logits.

    Parameters
    ----------
    scorer : Detector, optional
        Scores the replaced features; energy by default.

    Notes
    -----
    Nothing is supposed of the sign of the features. Equal features, such as the zeros behind a ReLU, are ranked by
    their position.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> ras = RAS().fit(classifier, loader)
    >>> replaced = ras.rectify(classifier(loader[0][0])).features
    >>> bool((replaced.sort(1).values == ras.curve).all())
    True
    """

    name: ClassVar = "ras"
    needs: ClassVar = Needs.FEATURES | Needs.HEAD
    assumes: ClassVar = (LeavesMost(clips=False),)
    paper: ClassVar = Paper(
        "Ranked Activation Shift for Post-Hoc Out-of-Distribution Detection", "ECCV 2026", "2604.08572"
    )
    curve: Fitted[Float[Tensor, " D"]]

    def __init__(self, *, scorer: Detector | None = None) -> None:
        super().__init__(scorer)

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """Mean of the sorted features over all samples."""
        return {"ordered": ClassMoments(SortedFeatures(), by="all")}

    def estimate(self, head: Head, ordered: ClassMoments) -> None:
        """Keep the mean."""
        self.curve = ordered.mean[0].float()

    def rectify(self, activations: Activations) -> Activations:
        """Replace the features by rank and recompute the logits."""
        order = activations.features.sort(dim=1, stable=True).indices
        features = torch.zeros_like(activations.features).scatter(1, order, self.curve.expand(order.shape))
        return activations.replace(features=features, logits=activations.head(features))
