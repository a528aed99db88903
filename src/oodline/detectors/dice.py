"""DICE: keep only the weights with the largest mean contribution (Sun and Li, ECCV 2022, Sec. 3)."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Bool
from torch import Tensor

from oodline._util.ranges import Fraction
from oodline.detectors.assumptions import LeavesMost, Rectified, TellsApart
from oodline.detectors.base import Detector
from oodline.detectors.fitted import Fitted
from oodline.detectors.paper import Paper, Preset
from oodline.detectors.rectifier import Rectifier, check_scorer_reads_logits, percentile
from oodline.model.activations import Activations, Needs
from oodline.model.head import Head, LinearHead
from oodline.statistics import ClassMoments, Statistic


class DICE(Rectifier):
    """Logits from a sparse head: `z = (W o M) f + b`, with `M = [W o mean(f) > percentile(W o mean(f), 100 p)]`.

    `mean(f)` is over all ID training images. Higher = more in-distribution; units of the logits.

    Parameters
    ----------
    p : float
        Fraction of the C D weights pruned, in [0, 1); 0.9 in the paper's CIFAR experiments, 0.7 on ImageNet.
    scorer : Detector, optional
        Scores the new logits, reading nothing else; energy by default.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> dice = DICE(p=0.75).fit(*toy_problem())
    >>> round(float(dice.mask.float().mean()), 2)
    0.25
    """

    name: ClassVar = "dice"
    needs: ClassVar = Needs.FEATURES | Needs.LINEAR_HEAD
    assumes: ClassVar = (Rectified(), LeavesMost(clips=False), TellsApart())
    paper: ClassVar = Paper(
        "DICE: Leveraging Sparsification for Out-of-Distribution Detection", "ECCV 2022", "2111.09805"
    )
    presets: ClassVar = {
        "cifar-densenet100": Preset({"p": 0.9}, "the paper's CIFAR experiments"),
        "imagenet-resnet50": Preset({"p": 0.7}, "the paper's ImageNet experiments"),
    }
    tunable: ClassVar = {"p": (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)}
    mask: Fitted[Bool[Tensor, "C D"]]

    def __init__(self, *, p: Fraction = 0.9, scorer: Detector | None = None) -> None:
        super().__init__(scorer)
        check_scorer_reads_logits(self)
        self.p = p

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """Mean feature over all samples."""
        return {"features": ClassMoments(by="all")}

    def estimate(self, head: Head, features: ClassMoments) -> None:
        """Mark the weights to keep."""
        contribution = head.linear.weight.cpu().double() * features.overall_mean
        self.mask = contribution > percentile(contribution.numpy(), self.p)

    def rectify(self, activations: Activations) -> Activations:
        """Recompute the logits with the weights that are left."""
        head = activations.head.linear
        sparse = LinearHead(head.weight * self.mask.to(head.weight.device), head.bias)
        return activations.replace(logits=sparse(activations.features))
