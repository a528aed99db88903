"""AdaSCALE: SCALE with a percentile for each input, by how its features shift (Regmi, ICML 2026)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from oodline._util.ranges import Count, Fraction, NonNegative, Share
from oodline.detectors.assumptions import Rectified
from oodline.detectors.base import Detector
from oodline.detectors.fitted import Fitted
from oodline.detectors.paper import Paper, Preset
from oodline.detectors.rectifier import Rectifier
from oodline.errors import SettingError
from oodline.model.activations import Activations, Needs
from oodline.model.gradients import largest_logit
from oodline.model.head import Head
from oodline.statistics import Reservoir, Statistic

STEP = 0.5
"""How far the chosen input elements move, in the units of the input as the model takes it."""


def count(size: int, fraction: float) -> int:
    """A fraction of `size` things, rounded down; 0.29 of 100 are 29, although the product is a little less."""
    return int(size * fraction + 1e-6)


def shift(
    activations: Activations, moved: float, of_perturbed: float, of_shift: float, weight: float
) -> Float[Tensor, " n"]:
    """`sum of relu(f~) at the top features + weight times sum of |f - f~| there`, f~ being features after a step.

    The step moves the fraction `moved` of the input elements, those that matter least to the predicted logit, by
    `STEP` in the direction of its gradient.
    """
    classifier, inputs = activations.second_pass()
    gradient = classifier.gradients(inputs, largest_logit).inputs
    flat = gradient.flatten(1)
    least = flat.abs().topk(count(flat.shape[1], moved), dim=1, largest=False).indices
    step = torch.zeros_like(flat).scatter(1, least, STEP * flat.gather(1, least).sign()).reshape(gradient.shape)
    features = activations.features
    perturbed = classifier(inputs + step.to(inputs)).features.to(features)
    order = features.sort(dim=1, descending=True, stable=True).indices
    first, second = (order[:, : count(features.shape[1], part)] for part in (of_perturbed, of_shift))
    change = (features - perturbed).abs()
    return perturbed.relu().gather(1, first).sum(1) + weight * change.gather(1, second).sum(1)


@dataclass(frozen=True)
class Shifts:
    """The shift of each sample, (N, 1)."""

    moved: float
    of_perturbed: float
    of_shift: float
    weight: float

    def __call__(self, activations: Activations, groups: Int[Tensor, " n"]) -> Float[Tensor, "n k"]:
        """One number per sample."""
        return shift(activations, self.moved, self.of_perturbed, self.of_shift, self.weight).unsqueeze(1)


class AdaSCALE(Rectifier):
    """Features times `exp(s1 / s2)`, s2 being the sum of the largest `(1 - p) D` with a p of the input's own.

    `p = p_min + (1 - F(q)) (p_max - p_min)`, where q measures how much the top features change when unimportant input
    elements are moved, and F is the distribution of q over training samples. OOD inputs change more and are scaled
    less. Scored by energy. Higher = more in-distribution; units of the logits.

    Parameters
    ----------
    p_min, p_max : float
        Range of the fraction left out of s2, `0 <= p_min <= p_max < 1`.
    k1, k2 : float
        Fractions of the features, the largest, whose perturbed value (k1) and whose change (k2) count in q, in [0, 1].
    lam : float
        Weight of the change, at least 0.
    moved : float
        Fraction of the input elements that are moved, in [0, 1].
    samples : int
        Training samples that are kept for F, chosen by a hash of their index.
    scorer : Detector, optional
        Scores the scaled activations; energy by default.

    Raises
    ------
    SettingError
        A setting is out of range.
    InputError
        Inputs that cannot be differentiated, such as tokens.

    Notes
    -----
    This is the variant AdaSCALE-A, which scales features. The authors estimate F on held-out ID images: fit it on those
    where there are some. They exchanged the names k1 and k2 in 2025 ("Erratum fixed", commit 4b6dd50): k1 = 1 % is of
    the perturbed values and k2 = 5 % of the changes; OpenOOD's copy has the other order. They take p_min = 0.6 and
    choose p_max on OOD data. Fitting and scoring cost two further forward passes and one backward pass a batch.

    Examples
    --------
    >>> from oodline import fit, score
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> detector = AdaSCALE().fit(classifier, loader)
    >>> score(detector, classifier, loader)["adascale"].shape
    torch.Size([60])
    """

    name: ClassVar = "adascale"
    needs: ClassVar = Needs.FEATURES | Needs.HEAD | Needs.INPUTS | Needs.CLASSIFIER
    assumes: ClassVar = (Rectified(),)
    paper: ClassVar = Paper("AdaSCALE: Adaptive Scaling for OOD Detection", "ICML 2026", "2503.08023")
    presets: ClassVar = {
        "imagenet-resnet50": Preset(
            {"p_min": 0.8, "p_max": 0.85, "k1": 0.01, "k2": 0.05, "lam": 10.0, "moved": 0.05},
            "the authors' results, adascale_a_hyperparam.yml, commit 4b6dd50",
        )
    }
    shifts: Fitted[Float[Tensor, " N"]]

    def __init__(
        self,
        *,
        p_min: Fraction = 0.6,
        p_max: Fraction = 0.85,
        k1: Share = 0.01,
        k2: Share = 0.05,
        lam: NonNegative = 10.0,
        moved: Share = 0.05,
        samples: Count = 5_000,
        scorer: Detector | None = None,
    ) -> None:
        super().__init__(scorer)
        if p_min > p_max:
            raise SettingError(f"`p_min` must be at most `p_max`; got {p_min} and {p_max}.")
        self.p_min = p_min
        self.p_max = p_max
        self.k1 = k1
        self.k2 = k2
        self.lam = lam
        self.moved = moved
        self.samples = samples

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """A sample of the shifts."""
        return {"shifts": Reservoir(self.samples, Shifts(self.moved, self.k1, self.k2, self.lam))}

    def estimate(self, head: Head, shifts: Reservoir) -> None:
        """Sort the shifts: their distribution function."""
        self.shifts = shifts.rows[:, 0].sort().values

    def rectify(self, activations: Activations) -> Activations:
        """Scale the features and recompute the logits."""
        features = activations.features
        found = shift(activations, self.moved, self.k1, self.k2, self.lam).contiguous()
        below = torch.searchsorted(self.shifts, found, right=True).double()
        p = self.p_min + (1 - below / len(self.shifts)) * (self.p_max - self.p_min)
        active, width = features.relu(), features.shape[1]
        kept = (width - (width * p).round()).clamp(min=1).long()
        sums = active.sort(dim=1, descending=True).values.cumsum(1)
        largest = sums.gather(1, kept.unsqueeze(1) - 1)
        ratio = torch.where(largest > 0, sums[:, -1:] / largest, 1.0)
        scaled = features * ratio.exp()
        return activations.replace(features=scaled, logits=activations.head(scaled))
