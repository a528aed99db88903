"""Outlier Exposure: a uniform prediction for auxiliary outliers (Hendrycks et al., ICLR 2019)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from oodline._util.checked import checked
from oodline._util.ranges import NonNegative
from oodline.detectors.paper import Paper, Preset
from oodline.training.batches import MixedBatch
from oodline.training.cross_entropy import CrossEntropy
from oodline.training.loss import TrainingLoss, WithoutOutliers


class OutlierExposure(TrainingLoss):
    """Loss of the ID samples + `weight` times the mean of `LSE(z) - mean_c z_c` over the outliers.

    The second term is the cross-entropy from the uniform distribution to the softmax, at least log C. It is that of
    `KLUniform` plus log C, which has no gradient: the two differ in their default weight alone.

    Parameters
    ----------
    weight : float
        Of the outliers, at least 0.
    base : TrainingLoss, optional
        Loss of the ID samples; plain cross-entropy if omitted.
    without_outliers : {"error", "skip"}
        What becomes of a batch without outliers: an error, or the loss of its ID samples alone.

    Raises
    ------
    InputError
        A batch without outliers, unless they may be missing.

    Examples
    --------
    >>> import torch
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> images, labels = loader[0]
    >>> float(OutlierExposure()(classifier(images), torch.where(labels == 2, -1, labels))) > 0.5
    True
    """

    name: ClassVar = "outlier-exposure"
    needs_outliers: ClassVar = True
    paper: ClassVar = Paper("Deep Anomaly Detection with Outlier Exposure", "ICLR 2019", "1812.04606")
    presets: ClassVar = {"vision": Preset({"weight": 0.5}, "the paper: 0.5 for vision, 1 for text")}

    @checked
    def __init__(
        self,
        *,
        weight: NonNegative = 0.5,
        base: TrainingLoss | None = None,
        without_outliers: WithoutOutliers = "error",
    ) -> None:
        super().__init__()
        self.weight, self.base, self.without_outliers = weight, base or CrossEntropy(), without_outliers

    def compute(self, batch: MixedBatch) -> Tensor:
        """The ID part and, where there are outliers, theirs."""
        loss = self.base.compute(batch)
        return loss + self.weight * self.of_outliers(batch.outliers.logits) if batch.has_outliers else loss

    def of_outliers(self, logits: Tensor) -> Tensor:
        """The term of the outliers, by their logits (M, C)."""
        return uniform_cross_entropy(logits)


def uniform_cross_entropy(logits: Tensor) -> Tensor:
    """Mean cross-entropy from the uniform distribution to the softmax of logits (M, C).

    Examples
    --------
    >>> import torch
    >>> float(uniform_cross_entropy(torch.zeros(5, 4)).exp())
    4.0
    """
    return (logits.logsumexp(1) - logits.mean(1)).mean()
