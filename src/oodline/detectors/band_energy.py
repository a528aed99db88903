"""Band energy: energy less what is missing and what is unexpected of the predicted class's contributions.

Ours, and it looks for what LINe looks for, the usual pattern of a class's neurons, without the need of a ReLU: nothing
is counted, pruned or clipped. Nearest in the literature: ITP's mask of contributions far from a class's mean, BATS'
typical range of each feature, and the boxes of activations per class that Henzinger et al. (ECAI 2020) watch. None of
them subtracts from the energy by how much contributions to the predicted logit leave their class's range.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from oodline._util.ranges import NonNegative, Positive, Share
from oodline.detectors.assumptions import PREDICTED
from oodline.detectors.base import Detector
from oodline.detectors.evidence import Evidence, require_linear
from oodline.detectors.fitted import Fitted
from oodline.model.activations import Activations, Needs
from oodline.model.head import Head
from oodline.statistics import ClassMoments, Reservoir, Statistic

PRIOR = 10
"""Samples of the data as a whole that are added to each class, so that one of few images has a band of its own."""

SAMPLE = 1000
"""Training samples on which `strength` is estimated."""

SPREAD = 0.25
"""Standard deviation of what is subtracted from ID images, as a share of that of their energy, at most."""

IMPORTANT = 0.9
"""Quantile of a class's mean contributions above which a neuron is important for it, in explanations."""


class BandEnergy(Detector):
    """Energy less what leaves the predicted class's band: `logsumexp(z) - strength (U + missing M)`.

    With c the predicted class, `a_j = W[c, j] f_j` what neuron j contributes to its logit, and `[L_j, H_j]` the class's
    band, the usual contribution give or take `width` standard deviations, over training images predicted as c:

    - `U = sum_j max(a_j - H_j, 0)` is what is unexpected: contributions larger than usual,
    - `M = sum_j max(L_j - a_j, 0)` is what is missing: contributions smaller than usual.

    Higher = more in-distribution; units of the logits. No labels are read, and features may have either sign.

    Parameters
    ----------
    width : float
        Half the width of the band in standard deviations of the class's contributions, above 0.
    missing : float
        Weight of what is missing beside what is unexpected, in [0, 1].
    strength : float, optional
        Weight of both beside the energy, at least 0. If omitted, 1, or less where what is subtracted from training
        images would otherwise vary by more than a quarter of what their energy varies by; each is then judged by bands
        that were made without it.

    Raises
    ------
    SettingError
        A setting is out of range.
    HeadError
        The head has several layers.

    Notes
    -----
    Means and variances of a class are those of its samples and of 10 samples of the data as a whole: a class of few
    images, or of none, gets a wide band.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> detector = BandEnergy().fit(classifier, loader)
    >>> detector.low.shape, detector(classifier(loader[0][0])).shape
    (torch.Size([3, 16]), torch.Size([60]))
    """

    name: ClassVar = "band-energy"
    needs: ClassVar = Needs.FEATURES | Needs.LOGITS | Needs.LINEAR_HEAD
    assumes: ClassVar = (PREDICTED,)
    tunable: ClassVar = {"width": (1.5, 1.0, 0.7), "missing": (0.0, 0.5, 1.0)}
    low: Fitted[Float[Tensor, "C D"]]
    high: Fitted[Float[Tensor, "C D"]]
    used_strength: Fitted[Float[Tensor, ""]]

    def __init__(self, *, width: Positive = 1.0, missing: Share = 0.5, strength: NonNegative | None = None) -> None:
        super().__init__()
        self.width = width
        self.missing = missing
        self.strength = strength

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """Mean and variance of the features by predicted class, and a sample of them."""
        return {
            "moments": ClassMoments(by="predicted", variance=True),
            "sample": Reservoir(SAMPLE, by="predicted"),
        }

    def estimate(self, head: Head, moments: ClassMoments, sample: Reservoir) -> None:
        """Make the bands, and the strength from samples that are judged by bands made without them."""
        every = torch.arange(len(moments.count))
        mean, deviation = _usual(moments, every, None)
        self.low, self.high = (mean - self.width * deviation).float(), (mean + self.width * deviation).float()
        strength = self.strength
        if strength is None:
            features, predicted = sample.rows.double(), sample.groups
            mean, deviation = _usual(moments, predicted, features)
            weight = head.linear.weight.cpu().double()
            low, high = mean - self.width * deviation, mean + self.width * deviation
            excess = self._excess(features, weight[predicted], low, high)
            energy = (features @ weight.T + head.linear.bias.cpu().double()).logsumexp(1)
            spread, allowed = float(excess.std(unbiased=False)), SPREAD * float(energy.std(unbiased=False))
            strength = 1.0 if spread <= allowed else allowed / spread
        self.used_strength = torch.tensor(strength)

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Energy less what leaves the band (N,)."""
        features, predicted = activations.features, activations.logits.argmax(1)
        weight = activations.head.linear.weight.to(features)[predicted]
        excess = self._excess(features, weight, self.low[predicted], self.high[predicted])
        return activations.logits.logsumexp(1) - self.used_strength * excess

    def evidence(self, activations: Activations) -> Evidence:
        """What speaks for the predicted class of each input; `counted` is the part within the band.

        Raises
        ------
        HeadError
            The head has several layers.
        """
        predicted = activations.logits.argmax(1)
        weight = require_linear(activations.head).weight[predicted]
        low, high = self.low[predicted], self.high[predicted]
        expected = weight * (low + high) / 2
        return Evidence(
            predicted_class=predicted,
            expected=expected,
            found=weight * activations.features,
            counted=weight * activations.features.clamp(low, high),
            important=expected > expected.quantile(IMPORTANT, dim=1, keepdim=True),
        )

    def _excess(self, features: Tensor, weight: Tensor, low: Tensor, high: Tensor) -> Tensor:
        # a weight below zero turns the band over: too large a feature is then a contribution that is missing
        above, below = weight * (features - high).clamp(min=0), weight * (low - features).clamp(min=0)
        unexpected = above.clamp(min=0) + (-below).clamp(min=0)
        missing = below.clamp(min=0) + (-above).clamp(min=0)
        found: Tensor = (unexpected + self.missing * missing).sum(1)
        return found


def _usual(
    moments: ClassMoments, classes: Int[Tensor, " n"], left_out: Float[Tensor, "n d"] | None
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
    """Mean and standard deviation of these classes' features, each without one sample of it where that is given."""
    overall = moments.overall_mean
    count = moments.count.unsqueeze(1).double()
    between = (count * (moments.mean - overall).square()).sum(0)
    variance = (moments.deviations.sum(0) + between) / moments.total
    n, mean, deviations = count[classes], moments.mean[classes], moments.deviations[classes]
    if left_out is not None:
        rest = (n - 1).clamp(min=1)  # of a class of one sample nothing is left, and n = 0 says so
        deviations = torch.where(n > 1, deviations - n / rest * (left_out - mean).square(), 0.0).clamp(min=0)
        mean, n = torch.where(n > 1, (n * mean - left_out) / rest, overall), n - 1
    together = n + PRIOR
    shift = n * PRIOR / together * (mean - overall).square()
    return (n * mean + PRIOR * overall) / together, ((deviations + PRIOR * variance + shift) / together).sqrt()
