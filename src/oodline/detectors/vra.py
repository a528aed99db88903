"""VRA: small activations to zero, large ones clipped (Xu et al., NeurIPS 2023, Eq. 10)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from oodline._util.ranges import Count
from oodline.detectors.assumptions import LeavesMost, Rectified
from oodline.detectors.base import Detector
from oodline.detectors.fitted import Fitted
from oodline.detectors.paper import Paper, Preset
from oodline.detectors.parts.bound import Bound, Threshold
from oodline.detectors.rectifier import Rectifier
from oodline.errors import SettingError
from oodline.model.activations import Activations, Needs
from oodline.model.head import Head
from oodline.statistics import Reservoir, Statistic

SOURCE = "the authors' readme"


class VRA(Rectifier):
    """Variational rectified activation: features below `low` become 0, those above `high` become `high`.

    Scored by energy. Higher = more in-distribution; units of the logits.

    Parameters
    ----------
    low, high : float or str
        Values, or percentiles of each feature over the training data: "60%" and "95%" for the authors' CIFAR-100
        DenseNet.
    samples : int
        Training samples that are kept to take percentiles of, chosen by a hash of their index.
    scorer : Detector, optional
        Scores the rectified activations; energy by default.

    Raises
    ------
    SettingError
        A bound is neither a value nor a percentile, or `low` exceeds `high`.

    Notes
    -----
    As in the authors' code, a percentile is one of the feature's own values, so each feature has bounds of its own;
    for ImageNet the authors state values.

    Examples
    --------
    >>> from oodline.testing import activations_of, toy_problem
    >>> import torch
    >>> vra = VRA(low=1.0, high=3.0).fit(*toy_problem())
    >>> vra.rectify(activations_of(torch.tensor([16 * [0.5], 16 * [2.0], 16 * [4.0]]))).features[:, 0]
    tensor([0., 2., 3.])
    """

    name: ClassVar = "vra"
    needs: ClassVar = Needs.FEATURES | Needs.HEAD
    assumes: ClassVar = (Rectified(), LeavesMost(clips=False))
    paper: ClassVar = Paper(
        "VRA: Variational Rectified Activation for Out-of-distribution Detection", "NeurIPS 2023", "2302.11716"
    )
    presets: ClassVar = {
        "cifar10-densenet100": Preset({"low": "60%", "high": "90%"}, SOURCE),
        "cifar100-densenet100": Preset({"low": "60%", "high": "95%"}, SOURCE),
        "imagenet-resnet50": Preset({"low": 0.5, "high": 1.0}, SOURCE),
    }
    tunable: ClassVar = {"low": ("0%", "20%", "40%", "60%"), "high": ("100%", "99%", "98%", "95%", "90%")}
    lowest: Fitted[Float[Tensor, " ..."]]
    highest: Fitted[Float[Tensor, " ..."]]

    def __init__(
        self,
        *,
        low: Bound = "60%",
        high: Bound = "95%",
        samples: Count = 10_000,
        scorer: Detector | None = None,
    ) -> None:
        super().__init__(scorer)
        self.low = low
        self.high = high
        self.samples = samples
        self._low = Threshold.of(low)
        self._high = Threshold.of(high)

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """A sample of the features, for percentiles."""
        by_value = self._low.fraction is None and self._high.fraction is None
        return {} if by_value else {"sample": Reservoir(self.samples)}

    def estimate(self, head: Head, sample: Reservoir | None = None) -> None:
        """Find the bounds of each feature."""
        self.lowest, self.highest = (bounds(t, sample, head.num_features) for t in (self._low, self._high))
        crossed = torch.nonzero(self.lowest > self.highest).flatten().tolist()
        if crossed:
            first = crossed[0]
            where = "" if sample is None else f"in feature {first}, "
            raise SettingError(
                f"VRA needs low at most high; {where}low={self.low} is {self.lowest[first]:g} and high={self.high} is "
                f"{self.highest[first]:g}."
            )

    def rectify(self, activations: Activations) -> Activations:
        """Rectify the features and recompute the logits."""
        features = activations.features
        features = features.minimum(self.highest).masked_fill(features < self.lowest, 0.0)
        return activations.replace(features=features, logits=activations.head(features))


def bounds(threshold: Threshold, sample: Reservoir | None, width: int) -> Float[Tensor, " d"]:
    """A bound for each feature: the value, or the percentile of the feature in the sample."""
    if threshold.fraction is None or sample is None:
        return threshold.estimate().repeat(width)
    rows = sample.rows.double().numpy()
    return torch.from_numpy(np.quantile(rows, threshold.fraction, axis=0)).float()
