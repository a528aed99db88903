"""Cross-entropy, plain or adjusted by the class prior (Menon et al., ICLR 2021): the ID part of the other losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from oodline._util.checked import checked
from oodline._util.ranges import Fraction, NonNegative
from oodline.detectors.paper import Paper
from oodline.errors import LabelError, SettingError
from oodline.training.batches import MixedBatch
from oodline.training.loss import TrainingLoss


class CrossEntropy(TrainingLoss):
    """Mean of `-log softmax(z + tau log P)[y]` over the ID samples; plain cross-entropy without class counts.

    P(y) is the share of class y among the training samples (Eq. 10 of the paper). The prior is added in training only,
    so that the network itself stays free of it.

    Parameters
    ----------
    class_counts : sequence of int, optional
        Training samples of each class, in the order of the logits.
    tau : float
        Strength of the adjustment, at least 0.
    label_smoothing : float
        In [0, 1).

    Raises
    ------
    SettingError
        A class has no sample, or a number is out of range.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> images, labels = loader[0]
    >>> adjusted = CrossEntropy(class_counts=[20, 20, 20])(classifier(images), labels)
    >>> bool(torch.isclose(adjusted, CrossEntropy()(classifier(images), labels)))
    True
    """

    name: ClassVar = "cross-entropy"
    paper: ClassVar = Paper("Long-tail Learning via Logit Adjustment", "ICLR 2021", "2007.07314")

    @checked
    def __init__(
        self, *, class_counts: Sequence[int] | None = None, tau: NonNegative = 1.0, label_smoothing: Fraction = 0.0
    ) -> None:
        super().__init__()
        self.tau, self.label_smoothing = tau, label_smoothing
        self.register_buffer("log_prior", None if class_counts is None else log_prior(class_counts), persistent=False)

    def compute(self, batch: MixedBatch) -> Tensor:
        """Mean cross-entropy of the ID samples."""
        logits: Tensor = batch.inliers.logits
        if isinstance(self.log_prior, Tensor):
            check_classes(self.log_prior, logits)
            logits = logits + self.tau * self.log_prior.to(logits)
        return nn.functional.cross_entropy(logits, batch.inlier_labels, label_smoothing=self.label_smoothing)


def log_prior(class_counts: Sequence[int]) -> Float[Tensor, " C"]:
    """Log of the share of each class (C,), float64.

    Raises
    ------
    SettingError
        A class has no sample.

    Examples
    --------
    >>> log_prior([1, 3]).exp()
    tensor([0.2500, 0.7500], dtype=torch.float64)
    """
    counts = torch.as_tensor(class_counts, dtype=torch.float64)
    if counts.ndim != 1 or not len(counts) or bool((counts < 1).any()):
        raise SettingError(
            f"`class_counts` must be at least 1 for each class; got {class_counts}. A class without samples cannot be "
            "learnt: leave it out of the head."
        )
    return (counts / counts.sum()).log()


def check_classes(prior: Tensor, logits: Tensor) -> None:
    """Raise `LabelError` where there are other numbers of class counts and of logits."""
    if len(prior) != logits.shape[1]:
        raise LabelError(f"`class_counts` must be one per class, {logits.shape[1]}; got {len(prior)}.")
