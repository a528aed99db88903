"""OptFS: weigh activations by what their size contributed to training logits (Zhao et al., ICLR 2024, Eq. 12)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from oodline._util.ranges import Count
from oodline.detectors.assumptions import PREDICTED, TellsApart
from oodline.detectors.base import Detector
from oodline.detectors.fitted import Fitted
from oodline.detectors.paper import Paper
from oodline.errors import InputError
from oodline.model.activations import Activations, Needs
from oodline.model.head import Head
from oodline.statistics import Reservoir, Statistic

TAIL = 1e-3
"""Fraction of the activations beyond each end of the bins; those count nothing."""

SCALE = 1000.0
"""What the authors' code multiplies theta by: of no concern to one logit, it makes the energy nearly the largest."""


class OptFS(Detector):
    """Optimal feature shaping: `sum_d W[c, d] f_d theta(f_d)`, c the predicted class, theta constant on bins of size.

    `theta` of a bin is the mean contribution `sum_d W[c, d] f_d` of the activations of that size over training
    samples, scaled so that its squares sum to 1; activations outside the bins count nothing. Higher = more
    in-distribution; any real number, proportional to the units of the logits.

    Parameters
    ----------
    bins : int
        How many equal bins between the 0.1 and the 99.9 percentile; 100 in the paper.
    samples : int
        Training samples that are kept to estimate from, chosen by a hash of their index.
    readout : {"logit", "energy"}
        What is read of the shaped features: the logit of the predicted class, as in the paper, or the energy of the
        logits that they give, `logsumexp(1000 W (theta f) + b) / 1000`, as in the comparisons of CADRef's authors.

    Raises
    ------
    SettingError
        A setting is below 1, or the readout not known.
    InputError
        Nearly all activations of the sample are equal.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> OptFS(bins=10).fit(classifier, loader).theta.shape
    torch.Size([12])
    """

    name: ClassVar = "optfs"
    needs: ClassVar = Needs.FEATURES | Needs.LOGITS | Needs.LINEAR_HEAD
    assumes: ClassVar = (
        PREDICTED,
        TellsApart(),
    )
    paper: ClassVar = Paper(
        "Towards Optimal Feature-Shaping Methods for Out-of-Distribution Detection", "ICLR 2024", "2402.00865"
    )
    edges: Fitted[Float[Tensor, " B"]]
    theta: Fitted[Float[Tensor, " B+1"]]

    def __init__(
        self, *, bins: Count = 100, samples: Count = 10_000, readout: Literal["logit", "energy"] = "logit"
    ) -> None:
        super().__init__()
        self.bins = bins
        self.readout = readout
        self.samples = samples

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """A sample of the features with their predicted class."""
        return {"sample": Reservoir(self.samples, by="predicted")}

    def estimate(self, head: Head, sample: Reservoir) -> None:
        """Sum contributions by size."""
        features = sample.rows
        low, high = np.quantile(features.numpy(), [TAIL, 1 - TAIL])
        if not np.float32(low) < np.float32(high):
            raise InputError(
                f"OptFS needs activations that differ, to tell them apart by size; those between the 0.1 and the 99.9 "
                f"percentile of the sample are all {low:g}."
            )
        self.edges = torch.linspace(float(low), float(high), self.bins + 1)
        contribution = head.linear.weight.cpu().double()[sample.groups] * features
        place = torch.bucketize(features, self.edges, right=True)
        total = torch.bincount(place.flatten(), contribution.flatten(), minlength=self.bins + 2)
        total[[0, -1]] = 0.0
        self.theta = torch.nn.functional.normalize(total / len(features), dim=0).float()

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Shaped logit of the predicted class, without its bias, or energy of all shaped logits (N,)."""
        features = activations.features
        shaped = features * self.theta[torch.bucketize(features, self.edges, right=True)]
        if self.readout == "energy":
            return activations.head(SCALE * shaped).logsumexp(1) / SCALE
        weight = activations.head.linear.weight[activations.logits.argmax(1)]
        return (weight * shaped).sum(1)
