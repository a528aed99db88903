"""The class-prior normaliser of ImOOD, around any detector (Liu et al., NeurIPS 2024, the post-hoc part)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from oodline._util.ranges import NonNegative
from oodline.detectors.assumptions import SOFTMAX, Measured
from oodline.detectors.base import Detector
from oodline.detectors.fitted import Fitted
from oodline.detectors.msp import MSP
from oodline.detectors.paper import Paper
from oodline.model.activations import Activations, Needs
from oodline.model.head import Head
from oodline.statistics import ClassMoments, Statistic


@dataclass(frozen=True)
class Imbalanced:
    """Classes differ in size by more than chance: the largest is at least twice the smallest, or all are equal."""

    words: ClassVar[str] = "classes of clearly different sizes, or of the same"

    def broken(self, detector: Any, measured: Measured) -> str:
        """Compare the largest class with the smallest."""
        ratio = float((detector.log_prior.amax() - detector.log_prior.amin()).exp())
        if 1.001 < ratio < 2:
            return f"the largest class has {ratio:.2f} times the samples of the smallest, too little to correct for"
        return ""


class PriorNormalised(Detector):
    """A score that does not hold rare classes against an input: `S + strength log(1/C sum_y P(y|x) / P(y))`.

    `P(y)` is the share of class y in the training data; with equally many samples in each class the correction is zero.
    Higher = more in-distribution; units of the scorer.

    Parameters
    ----------
    strength : float
        In the units of the scorer, at least 0; in the authors' code 0.1 for MSP, 1 for energy, 0.01 for Mahalanobis.
    scorer : Detector, optional
        What is corrected; MSP by default.
    scale : {"probability", "log"}
        How a scorer of log probabilities, such as MSP, enters: as `S = p - 1/C`, as in the authors' code, or as log p.
        Other scorers enter as they are.

    Raises
    ------
    SettingError
        The strength is negative, or the scale unknown.
    LabelError
        A class has no sample.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> activations = classifier(loader[0][0])
    >>> balanced = PriorNormalised().fit(classifier, loader)
    >>> torch.allclose(balanced(activations), MSP()(activations).exp() - 1 / 3, atol=1e-6)
    True
    """

    name: ClassVar = "prior-normalised"
    needs: ClassVar = Needs.LOGITS
    paper: ClassVar = Paper(
        "Rethinking Out-of-Distribution Detection on Imbalanced Data Distribution", "NeurIPS 2024", "2407.16430"
    )
    assumes: ClassVar = (
        SOFTMAX,
        Imbalanced(),
    )
    unstated: ClassVar = {"scale": "log"}
    log_prior: Fitted[Float[Tensor, " C"]]
    scorer: Detector

    def __init__(
        self,
        *,
        strength: NonNegative = 0.1,
        scorer: Detector | None = None,
        scale: Literal["probability", "log"] = "probability",
    ) -> None:
        super().__init__()
        self.strength = strength
        self.scale = scale
        self.scorer = scorer if scorer is not None else MSP()

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """How many samples each class has."""
        return {"moments": ClassMoments()}

    def estimate(self, head: Head, moments: ClassMoments) -> None:
        """Turn counts into shares."""
        moments.check_every_class()
        self.log_prior = (moments.count.double() / moments.total).log().float()

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """The corrected score (N,)."""
        ratios = torch.log_softmax(activations.logits, dim=1) - self.log_prior
        classes = torch.tensor(float(len(self.log_prior)))
        scores: Tensor = self.scorer(activations)
        if self.scorer.is_log_probability and self.scale == "probability":
            scores = scores.exp() - 1 / classes.to(scores)
        return scores + self.strength * (ratios.logsumexp(1) - classes.log().to(ratios))
