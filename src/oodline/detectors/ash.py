"""ASH: prune small activations of each sample and keep, binarise or sharpen the rest (Djurisic et al., ICLR 2023).

SCALE (Xu et al., ICLR 2024) sharpens in the same way and prunes nothing.
"""

from __future__ import annotations

import abc
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from oodline._util.ranges import Fraction
from oodline.detectors.assumptions import LeavesMost, Rectified, TellsApart
from oodline.detectors.base import Detector
from oodline.detectors.paper import Paper
from oodline.detectors.rectifier import Rectifier
from oodline.model.activations import Activations, Needs

ASH = Paper("Extremely Simple Activation Shaping for Out-of-Distribution Detection", "ICLR 2023", "2209.09858")


FEWEST = 32
"""Features that are kept at least where no fraction is given, or half of them where they are fewer than twice that: a
sum over fewer says little."""


def largest(features: Float[Tensor, "n d"], p: float) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """The (1 - p) D largest features of each row, at least one, and where they are; of equals the first."""
    width = features.shape[1]
    kept = max(1, width - round(width * p))
    # topk leaves open which of equals it takes, and features behind a ReLU are often equal: zero
    found = features.sort(dim=1, descending=True, stable=True)
    return found.values[:, :kept], found.indices[:, :kept]


def sharpness(features: Float[Tensor, "n d"], kept: Float[Tensor, "n k"]) -> Float[Tensor, "n 1"]:
    """`exp(s1 / s2)`, s1 and s2 being the sums of all features and of those kept."""
    before, after = features.sum(1), kept.sum(1)
    # for non-negative features, before / after lies in [1, D / kept]: the clamp only tames signed features, and the
    # zero rows whose ratio is 0 / 0
    ratio = torch.where(after > 0, before / after, 1.0).clamp(0.0, features.shape[1] / kept.shape[1])
    return ratio.exp().unsqueeze(1)


def sharpen(features: Float[Tensor, "n d"], p: float) -> Float[Tensor, "n d"]:
    """Keep the largest (1 - p) D features of each row and multiply them by exp(sum before / sum after)."""
    values, places = largest(features, p)
    return torch.zeros_like(features).scatter(1, places, values * sharpness(features, values))


class _Shaping(Rectifier):
    """What ASH and SCALE share: one setting, and features that are shaped sample by sample."""

    needs: ClassVar = Needs.FEATURES | Needs.HEAD
    assumes: ClassVar = (Rectified(), LeavesMost(clips=False), TellsApart())
    tunable: ClassVar = {"p": (0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)}

    usual: ClassVar[float]
    """The fraction of the paper's ImageNet experiments, taken where none is given and enough features are kept."""

    def __init__(self, *, p: Fraction | None = None, scorer: Detector | None = None) -> None:
        super().__init__(scorer)
        self.p = p

    def fraction(self, width: int) -> float:
        """The fraction pruned, for a head with this number of features."""
        return self.p if self.p is not None else min(self.usual, max(0.5, 1 - FEWEST / width))

    @abc.abstractmethod
    def shape(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """The shaped features (N, D)."""

    def rectify(self, activations: Activations) -> Activations:
        """Shape the features and recompute the logits."""
        features = self.shape(activations.features)
        return activations.replace(features=features, logits=activations.head(features))


class ASHS(_Shaping):
    """Activation shaping, variant S, on the penultimate features, scored by energy.

    Of each sample the p D smallest features are set to zero and the others multiplied by `exp(s1 / s2)`, s1 and s2
    being the sums before and after. Higher = more in-distribution; units of the logits. Meant for
    non-negative features.

    Parameters
    ----------
    p : float, optional
        Fraction of the features pruned, in [0, 1); 0.9 in the paper's ImageNet experiments. If omitted, that,
        or as much less as leaves 32 features, but at least half.
    scorer : Detector, optional
        Scores the shaped activations; energy by default.

    Examples
    --------
    >>> sharpen(torch.tensor([[1.0, 3.0, 0.0, 0.0]]), p=0.75)
    tensor([[ 0.0000, 11.3810,  0.0000,  0.0000]])
    """

    name: ClassVar = "ash-s"
    usual: ClassVar = 0.9
    paper: ClassVar = ASH

    def shape(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Prune and sharpen."""
        return sharpen(features, self.fraction(features.shape[1]))


class ASHP(_Shaping):
    """Activation shaping, variant P: of each sample the p D smallest features are set to zero, the others kept.

    Higher = more in-distribution; units of the logits. Meant for non-negative features.

    Parameters
    ----------
    p : float, optional
        Fraction of the features pruned, in [0, 1); 0.6 in the paper's ImageNet experiments. If omitted, that,
        or as much less as leaves 32 features, but at least half.
    scorer : Detector, optional
        Scores the shaped activations; energy by default.

    Examples
    --------
    >>> ASHP(p=0.5).shape(torch.tensor([[1.0, 3.0, 0.5, 2.0]]))
    tensor([[0., 3., 0., 2.]])
    """

    name: ClassVar = "ash-p"
    usual: ClassVar = 0.6
    paper: ClassVar = ASH

    def shape(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Prune."""
        values, places = largest(features, self.fraction(features.shape[1]))
        return torch.zeros_like(features).scatter(1, places, values)


class ASHB(_Shaping):
    """Activation shaping, variant B: the kept features of a sample all become an equal part of the sum before pruning.

    Higher = more in-distribution; units of the logits. Meant for non-negative features.

    Parameters
    ----------
    p : float, optional
        Fraction of the features pruned, in [0, 1); 0.65 in the paper's ImageNet experiments. If omitted, that,
        or as much less as leaves 32 features, but at least half.
    scorer : Detector, optional
        Scores the shaped activations; energy by default.

    Examples
    --------
    >>> ASHB(p=0.5).shape(torch.tensor([[1.0, 3.0, 0.0, 2.0]]))
    tensor([[0., 3., 0., 3.]])
    """

    name: ClassVar = "ash-b"
    usual: ClassVar = 0.65
    paper: ClassVar = ASH

    def shape(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Prune and binarise."""
        values, places = largest(features, self.fraction(features.shape[1]))
        share = features.sum(1, keepdim=True) / values.shape[1]
        return torch.zeros_like(features).scatter(1, places, share.expand_as(values))


class SCALE(_Shaping):
    """All features of a sample multiplied by `exp(s1 / s2)`, s1 their sum and s2 that of the largest (1 - p) D.

    Nothing is pruned, so the predicted class stays. Higher = more in-distribution; units of the logits. Meant for
    non-negative features.

    Parameters
    ----------
    p : float, optional
        Fraction of the features left out of s2, in [0, 1); 0.85 in the paper's ImageNet experiments. If omitted, that,
        or as much less as leaves 32 features, but at least half.
    scorer : Detector, optional
        Scores the scaled activations; energy by default.

    Examples
    --------
    >>> SCALE(p=0.5).shape(torch.tensor([[1.0, 1.0]]))
    tensor([[7.3891, 7.3891]])
    """

    name: ClassVar = "scale"
    usual: ClassVar = 0.85
    paper: ClassVar = Paper(
        "Scaling for Training Time and Post-hoc Out-of-distribution Detection Enhancement", "ICLR 2024", "2310.00227"
    )

    def shape(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Scale."""
        return features * sharpness(features, largest(features, self.fraction(features.shape[1]))[0])
