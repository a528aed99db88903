"""NCI: nearness of the features to the weights of the predicted class (Liu and Qin, CVPR 2025, Eq. 7)."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from oodline._util.ranges import NonNegative
from oodline.detectors.assumptions import PREDICTED, TellsApart
from oodline.detectors.base import Detector
from oodline.detectors.fitted import Fitted
from oodline.detectors.paper import Paper
from oodline.model.activations import Activations, Needs
from oodline.model.head import Head
from oodline.statistics import ClassMoments, Statistic


class NCI(Detector):
    """Neural collapse inspired: `W_c . (f - mean) / |f - mean| + alpha |f|_1`, c the predicted class.

    Higher = more in-distribution; any real number, in units of the weights.

    Parameters
    ----------
    alpha : float
        Weight of the size of the features, at least 0. The paper chooses it on validation OOD data, from 0.0001 up.

    Raises
    ------
    SettingError
        alpha is negative.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> NCI().fit(classifier, loader)(classifier(loader[0][0])).shape
    torch.Size([60])
    """

    name: ClassVar = "nci"
    needs: ClassVar = Needs.FEATURES | Needs.LOGITS | Needs.LINEAR_HEAD
    assumes: ClassVar = (
        PREDICTED,
        TellsApart(),
    )
    paper: ClassVar = Paper(
        "Detecting Out-of-Distribution Through the Lens of Neural Collapse", "CVPR 2025", "2311.01479"
    )
    mean: Fitted[Float[Tensor, " D"]]

    def __init__(self, *, alpha: NonNegative = 0.001) -> None:
        super().__init__()
        self.alpha = alpha

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """Mean feature over all samples."""
        return {"features": ClassMoments(by="all")}

    def estimate(self, head: Head, features: ClassMoments) -> None:
        """Keep the mean."""
        self.mean = features.overall_mean.float()

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Nearness to the class weights, and size (N,)."""
        features = activations.features
        weight = activations.head.linear.weight[activations.logits.argmax(1)]
        near = (weight * torch.nn.functional.normalize(features - self.mean)).sum(1)
        return near + self.alpha * features.abs().sum(1)
