"""RNA: longer features for ID samples, by which outliers are then told (Shin et al., TMLR 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn
from torch.linalg import vector_norm

from oodline._util.checked import checked
from oodline._util.ranges import Count, NonNegative
from oodline.detectors.paper import Paper, Preset
from oodline.model.activations import Needs
from oodline.training.batches import MixedBatch
from oodline.training.cross_entropy import CrossEntropy
from oodline.training.loss import TrainingLoss, WithoutOutliers

SOURCE = "the authors' code, commit b638e32"


class FeatureNormAmplification(TrainingLoss):
    """`CE(z + tau log P) - weight mean log(1 + |h(f)|)`, both over the ID samples.

    h is a projection of two layers that training drops. Outliers, auxiliary images, have no loss: they pass through
    the network in the same batch, so that they take part in the statistics of its batch norms, which keeps their own
    features short. Without batch norm they do nothing. For long-tailed data, whose class counts it takes; the score
    afterwards is the length of the features, `oodline.FeatureNorm`.

    Parameters
    ----------
    num_features : int
        Features D of the network.
    class_counts : sequence of int, optional
        Training samples of each class; no adjustment if omitted.
    tau : float
        Strength of the adjustment by the class prior.
    weight : float
        Of the length, at least 0.
    projection : int
        Outputs of h.
    without_outliers : {"error", "skip"}
        What becomes of a batch without outliers: an error, or the same loss without their batch statistics.

    Raises
    ------
    SettingError
        A class has no sample, or a number is out of range.
    InputError
        A batch without outliers, unless they may be missing.

    Examples
    --------
    >>> import torch
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> images, labels = loader[0]
    >>> loss = FeatureNormAmplification(num_features=16)
    >>> loss(classifier(images), torch.where(labels == 2, -1, labels)).shape
    torch.Size([])
    """

    name: ClassVar = "feature-norm-amplification"
    needs: ClassVar = Needs.FEATURES | Needs.LOGITS
    needs_outliers: ClassVar = True
    paper: ClassVar = Paper(
        "Representation Norm Amplification for Out-of-Distribution Detection in Long-Tail Learning",
        "TMLR 2024",
        "2408.10676",
    )
    presets: ClassVar = {"cifar-lt": Preset({"tau": 1.0, "weight": 0.5}, SOURCE)}

    @checked
    def __init__(
        self,
        *,
        num_features: Count,
        class_counts: Sequence[int] | None = None,
        tau: NonNegative = 1.0,
        weight: NonNegative = 0.5,
        projection: Count = 128,
        without_outliers: WithoutOutliers = "error",
    ) -> None:
        super().__init__()
        self.base = CrossEntropy(class_counts=class_counts, tau=tau)
        self.weight, self.without_outliers = weight, without_outliers
        self.projection = nn.Sequential(
            nn.Linear(num_features, num_features), nn.ReLU(), nn.Linear(num_features, projection)
        )

    def compute(self, batch: MixedBatch) -> Tensor:
        """The ID part, and the length of its projected features."""
        lengths: Tensor = vector_norm(self.projection(batch.inliers.features), dim=1)
        return self.base.compute(batch) - self.weight * lengths.log1p().mean()
