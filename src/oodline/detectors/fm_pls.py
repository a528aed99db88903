"""FM + PLS: a mask read off the head, and logits smoothed by likeness to the class (Sun et al., 2023)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import cosine_similarity

from oodline._util.ranges import Fraction
from oodline.detectors.assumptions import PREDICTED, LeavesMost, Rectified, TellsApart
from oodline.detectors.base import Detector
from oodline.detectors.fitted import Fitted
from oodline.detectors.paper import Paper, Preset
from oodline.detectors.parts.bound import Bound, Threshold, check_largest
from oodline.detectors.rectifier import Rectifier, check_scorer_reads_logits
from oodline.model.activations import Activations, Needs
from oodline.model.head import Head
from oodline.statistics import ClassMoments, Quantiles, Statistic


class FMPLS(Rectifier):
    """Head-informed masking and prototype smoothing: energy of `z' = (W min(f o Mask[c], theta) + b) cos(mu_c, f)`.

    `Mask[c, d] = [W[c, d] >= percentile(W[c, :], 100 p)]`, c the predicted class and mu_c the mean feature of its
    training samples. Higher = more in-distribution; units of the logits.

    Parameters
    ----------
    p : float
        Fraction of the features masked, in [0, 1).
    theta : float or str
        Largest activation that counts, above 0, or the percentile of all training activations that gives it.
    scorer : Detector, optional
        Scores the new logits, reading nothing else; energy by default.

    Raises
    ------
    SettingError
        A setting is out of range.
    LabelError
        A class has no sample.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> FMPLS().fit(classifier, loader)(classifier(loader[0][0])).shape
    torch.Size([60])
    """

    name: ClassVar = "fm-pls"
    needs: ClassVar = Needs.FEATURES | Needs.LOGITS | Needs.LINEAR_HEAD
    assumes: ClassVar = (PREDICTED, Rectified(), LeavesMost(clips=False), TellsApart())
    paper: ClassVar = Paper(
        "Classifier-Head Informed Feature Masking and Prototype-based Logit Smoothing for Out-of-Distribution "
        "Detection",
        "arXiv 2023",
        "2310.18104",
    )
    presets: ClassVar = {
        "cifar-densenet100": Preset({"p": 0.6, "theta": 1.6}, "commands in the authors' README"),
        "imagenet-resnet50": Preset({"p": 0.3, "theta": 0.8}, "commands in the authors' README"),
    }
    tunable: ClassVar = {"p": (0.0, 0.3, 0.6, 0.9), "theta": ("100%", "98%", "95%", "90%", "80%")}
    largest: Fitted[Float[Tensor, ""]]
    mask: Fitted[Bool[Tensor, "C D"]]
    means: Fitted[Float[Tensor, "C D"]]

    def __init__(self, *, p: Fraction = 0.3, theta: Bound = "98%", scorer: Detector | None = None) -> None:
        super().__init__(scorer)
        check_scorer_reads_logits(self)
        self._theta = Threshold.of(theta)
        check_largest("theta", self._theta.value)
        self.p = p
        self.theta = theta

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """Class means of the features, and their quantiles for a percentile."""
        return {"moments": ClassMoments(), **self._theta.statistics()}

    def estimate(self, head: Head, moments: ClassMoments, activations: Quantiles | None = None) -> None:
        """Mark the features to keep, and keep the means."""
        moments.check_every_class()
        weight = head.linear.weight.cpu().double().numpy()
        self.mask = torch.from_numpy(weight >= np.quantile(weight, self.p, axis=1, keepdims=True))
        self.means = moments.mean.float()
        self.largest = self._theta.estimate(activations)
        check_largest("theta", float(self.largest))

    def rectify(self, activations: Activations) -> Activations:
        """Mask, clip, recompute the logits and smooth them."""
        features, predicted = activations.features, activations.logits.argmax(1)
        masked = (features * self.mask[predicted]).minimum(self.largest)
        likeness = cosine_similarity(self.means[predicted], features, dim=1)
        return activations.replace(logits=activations.head(masked) * likeness.unsqueeze(1))
