"""NAP times any positive score: the way its authors use it (Wan, Zhang and Jin, 2024)."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from oodline._util.ranges import Positive, Share
from oodline.detectors.base import Detector
from oodline.detectors.msp import MSP
from oodline.detectors.nap import NAP, peakedness
from oodline.detectors.paper import Paper
from oodline.errors import InputError
from oodline.model.activations import Activations, Needs


class NAPCombined(Detector):
    """Weighted geometric mean of a positive score and NAP, as a logarithm: `w log S + (1 - w) log S_NAP`.

    The two see different things: S what the classifier says, NAP how the channels of the feature map respond. Higher =
    more in-distribution. Any real number, no unit.

    Parameters
    ----------
    w : float
        Weight of the scorer, in [0, 1]; 0 is NAP alone. The authors search it for each scorer and data set, on
        augmented ID images that stand for OOD ones; the default here is the middle, and no paper states it.
    epsilon : float
        Of `NAP`.
    scorer : Detector, optional
        What S is; MSP by default. A scorer that gives logarithms (`Detector.is_log`: MSP, temperature scaling, ODIN,
        densities) is taken at its word. Any other must be positive: NAC, WeiPer-MSP and feature norms are; energy and
        maximum logit are for most classifiers; distances, which oodline negates, never are.

    Raises
    ------
    SettingError
        A setting is out of range.
    InputError
        A score is negative.
    HeadError
        The classifier has no feature map, or it must be named.

    Notes
    -----
    Zero, which has no logarithm, counts as the smallest positive number.

    Examples
    --------
    >>> from oodline import Classifier, score
    >>> _ = torch.manual_seed(0)
    >>> body = torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    >>> model = torch.nn.Sequential(*body, torch.nn.Linear(8, 4))
    >>> score(NAPCombined(w=0.7), Classifier(model), [torch.randn(5, 3, 8, 8)])["nap-combined"].shape
    torch.Size([5])
    """

    name: ClassVar = "nap-combined"
    needs: ClassVar = Needs.FEATURE_MAP
    paper: ClassVar[Paper] = NAP.paper
    is_log: bool = True
    scorer: Detector

    def __init__(self, *, w: Share = 0.5, epsilon: Positive = 1.0, scorer: Detector | None = None) -> None:
        super().__init__()
        self.w = w
        self.epsilon = epsilon
        self.scorer = scorer if scorer is not None else MSP()

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Logarithm of the combined score (N,)."""
        base: Tensor = self.scorer(activations)
        if not self.scorer.is_log:
            self._check_positive(base, activations)
            base = _log(base)
        return self.w * base + (1 - self.w) * _log(peakedness(activations.require_feature_map(), self.epsilon)).to(base)

    def _check_positive(self, scores: Tensor, activations: Activations) -> None:
        negative = torch.nonzero(scores < 0).flatten().tolist()
        if negative:
            raise InputError(
                f"NAPCombined multiplies powers of scores, and '{self.scorer.name}' gave {len(negative)} of "
                f"{len(scores)} below zero (first: {float(scores[negative[0]]):.6g} for sample "
                f"{int(activations.index[negative[0]])} of the data set). Take a scorer that is positive or a "
                "logarithm, such as msp."
            )


def _log(scores: Tensor) -> Tensor:
    return scores.clamp(min=torch.finfo(scores.dtype).tiny).log()
