"""LogitNorm: cross-entropy of logits of unit length (Wei et al., ICML 2022)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.linalg import vector_norm

from oodline._util.checked import checked
from oodline._util.ranges import Positive
from oodline.detectors.paper import Paper, Preset
from oodline.training.batches import MixedBatch
from oodline.training.loss import TrainingLoss

EPSILON = 1e-7
"""Added to the length, as in the authors' code."""


class LogitNorm(TrainingLoss):
    """Mean of `-log softmax(z / (temperature |z|))[y]` over the ID samples.

    The length of the logits can no longer lower the loss, so it stops to grow with training, and ID and OOD inputs
    differ in it. Scores are read of the logits as they are. Needs no outliers.

    Parameters
    ----------
    temperature : float
        Above 0. Below about 0.01, and above about 0.1, the paper finds it worse.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> activations = classifier(loader[0][0])
    >>> doubled = activations.replace(logits=2 * activations.logits)
    >>> loss = LogitNorm()
    >>> bool(loss(activations, loader[0][1]).isclose(loss(doubled, loader[0][1])))
    True
    """

    name: ClassVar = "logit-norm"
    paper: ClassVar = Paper(
        "Mitigating Neural Network Overconfidence with Logit Normalization", "ICML 2022", "2205.09310"
    )
    presets: ClassVar = {
        "cifar10": Preset({"temperature": 0.04}, "the paper, and OpenOOD's configuration"),
        "cifar100": Preset({"temperature": 0.04}, "OpenOOD's configuration"),
    }

    @checked
    def __init__(self, *, temperature: Positive = 0.04) -> None:
        super().__init__()
        self.temperature = temperature

    def compute(self, batch: MixedBatch) -> Tensor:
        """Cross-entropy of the normalised logits."""
        logits = batch.inliers.logits
        length = vector_norm(logits, dim=1, keepdim=True) + EPSILON
        return nn.functional.cross_entropy(logits / length / self.temperature, batch.inlier_labels)
