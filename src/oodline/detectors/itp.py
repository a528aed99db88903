"""ITP: prune weights by their mean contribution, and of each input what contributes too much (AAAI 2025)."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from oodline._util.ranges import Fraction
from oodline.detectors.assumptions import LeavesMost, TellsApart
from oodline.detectors.base import Detector
from oodline.detectors.fitted import Fitted
from oodline.detectors.paper import Paper, Preset
from oodline.detectors.parts.masked_linear import graph_tile
from oodline.detectors.rectifier import Rectifier, check_scorer_reads_logits, percentile
from oodline.model.activations import Activations, Needs
from oodline.model.head import Head
from oodline.statistics import ClassMoments, Statistic

CHUNK = 2**21
"""Contributions (sample, class, feature) that are held at a time: 8 MiB in single precision, which caches can hold."""

SOURCE = "the authors' code, commit ecb581a"


def remaining(
    features: Float[Tensor, "n d"], weight: Float[Tensor, "c d"], limit: Float[Tensor, "c d"]
) -> Float[Tensor, "n c"]:
    """Sum over the features of the contributions that lie below their limit."""
    contribution = features.unsqueeze(1) * weight
    found: Tensor = contribution.mul_(contribution < limit).sum(2)
    return found


class ITP(Rectifier):
    """Instance-aware test pruning: energy of `z_c = sum_d v_cd [M_cd > t] [v_cd < M_cd + lam S_cd] + b_c`.

    `v_cd = W[c, d] f_d` is the contribution of a feature to a logit; M and S are its mean and standard deviation over
    training samples labelled c; t is the percentile of all of M below which a weight is redundant. The second mask
    drops, for one input, contributions that are far above what the class shows. Higher = more in-distribution; units
    of the logits.

    Parameters
    ----------
    p : float
        Fraction of the C D weights pruned as redundant, in [0, 1).
    lam : float
        How many standard deviations above the mean a contribution may be.
    scorer : Detector, optional
        Scores the new logits, reading nothing else; energy by default.

    Raises
    ------
    SettingError
        A setting is out of range.
    LabelError
        A class has fewer than two samples, and so no standard deviation.

    Notes
    -----
    The state is one limit (C, D): the largest contribution that counts, minus infinity for a pruned weight. Scoring
    works in parts of `CHUNK` contributions, or of one row of the head where that is more.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> ITP().fit(classifier, loader)(classifier(loader[0][0])).shape
    torch.Size([60])
    """

    name: ClassVar = "itp"
    needs: ClassVar = Needs.FEATURES | Needs.LINEAR_HEAD
    assumes: ClassVar = (LeavesMost(clips=False), TellsApart())
    paper: ClassVar = Paper(
        "ITP: Instance-Aware Test Pruning for Out-of-Distribution Detection", "AAAI 2025", "2412.12566"
    )
    presets: ClassVar = {
        "cifar10-densenet100": Preset({"p": 0.1, "lam": 2.2}, SOURCE),
        "cifar100-densenet100": Preset({"p": 0.2, "lam": 1.6}, SOURCE),
        "imagenet-resnet50": Preset({"p": 0.3, "lam": 1.5}, SOURCE),
    }
    tunable: ClassVar = {"p": (0.0, 0.1, 0.2, 0.3), "lam": (3.0, 2.2, 1.6, 1.0)}
    limit: Fitted[Float[Tensor, "C D"]]

    def __init__(self, *, p: Fraction = 0.3, lam: float = 1.5, scorer: Detector | None = None) -> None:
        super().__init__(scorer)
        check_scorer_reads_logits(self)
        self.p = p
        self.lam = lam

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """Class means and variances of the features, of which contributions are multiples."""
        return {"moments": ClassMoments(variance=True)}

    def estimate(self, head: Head, moments: ClassMoments) -> None:
        """Find the largest contribution that counts, of each feature to each class."""
        moments.check_every_class(at_least=2)
        weight = head.linear.weight.cpu().double()
        mean, spread = weight * moments.mean, weight.abs() * moments.standard_deviation()
        redundant = mean <= percentile(mean.numpy(), self.p)
        self.limit = (mean + self.lam * spread).masked_fill(redundant, -torch.inf).float()

    def rectify(self, activations: Activations) -> Activations:
        """Recompute the logits from the contributions that are left."""
        head = activations.head.linear
        samples = max(1, CHUNK // head.weight.numel())
        traced = torch.compiler.is_compiling()
        classes = graph_tile(head.weight) if traced else max(1, CHUNK // head.num_features)
        blocks = list(zip(torch.split(head.weight, classes), torch.split(self.limit, classes), strict=True))
        # a graph takes batches of any size whole, since it cannot count them
        parts = [activations.features] if traced else torch.split(activations.features, samples)
        rows = [torch.cat([remaining(part, weight, limit) for weight, limit in blocks], dim=1) for part in parts]
        return activations.replace(logits=torch.cat(rows) + head.bias)
