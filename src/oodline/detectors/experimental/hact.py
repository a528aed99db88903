"""HAct: distance between activation histograms, after the idea of Wang et al. (2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from oodline.detectors.assumptions import PREDICTED, PerClass, Published, TellsApart
from oodline.detectors.base import Detector
from oodline.detectors.fitted import Fitted
from oodline.detectors.paper import Paper
from oodline.model.activations import Activations, Needs
from oodline.model.head import Head
from oodline.statistics import ClassMoments, Statistic


@dataclass(frozen=True)
class SortedContributions:
    """`|W[c, d] f_d|` in ascending order, c the predicted class: (N, D), the quantile function of the histogram."""

    def __call__(self, activations: Activations, groups: Int[Tensor, " n"]) -> Float[Tensor, "n d"]:
        """Sorted rows."""
        weight = activations.head.linear.weight[activations.logits.argmax(1)]
        return (weight * activations.features).abs().sort(dim=1).values


class HAct(Detector):
    """Activation histogram distance: `-W2(h(f), mean histogram of the predicted class)`.

    h is the histogram of `|W[c, d] f_d|` over the features, c the predicted class, and the mean is the Wasserstein
    barycentre of training samples predicted as c. Higher = more in-distribution. Range: (-inf, 0], units of the logits.

    Notes
    -----
    In one dimension a 2-Wasserstein distance is the distance of quantile functions, and a barycentre their mean, so no
    bins are needed. A class that was never predicted takes the mean over all samples.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> bool((HAct().fit(classifier, loader)(classifier(loader[0][0])) <= 0).all())
    True
    """

    name: ClassVar = "hact"
    needs: ClassVar = Needs.FEATURES | Needs.LOGITS | Needs.LINEAR_HEAD
    assumes: ClassVar = (PREDICTED, PerClass(10, "an estimate of each class"), TellsApart(below=0.08), Published())
    paper: ClassVar = Paper(
        "HAct: Out-of-Distribution Detection with Neural Net Activation Histograms", "arXiv 2023", "2309.04837"
    )
    experimental: ClassVar = (
        "the paper leaves bins, layers and thresholds open and its figures are disputed; this is the idea on the last "
        "layer, with exact distances"
    )
    barycentres: Fitted[Float[Tensor, "C D"]]

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """Mean quantile functions by predicted class."""
        return {"moments": ClassMoments(SortedContributions(), "predicted")}

    def estimate(self, head: Head, moments: ClassMoments) -> None:
        """Keep the means."""
        seen = (moments.count > 0).unsqueeze(1)
        self.barycentres = torch.where(seen, moments.mean, moments.overall_mean).float()

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Negative distance (N,)."""
        predicted = activations.logits.argmax(1)
        difference = SortedContributions()(activations, predicted) - self.barycentres[predicted]
        return -difference.double().square().mean(1).sqrt()
