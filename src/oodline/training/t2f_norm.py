"""T2FNorm: features of unit length in training, and as they are in use (Regmi et al., CVPR workshops 2024)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from oodline._util.checked import checked
from oodline._util.ranges import Positive
from oodline.detectors.paper import Paper, Preset
from oodline.model.activations import Needs
from oodline.training.batches import MixedBatch
from oodline.training.loss import TrainingLoss


class T2FNorm(TrainingLoss):
    """Mean cross-entropy of `W f / (temperature |f|) + b` over the ID samples.

    In use the head reads f itself, whose length then tells ID from OOD; the predicted class differs from the trained
    one only by the bias. A network that is trained by this from scratch is scored, in the authors' code, on
    `f / temperature`: divide the head's weight by the temperature once, after training. A fine-tuned one is scored as
    it is. Needs no outliers.

    Parameters
    ----------
    temperature : float
        Above 0.

    Examples
    --------
    >>> import torch
    >>> from oodline.testing import toy_problem
    >>> from oodline.training import Forward
    >>> classifier, loader = toy_problem()
    >>> loss = T2FNorm()
    >>> loss(Forward(classifier.model)(loader[0][0], loss.needs), loader[0][1]).requires_grad
    True
    """

    name: ClassVar = "t2f-norm"
    needs: ClassVar = Needs.FEATURES | Needs.LINEAR_HEAD
    paper: ClassVar = Paper(
        "T2FNorm: Train-time Feature Normalization for OOD Detection in Image Classification",
        "CVPR Workshops 2024",
        "2305.17797",
    )
    presets: ClassVar = {
        "cifar10": Preset({"temperature": 0.1}, "the names of the authors' runs"),
        "imagenet": Preset({"temperature": 0.05}, "the names of the authors' runs: fine-tuned for 30 epochs"),
    }

    @checked
    def __init__(self, *, temperature: Positive = 0.1) -> None:
        super().__init__()
        self.temperature = temperature

    def compute(self, batch: MixedBatch) -> Tensor:
        """Cross-entropy of the logits of normalised features."""
        inliers = batch.inliers
        logits = inliers.head(nn.functional.normalize(inliers.features, dim=1) / self.temperature)
        return nn.functional.cross_entropy(logits, batch.inlier_labels)
