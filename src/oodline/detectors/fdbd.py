"""fDBD: how far the features are from the decision boundaries (Liu and Qin, ICML 2024, Eq. 6-8)."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from oodline.detectors.assumptions import PREDICTED, TellsApart
from oodline.detectors.base import Detector
from oodline.detectors.fitted import Fitted
from oodline.detectors.paper import Paper
from oodline.detectors.parts.gaps import inverse_gap_table, inverse_gaps
from oodline.model.activations import Activations, Needs
from oodline.model.head import Head
from oodline.statistics import ClassMoments, Statistic


class FDBD(Detector):
    """Mean distance to the boundaries with all other classes, relative to the distance from the training mean.

    `mean over k != c of (z_c - z_k) / |W_c - W_k|`, divided by `|f - mu|`, c being the predicted class. Higher = more
    in-distribution. Range: [0, inf), no unit. Classes with equal weights have no boundary and count as distance 0.
    Of more than 2048 classes nothing is kept per pair of them: a batch takes one more product with the head's weights.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> bool((FDBD().fit(classifier, loader)(classifier(loader[0][0])) >= 0).all())
    True
    """

    name: ClassVar = "fdbd"
    needs: ClassVar = Needs.FEATURES | Needs.LOGITS | Needs.LINEAR_HEAD
    assumes: ClassVar = (
        PREDICTED,
        TellsApart(),
    )
    paper: ClassVar = Paper("Fast Decision Boundary based Out-of-Distribution Detector", "ICML 2024", "2312.11536")
    mean: Fitted[Float[Tensor, " D"]]
    inverse_gap: Fitted[Float[Tensor, "H C"]]

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """Mean of the features over all samples."""
        return {"features": ClassMoments(by="all")}

    def estimate(self, head: Head, features: ClassMoments) -> None:
        """Keep the mean and, unless there are many classes, one over the distance between the weights of any two."""
        self.mean = features.overall_mean.float()
        self.inverse_gap = inverse_gap_table(head.linear.weight)

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Relative distance to the boundaries (N,)."""
        largest, predicted = activations.logits.max(1)
        inverse_gap = inverse_gaps(self.inverse_gap, activations.head.linear.weight, predicted)
        distances = (largest.unsqueeze(1) - activations.logits) * inverse_gap
        others = max(1, activations.logits.shape[1] - 1)
        spread: Tensor = torch.linalg.vector_norm(activations.features - self.mean, dim=1)
        return distances.sum(1) / others / spread.clamp(min=torch.finfo(spread.dtype).tiny ** 0.5)
