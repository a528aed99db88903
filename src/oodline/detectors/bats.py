"""BATS: features pulled back into their typical interval (Zhu et al., NeurIPS 2022, Eq. 4)."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from oodline._util.ranges import Positive
from oodline.detectors.assumptions import LeavesMost, Rectified
from oodline.detectors.base import Detector
from oodline.detectors.fitted import Fitted
from oodline.detectors.paper import Paper, Preset
from oodline.detectors.rectifier import Rectifier
from oodline.model.activations import Activations, Needs
from oodline.model.head import Head
from oodline.statistics import ClassMoments, Statistic


class BATS(Rectifier):
    """Typical features: each feature clipped to `mean +- lam deviation` of its training values, scored by energy.

    Higher = more in-distribution; units of the logits.

    Parameters
    ----------
    lam : float
        How many standard deviations are typical, above 0.
    scorer : Detector, optional
        Scores the clipped activations; energy by default.

    Raises
    ------
    SettingError
        lam is not positive.

    Notes
    -----
    The paper reads the interval off the batch normalisation before the features, where there is one. Here mean and
    deviation are those of the training features, which every network has.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> bats = BATS(lam=1.0).fit(classifier, loader)
    >>> bool((bats.rectify(classifier(loader[0][0])).features <= bats.highest).all())
    True
    """

    name: ClassVar = "bats"
    needs: ClassVar = Needs.FEATURES | Needs.HEAD
    assumes: ClassVar = (Rectified(), LeavesMost(clips=False))
    paper: ClassVar = Paper(
        "Boosting Out-of-distribution Detection with Typical Features", "NeurIPS 2022", "2210.04200"
    )
    presets: ClassVar = {"imagenet-resnet50": Preset({"lam": 1.05}, "the code of CoP and CoRP, which compares with it")}
    tunable: ClassVar = {"lam": (4.0, 3.0, 2.0, 1.5, 1.05, 0.8, 0.5)}
    lowest: Fitted[Float[Tensor, " D"]]
    highest: Fitted[Float[Tensor, " D"]]

    def __init__(self, *, lam: Positive = 1.05, scorer: Detector | None = None) -> None:
        super().__init__(scorer)
        self.lam = lam

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """Mean and variance of each feature over all samples."""
        return {"moments": ClassMoments(by="all", variance=True)}

    def estimate(self, head: Head, moments: ClassMoments) -> None:
        """Find the interval of each feature."""
        spread = self.lam * moments.standard_deviation(unbiased=False)[0]
        self.lowest, self.highest = (moments.mean[0] - spread).float(), (moments.mean[0] + spread).float()

    def rectify(self, activations: Activations) -> Activations:
        """Clip the features and recompute the logits."""
        features = activations.features.maximum(self.lowest).minimum(self.highest)
        return activations.replace(features=features, logits=activations.head(features))
