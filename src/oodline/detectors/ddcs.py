"""DDCS: keep the channels whose class prototypes differ, after a smooth rectification (Yuan et al., CVPR 2024)."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from oodline._util.ranges import Count, Fraction, Share
from oodline.detectors.assumptions import LeavesMost, Rectified, TellsApart
from oodline.detectors.base import Detector
from oodline.detectors.fitted import Fitted
from oodline.detectors.paper import Paper, Preset
from oodline.detectors.parts.bound import Bound, Threshold
from oodline.detectors.rectifier import Rectifier
from oodline.errors import LabelError, SettingError
from oodline.model.activations import Activations, Needs
from oodline.model.head import Head
from oodline.statistics import Reservoir, Statistic

CHUNK = 1024
"""Samples that are rectified at a time while fitting, in double precision."""

ORDER = 2
"""Of the low-pass curve that bends large activations down."""


def bend(features: Float[Tensor, "n d"], low: Tensor, high: Tensor) -> Float[Tensor, "n d"]:
    """Lift activations to at least `low`; bend those from `high` on towards zero, the more the larger."""
    lifted = features.maximum(low)
    # the square root of 1 + r^4, without the overflow of r^4
    damped = lifted / torch.hypot(torch.ones_like(lifted), (lifted / high) ** ORDER)
    return torch.where(lifted >= high, damped + low, lifted)


def discriminability(prototypes: Float[Tensor, "c d"], alpha: float) -> Float[Tensor, " d"]:
    """`alpha S - (1 - alpha) V` of each channel, smaller = better.

    S is the mean product of the prototypes of two different classes, and V their variance.
    """
    classes = len(prototypes)
    alike = (prototypes.sum(0).square() - prototypes.square().sum(0)) / (classes * (classes - 1))
    return alpha * alike - (1 - alpha) * prototypes.var(0)


class DDCS(Rectifier):
    """Discriminability-driven channel selection: energy of the logits of bent features in the channels that are kept.

    Features are lifted to at least `low` and bent down from `high` on; of the D channels, the p D with the largest
    `alpha S - (1 - alpha) V` are set to zero, S being the mean product of two classes' mean features in a channel, and
    V the variance of the class means. Higher = more in-distribution; units of the logits.

    Parameters
    ----------
    p : float
        Fraction of the channels dropped, in [0, 1); 230 of 1280 in the authors' code.
    alpha : float
        In [0, 1]: how much likeness counts against variance.
    low, high : float or str
        Values, or percentiles of all activations of the samples that are kept; the authors' code bends from "90%".
    samples : int
        Training samples that are kept to estimate from, chosen by a hash of their index.
    scorer : Detector, optional
        Scores the rectified activations; energy by default.

    Raises
    ------
    SettingError
        A setting is out of range, or `low` exceeds `high`.
    LabelError
        The sample shows fewer than two classes.

    Notes
    -----
    The authors released settings for an ImageNet MobileNetV2 only, estimated from validation images. Classes that the
    sample does not show are left out of S and V.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> int(DDCS(p=0.25).fit(classifier, loader).kept.sum())
    12
    """

    name: ClassVar = "ddcs"
    needs: ClassVar = Needs.FEATURES | Needs.HEAD
    assumes: ClassVar = (Rectified(), LeavesMost(clips=False), TellsApart())
    paper: ClassVar = Paper("Discriminability-Driven Channel Selection for Out-of-Distribution Detection", "CVPR 2024")
    presets: ClassVar = {
        "imagenet-mobilenetv2": Preset(
            {"p": 0.18, "alpha": 0.8, "low": 0.0788, "high": 1.3361}, "the authors' code, commit 9182805"
        )
    }
    kept: Fitted[Bool[Tensor, " D"]]
    lowest: Fitted[Float[Tensor, ""]]
    highest: Fitted[Float[Tensor, ""]]

    def __init__(
        self,
        *,
        p: Fraction = 0.18,
        alpha: Share = 0.8,
        low: Bound = "20%",
        high: Bound = "98%",
        samples: Count = 10_000,
        scorer: Detector | None = None,
    ) -> None:
        super().__init__(scorer)
        self.p = p
        self.alpha = alpha
        self.low = low
        self.high = high
        self.samples = samples
        self._low = Threshold.of(low)
        self._high = Threshold.of(high)

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """A labelled sample of the features."""
        return {"sample": Reservoir(self.samples, by="label")}

    def estimate(self, head: Head, sample: Reservoir) -> None:
        """Rank the channels by the prototypes of the rectified sample."""
        # `bend` jumps at `high`: a percentile that is off by 1e-5 moves single samples by a tenth of the range
        self.lowest, self.highest = (t.estimate_exactly(sample.rows) for t in (self._low, self._high))
        if not float(self.highest) > 0:
            raise SettingError(f"DDCS needs high above 0, where activations begin to bend; it is {self.highest:g}.")
        if float(self.lowest) > float(self.highest):
            raise SettingError(
                f"DDCS needs low at most high; low={self.low} is {self.lowest:g} and high={self.high} is "
                f"{self.highest:g}."
            )
        classes, place = torch.unique(sample.groups, return_inverse=True)
        if len(classes) < 2:
            raise LabelError("DDCS compares classes, and the sample shows only one. Fit on data of several classes.")
        sums = torch.zeros(len(classes), sample.rows.shape[1], dtype=torch.float64)
        for part, theirs in zip(torch.split(sample.rows, CHUNK), torch.split(place, CHUNK), strict=True):
            sums.index_add_(0, theirs, bend(part.double(), self.lowest.double(), self.highest.double()))
        worth = discriminability(sums / torch.bincount(place).unsqueeze(1), self.alpha)
        width = len(worth)
        best = worth.sort(stable=True).indices[: max(1, width - round(width * self.p))]
        self.kept = torch.zeros(width, dtype=torch.bool).index_fill_(0, best, True)

    def rectify(self, activations: Activations) -> Activations:
        """Bend the features, drop channels and recompute the logits."""
        features = bend(activations.features, self.lowest, self.highest) * self.kept
        return activations.replace(features=features, logits=activations.head(features))
