"""CARef and CADRef: error relative to the mean feature of the predicted class (Ling et al., CVPR 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from oodline.detectors.assumptions import PREDICTED, PerClass, TellsApart
from oodline.detectors.base import Detector
from oodline.detectors.entropy import generalised_entropy
from oodline.detectors.fitted import Fitted
from oodline.detectors.paper import Paper
from oodline.model.activations import Activations, Needs
from oodline.model.head import Head
from oodline.statistics import ClassMoments, Statistic

PAPER = Paper(
    "CADRef: Robust Out-of-Distribution Detection via Class-Aware Decoupled Relative Feature Leveraging",
    "CVPR 2025",
    "2503.00325",
)
SMALLEST = 1e-3
"""Smaller energies, which the formula does not foresee at or below zero, count as this."""

GAMMA, FEWEST = 0.1, 10
"""Of the generalised entropy in the authors' code: the exponent, and the fewest probabilities that count."""


def confidence_of(logits: Float[Tensor, "n c"], kind: str) -> Float[Tensor, " n"]:
    """How confident the classifier is: the energy, or one over the generalised entropy."""
    if kind == "energy":
        return logits.logsumexp(1)
    entropy = generalised_entropy(logits, GAMMA, max(FEWEST, logits.shape[1] // 10))
    return 1 / entropy.clamp(min=torch.finfo(torch.float32).tiny)


@dataclass(frozen=True)
class Confidence:
    """What `confidence_of` makes of the logits, (N, 1)."""

    kind: str

    def __call__(self, activations: Activations, groups: Int[Tensor, " n"]) -> Float[Tensor, "n k"]:
        """One number per sample."""
        return confidence_of(activations.logits.double(), self.kind).unsqueeze(1)


class CARef(Detector):
    """Relative error: `-|f - mu_c|_1 / |f|_1`, mu_c being the mean of training features *predicted* as the class c.

    Higher = more in-distribution. Range: (-inf, 0], no unit. A class that was never predicted takes the mean over all
    samples; features of zero score as `f` far from every mean.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> bool((CARef().fit(classifier, loader)(classifier(loader[0][0])) < 0).all())
    True
    """

    name: ClassVar = "caref"
    needs: ClassVar = Needs.FEATURES | Needs.LOGITS
    assumes: ClassVar = (PREDICTED, PerClass(10, "a mean of each class"), TellsApart())
    paper: ClassVar = PAPER
    means: Fitted[Float[Tensor, "C D"]]

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """Means of the features by predicted class."""
        return {"moments": ClassMoments(by="predicted")}

    def estimate(self, head: Head, moments: ClassMoments) -> None:
        """Keep the means."""
        seen = (moments.count > 0).unsqueeze(1)
        self.means = torch.where(seen, moments.mean, moments.overall_mean).float()

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Negative relative error (N,)."""
        error, size = self._error(activations)
        return -error.abs().sum(1) / size

    def _error(self, activations: Activations) -> tuple[Float[Tensor, "n d"], Float[Tensor, " n"]]:
        features = activations.features
        size = features.abs().sum(1).clamp(min=torch.finfo(features.dtype).tiny ** 0.5)
        return features - self.means[activations.logits.argmax(1)], size


class CADRef(CARef):
    """Relative errors that speak for and against the class, each by its own measure: `-(Ep / S(z) + En / mean S)`.

    `Ep = |relu(d sign(W_c))|_1 / |f|_1` and `En = |relu(-d sign(W_c))|_1 / |f|_1` with `d = f - mu_c`; S is the
    confidence, its mean taken over the training data. Higher = more in-distribution. Range: (-inf, 0], no unit.

    Parameters
    ----------
    confidence : {"energy", "gen"}
        What S is: the energy `logsumexp(z)`, or one over the generalised entropy `sum_m p_m^0.1 (1 - p_m)^0.1` of the
        C / 10, at least 10, largest probabilities, which the paper finds best.

    Raises
    ------
    SettingError
        The confidence is not known.

    Notes
    -----
    The formula supposes S > 0; smaller energies count as 0.001, which makes such inputs very OOD.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> CADRef().fit(classifier, loader)(classifier(loader[0][0])).shape
    torch.Size([60])
    """

    name: ClassVar = "cadref"
    needs: ClassVar = Needs.FEATURES | Needs.LOGITS | Needs.LINEAR_HEAD
    mean_energy: Fitted[Float[Tensor, ""]]

    def __init__(self, *, confidence: Literal["energy", "gen"] = "energy") -> None:
        super().__init__()
        self.confidence = confidence

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """Means of the features by predicted class, and the mean confidence."""
        return {**super().statistics(head), "confidence": ClassMoments(Confidence(self.confidence), "all")}

    def estimate(self, head: Head, moments: ClassMoments, confidence: ClassMoments) -> None:  # type: ignore[override]
        """Keep the means."""
        super().estimate(head, moments)
        self.mean_energy = confidence.overall_mean[0].clamp(min=SMALLEST).float()

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Negative decoupled error (N,)."""
        error, size = self._error(activations)
        weight = activations.head.linear.weight[activations.logits.argmax(1)]
        agreeing = error * weight.sign()
        for_class, against = agreeing.clamp(min=0).sum(1) / size, (-agreeing).clamp(min=0).sum(1) / size
        confidence = confidence_of(activations.logits, self.confidence).clamp(min=SMALLEST)
        return -(for_class / confidence + against / self.mean_energy)
