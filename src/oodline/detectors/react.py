"""ReAct: clip unusually large activations (Sun, Guo and Li, NeurIPS 2021, Eq. 2)."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from oodline.detectors.assumptions import LeavesMost, Rectified
from oodline.detectors.base import Detector
from oodline.detectors.fitted import Fitted
from oodline.detectors.paper import Paper, Preset
from oodline.detectors.parts.bound import Bound, Threshold
from oodline.detectors.rectifier import Rectifier
from oodline.model.activations import Activations, Needs
from oodline.model.head import Head
from oodline.statistics import Quantiles, Statistic


class ReAct(Rectifier):
    """Features clipped from above at a quantile of all ID activations: `z = W min(f, c) + b`, scored by energy.

    Higher = more in-distribution; units of the logits.

    Parameters
    ----------
    clip : float or str
        The clipping value c, or the percentile of all training activations (every feature of every sample) that gives
        it: "90%" in the paper, which cuts what tells classes apart where only few features speak for a class.
    scorer : Detector, optional
        Scores the clipped activations; energy by default.

    Raises
    ------
    SettingError
        `clip` is neither a value nor a percentile.

    Notes
    -----
    A percentile comes from a mergeable count with a relative error of at most 0.05 %
    (`oodline.statistics.quantiles.RELATIVE_ERROR`).

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> react = ReAct().fit(classifier, loader)
    >>> bool((react.rectify(classifier(loader[0][0])).features <= react.largest).all())
    True
    """

    name: ClassVar = "react"
    needs: ClassVar = Needs.FEATURES | Needs.HEAD
    assumes: ClassVar = (Rectified(), LeavesMost())
    paper: ClassVar = Paper(
        "ReAct: Out-of-distribution Detection With Rectified Activations", "NeurIPS 2021", "2111.12797"
    )
    presets: ClassVar = {"imagenet-resnet50": Preset({"clip": "90%"}, "the paper's experiments")}
    tunable: ClassVar = {"clip": ("100%", "99%", "98%", "95%", "90%", "80%")}
    largest: Fitted[Float[Tensor, ""]]

    def __init__(self, *, clip: Bound = "98%", scorer: Detector | None = None) -> None:
        super().__init__(scorer)
        self.clip = clip
        self._clip = Threshold.of(clip)

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """Quantiles of all features, for a percentile."""
        return self._clip.statistics()

    def estimate(self, head: Head, activations: Quantiles | None = None) -> None:
        """Find the clipping value."""
        self.largest = self._clip.estimate(activations)

    def rectify(self, activations: Activations) -> Activations:
        """Clip the features and recompute the logits."""
        features = activations.features.minimum(self.largest)
        return activations.replace(features=features, logits=activations.head(features))
