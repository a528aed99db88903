"""ImOOD: tell ID from outliers without blaming rare classes (Liu et al., NeurIPS 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from oodline._util.checked import checked
from oodline._util.ranges import Count, NonNegative
from oodline.detectors.paper import Paper, Preset
from oodline.model.activations import Needs
from oodline.training.batches import MixedBatch
from oodline.training.cross_entropy import CrossEntropy, check_classes, log_prior
from oodline.training.loss import TrainingLoss, WithoutOutliers

SMOOTHING = 0.2
"""Of the posterior of ID samples, which is their label."""
LEAST = 1e-4
"""Smallest lambda."""
BOUNDS = (0.1, 10.0)
"""Of delta."""
LARGEST = 30.0
"""Of g inside `exp`, beyond which delta is at a bound anyway, and infinity times zero would not be a number."""


class ImbalancedOOD(TrainingLoss):
    """`CE(z + log P) + weight (mean relu(log beta + log sigmoid(g)) + mean BCE(g - log delta, ID or outlier))`.

    g(x) is the logit of being ID. `beta = mean_y lambda_y(x) P(y|x) / P(y)` is what the class prior makes of it, where
    P(y|x) is the smoothed label of an ID sample, and the softmax of an outlier, and `lambda = exp(A f)` is learnt by
    the first of the two terms alone, in which g has no gradient. `delta = beta + (beta - 1) exp(g)` lies in [0.1, 10],
    and is at least 1 for ID samples and at most 1 for outliers; it has no gradient. Both terms are means over all
    N + M samples.

    The authors add a contrastive loss of rare classes (PASCL), which needs two views of each image; it is not
    part of this. Afterwards, `oodline.PriorNormalised` corrects any score by the same prior.

    Parameters
    ----------
    num_features : int
        Features D of the network.
    class_counts : sequence of int
        Training samples of each class.
    discriminator : {"energy", "linear"}
        What g is: `a LSE(z) + b`, by which the classifier itself learns to tell outliers, so that `oodline.Energy` and
        other scores of its logits gain; or a linear layer on the features, which training drops.
    weight : float
        Of the terms of outliers, at least 0.
    without_outliers : {"error", "skip"}
        What becomes of a batch without outliers: an error, or the adjusted cross-entropy alone.

    Raises
    ------
    SettingError
        A class has no sample, or a number is out of range.
    LabelError
        The class counts are not one per class.
    InputError
        A batch without outliers, unless they may be missing.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> images, labels = loader[0]
    >>> loss = ImbalancedOOD(num_features=16, class_counts=[20, 20, 20])
    >>> loss(classifier(images), torch.where(labels == 2, -1, labels)).shape
    torch.Size([])
    """

    name: ClassVar = "imbalanced-ood"
    needs: ClassVar = Needs.FEATURES | Needs.LOGITS
    needs_outliers: ClassVar = True
    paper: ClassVar = Paper(
        "Rethinking Out-of-Distribution Detection on Imbalanced Data Distribution", "NeurIPS 2024", "2407.16430"
    )
    presets: ClassVar = {"cifar-lt": Preset({"weight": 0.5}, "the authors' code, commit 1390244")}

    @checked
    def __init__(
        self,
        *,
        num_features: Count,
        class_counts: Sequence[int],
        discriminator: Literal["energy", "linear"] = "energy",
        weight: NonNegative = 0.5,
        without_outliers: WithoutOutliers = "error",
    ) -> None:
        super().__init__()
        self.base = CrossEntropy(class_counts=class_counts)
        self.weight, self.discriminator, self.without_outliers = weight, discriminator, without_outliers
        self.register_buffer("log_prior", log_prior(class_counts), persistent=False)
        self.inlier_logit = nn.Linear(num_features if discriminator == "linear" else 1, 1)
        self.log_lambda = nn.Linear(num_features, len(class_counts))
        nn.init.zeros_(self.log_lambda.bias)

    def compute(self, batch: MixedBatch) -> Tensor:
        """The adjusted cross-entropy and, where there are outliers, the two terms that tell them."""
        loss = self.base.compute(batch)
        if not batch.has_outliers:
            return loss
        g, beta = self.g(batch), self.beta(batch)
        learnt = (beta.log() + nn.functional.logsigmoid(g.detach())).relu().mean()
        is_inlier = (~batch.is_outlier).to(g)
        told = nn.functional.binary_cross_entropy_with_logits(g - delta(beta, g, batch.is_outlier).log(), is_inlier)
        return loss + self.weight * (learnt + told)

    def g(self, batch: MixedBatch) -> Float[Tensor, " n"]:
        """Logit of being ID (N + M,)."""
        activations = batch.activations
        energy = activations.logits.logsumexp(1, keepdim=True)
        logit: Tensor = self.inlier_logit(activations.features if self.discriminator == "linear" else energy)
        return logit.squeeze(1)

    def beta(self, batch: MixedBatch) -> Float[Tensor, " n"]:
        """`mean_y lambda_y(x) P(y|x) / P(y)` (N + M,), with gradients to lambda alone."""
        activations, prior = batch.activations, self.log_prior
        assert isinstance(prior, Tensor)
        check_classes(prior, activations.logits)
        classes = activations.logits.shape[1]
        label = nn.functional.one_hot(batch.labels.clamp(min=0), classes).to(activations.logits)
        smoothed = label * (1 - SMOOTHING) + SMOOTHING / classes
        softmax = activations.logits.detach().softmax(1)
        posterior = torch.where(batch.is_outlier.unsqueeze(1), softmax, smoothed)
        factor = self.log_lambda(activations.features).exp().clamp(min=LEAST)
        beta: Tensor = (factor * posterior / prior.exp().to(posterior)).mean(1)
        return beta


def delta(beta: Tensor, g: Tensor, is_outlier: Tensor) -> Float[Tensor, " n"]:
    """`beta + (beta - 1) exp(g)` between its bounds (N,), at least 1 for ID samples, at most 1 for outliers."""
    beta, g = beta.detach(), g.detach()
    bounded = (beta + (beta - 1) * g.clamp(max=LARGEST).exp()).clamp(*BOUNDS)
    return torch.where(is_outlier, bounded.clamp(max=1), bounded.clamp(min=1))
