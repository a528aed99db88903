"""VRA: small activations to zero, large ones clipped (Xu et al., NeurIPS 2023, Eq. 10)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from oodline.activations import Activations, Needs
from oodline.detectors.base import Detector, Paper
from oodline.detectors.rectifier import Rectifier
from oodline.detectors.threshold import Threshold
from oodline.errors import SettingError
from oodline.head import Head
from oodline.statistics import Statistic


class VRA(Rectifier):
    """Variational rectified activation: features below `low` become 0, those above `high` become `high`.

    Scored by energy. Higher = more in-distribution; units of the logits.

    Parameters
    ----------
    low, high : float or str
        Values, or percentiles of all training activations: "60%" and "95%" in the paper.
    scorer : Detector, optional
        Scores the rectified activations; energy by default.

    Raises
    ------
    SettingError
        A bound is neither a value nor a percentile, or `low` exceeds `high`.

    Examples
    --------
    >>> from oodline.testing import activations_of, toy_problem
    >>> import torch
    >>> vra = VRA(low=1.0, high=3.0).fit(*toy_problem())
    >>> vra.rectify(activations_of(torch.tensor([[0.5, 2.0, 4.0]]))).features
    tensor([[0., 2., 3.]])
    """

    name: ClassVar = "vra"
    needs: ClassVar = Needs.FEATURES | Needs.HEAD
    paper: ClassVar = Paper(
        "VRA: Variational Rectified Activation for Out-of-distribution Detection", "NeurIPS 2023", "2302.11716"
    )
    tunable: ClassVar = {"low": ("0%", "20%", "40%", "60%"), "high": ("100%", "99%", "98%", "95%", "90%")}
    fitted_buffers: ClassVar = ("lowest", "highest")
    lowest: Tensor
    highest: Tensor

    def __init__(self, *, low: float | str = "60%", high: float | str = "95%", scorer: Detector | None = None) -> None:
        super().__init__(scorer)
        self.low = low
        self.high = high
        self._low = Threshold.of("VRA", "low", low)
        self._high = Threshold.of("VRA", "high", high)

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """Quantiles of all features, for percentiles."""
        return {**self._low.statistics(), **self._high.statistics()}

    def estimate(self, statistics: Mapping[str, Any], head: Head) -> None:
        """Find the bounds."""
        self.lowest, self.highest = self._low.estimate(statistics), self._high.estimate(statistics)
        if float(self.lowest) > float(self.highest):
            raise SettingError(
                f"VRA needs low at most high; low={self.low} is {self.lowest:g} and high={self.high} is "
                f"{self.highest:g}."
            )

    def rectify(self, activations: Activations) -> Activations:
        """Rectify the features and recompute the logits."""
        features = activations.features
        features = features.minimum(self.highest).masked_fill(features < self.lowest, 0.0)
        return activations.replace(features=features, logits=activations.head(features))
