"""ORA: the angle to the decision boundaries, seen from the training mean (Demirel et al., NeurIPS 2025).

After the authors' code, commit 58d0733.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from oodline.detectors.assumptions import PREDICTED, TellsApart
from oodline.detectors.base import Detector
from oodline.detectors.fitted import Fitted
from oodline.detectors.paper import Paper
from oodline.detectors.parts.gaps import inverse_gap_table, inverse_gaps
from oodline.model.activations import Activations, Needs
from oodline.model.head import Head
from oodline.statistics import ClassMoments, Statistic


class ORA(Detector):
    """Angle between the features and their projection on a decision boundary, both seen from the mean of class means.

    With `m` that mean, c the predicted class and `f_k = f - (z_c - z_k) / |W_c - W_k|^2 (W_c - W_k)` for another class
    k: the largest, over k, of `angle(f - m, f_k - m) / pi`. Higher = more in-distribution. Range: [0, 1], no unit.
    Classes with equal weights have no boundary and count as angle 0.

    Parameters
    ----------
    over : {"max", "mean"}
        The largest angle, as in the paper, or the mean over the other classes.
    unseen : {"error", "skip"}
        What becomes of a class without training samples: an error, or it has no part in the mean.

    Raises
    ------
    SettingError
        A setting is out of range.
    LabelError
        A class has no sample.

    Notes
    -----
    With `g = f - m` and `v = f - f_k`, the cosine and sine of the angle are `|g|^2 - g.v` and
    `sqrt(|g|^2 |v|^2 - (g.v)^2)` over one length, `|v| = (z_c - z_k) / |W_c - W_k|`, and
    `g.(W_c - W_k)` is a difference of logits less the logits of m. So no projection is computed.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> scores = ORA().fit(classifier, loader)(classifier(loader[0][0]))
    >>> bool((scores >= 0).all() and (scores <= 1).all())
    True
    """

    name: ClassVar = "ora"
    needs: ClassVar = Needs.FEATURES | Needs.LOGITS | Needs.LINEAR_HEAD
    assumes: ClassVar = (
        PREDICTED,
        TellsApart(),
    )
    paper: ClassVar = Paper("Out-of-Distribution Detection with Relative Angles", "NeurIPS 2025", "2410.04525")
    tunable: ClassVar = {"over": ("max", "mean")}
    mean: Fitted[Float[Tensor, " D"]]
    logits_at_mean: Fitted[Float[Tensor, " C"]]
    inverse_gap: Fitted[Float[Tensor, "H C"]]

    def __init__(self, *, over: Literal["max", "mean"] = "max", unseen: Literal["error", "skip"] = "error") -> None:
        super().__init__()
        self.over = over
        self.unseen = unseen

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """Class means of the features."""
        return {"features": ClassMoments()}

    def estimate(self, head: Head, features: ClassMoments) -> None:
        """Keep the mean of class means, its logits, and one over the distance between rows of the head."""
        if self.unseen == "error":
            features.check_every_class(otherwise=", or leave out those that it does not show: unseen=skip")
        weight, bias = head.linear.weight.cpu().double(), head.linear.bias.cpu().double()
        mean = features.mean[features.count > 0].mean(0)
        self.mean = mean.float()
        self.logits_at_mean = (weight @ mean + bias).float()
        self.inverse_gap = inverse_gap_table(weight)

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Largest or mean angle, over pi (N,)."""
        # squares of far features are beyond single precision
        logits = activations.logits.double()
        moved = logits - self.logits_at_mean
        predicted = logits.argmax(1, keepdim=True)
        weight = activations.head.linear.weight
        inverse_gap = inverse_gaps(self.inverse_gap, weight, predicted.squeeze(1)).double()
        length = (logits.gather(1, predicted) - logits) * inverse_gap
        along = length * (moved.gather(1, predicted) - moved) * inverse_gap
        size = (activations.features.double() - self.mean).square().sum(1, keepdim=True)
        cosine = size - along
        sine = (size * length.square() - along.square()).clamp(min=0).sqrt()
        # half the angle: exact for small ones, where the cosine is 1 to all digits
        whole = (sine.square() + cosine.square()).sqrt() + cosine
        half = torch.atan((sine / whole.clamp(min=torch.finfo(torch.float64).tiny)).float())
        angles = half * (2 / math.pi)
        if self.over == "max":
            return angles.amax(1)
        return angles.sum(1) / max(1, angles.shape[1] - 1)
