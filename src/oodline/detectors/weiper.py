"""WeiPer: many randomly perturbed copies of the head (Granz, Heurich and Landgraf, NeurIPS 2024, Eq. 4-9)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from jaxtyping import Float, Int8
from torch import Tensor
from torch.nn.functional import avg_pool1d, pad

from oodline._util.ranges import Count, NonNegative, Seed
from oodline.detectors.assumptions import SOFTMAX, TellsApart
from oodline.detectors.base import Detector
from oodline.detectors.fitted import Fitted
from oodline.detectors.paper import Paper, Preset
from oodline.errors import InputError
from oodline.model.activations import Activations, Needs
from oodline.model.head import Head, LinearHead
from oodline.statistics import Reservoir, Statistic

PAPER = Paper("WeiPer: OOD Detection using Weight Perturbations of Class Projections", "NeurIPS 2024", "2405.17164")
SOURCE = "the paper's settings of WeiPer+KLD, as in OpenOOD"

STEPS = 32
"""Steps a standard deviation in which the drawn directions are kept, one byte a number."""

EPSILON, EPSILON_PERTURBED = 0.01, 0.025
"""What is added to every bin of a density of features, and of perturbed logits."""


def draw(repeats: int, classes: int, width: int, seed: int) -> Tensor:
    """Normal random directions (repeats, classes, width), rounded to 1/32 of a standard deviation, as int8."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.empty(repeats, classes, width, dtype=torch.int8)
    for part in torch.unbind(found):
        part.copy_(torch.randn(classes, width, generator=generator).mul_(STEPS).round_().clamp_(-127, 127))
    return found


class WeiPerMSP(Detector):
    """Mean maximum softmax over perturbed heads: `1/r sum_i max_c softmax(W_i f + b)_c`.

    `W_i` adds to each row of W a random direction of length `delta |W_c|`. Higher = more in-distribution. Range:
    (0, 1].

    Parameters
    ----------
    delta : float
        Length of the perturbation relative to the row, at least 0.
    repeats : int
        r, how many perturbed heads.
    seed : int
        Of the draw.

    Raises
    ------
    SettingError
        A setting is out of range.

    Notes
    -----
    The draw is part of the state, one byte for each of its r C D numbers, so that scores never change; one perturbed
    head (C, D) is in memory at a time.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> WeiPerMSP(repeats=5).fit(classifier, loader).directions.shape
    torch.Size([5, 3, 16])
    """

    name: ClassVar = "weiper-msp"
    needs: ClassVar = Needs.FEATURES | Needs.LINEAR_HEAD
    assumes: ClassVar = (
        SOFTMAX,
        TellsApart(),
    )
    paper: ClassVar = PAPER
    presets: ClassVar[Mapping[str, Preset]] = {
        "cifar10-resnet18": Preset({"delta": 1.8}, SOURCE),
        "cifar100-resnet18": Preset({"delta": 2.4}, SOURCE),
        "imagenet-resnet50": Preset({"delta": 2.4}, SOURCE),
        "imagenet-vit-b16": Preset({"delta": 2.0}, SOURCE),
    }
    not_exportable: ClassVar = "scores by many perturbed copies of the head, and a graph would hold them all"
    directions: Fitted[Int8[Tensor, "R C D"]]

    def __init__(self, *, delta: NonNegative = 2.4, repeats: Count = 100, seed: Seed = 0) -> None:
        super().__init__()
        self.delta = delta
        self.repeats = repeats
        self.seed = seed

    def estimate(self, head: Head) -> None:
        """Draw the perturbations."""
        self.directions = draw(self.repeats, head.num_classes, head.num_features, self.seed)

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Mean maximum softmax (N,)."""
        confidence = activations.features.new_zeros(len(activations))
        # a running sum: what each head leaves behind would keep the memory of its weights from being used again
        for head in self.perturbed(activations.head.linear):
            confidence += torch.softmax(head(activations.features), dim=1).amax(1)
        return confidence / self.repeats

    def perturbed(self, head: LinearHead) -> Iterator[LinearHead]:
        """The perturbed heads, one after the other."""
        length = self.delta * torch.linalg.vector_norm(head.weight, dim=1, keepdim=True)
        for direction in self.directions:
            step = direction.to(head.weight)
            scale = length / torch.linalg.vector_norm(step, dim=1, keepdim=True).clamp(min=1)
            yield LinearHead(step.mul_(scale).add_(head.weight), head.bias)


def density(values: Float[Tensor, "n v"], ends: Float[Tensor, " 2"], bins: int) -> Float[Tensor, "n b"]:
    """Share of each sample's values in equal bins between the ends; values outside fall in no bin."""
    low, high = ends
    place = ((values - low) / (high - low) * bins).floor().long()
    inside = (place >= 0) & (place < bins)
    found = values.new_zeros(values.shape[0], bins)
    found.scatter_add_(1, place.clamp(0, bins - 1), inside.to(values))
    return found / values.shape[1]


def divergence(
    mean: Float[Tensor, " b"], density_of_sample: Float[Tensor, "n b"], smoothing: int, epsilon: float
) -> Float[Tensor, " n"]:
    """Symmetric Kullback-Leibler divergence of smoothed densities from the mean density of training samples."""
    left = (smoothing - 1) // 2
    wide = pad(density_of_sample.unsqueeze(1), (left, smoothing - 1 - left), mode="replicate")
    q = avg_pool1d(wide, smoothing, stride=1).squeeze(1) + epsilon
    p = mean + epsilon
    p, q = p / p.sum(), q / q.sum(1, keepdim=True)
    return ((p - q) * (p.log() - q.log())).sum(1)


class WeiPerKLD(WeiPerMSP):
    """Divergence of the densities of features and of perturbed logits from those of training samples.

    `-(KLD_f + lam1 KLD_z - lam2 WeiPerMSP)`, KLD being the symmetric divergence between the smoothed histogram of one
    sample's values and the mean histogram of training samples. Higher = more in-distribution. Range: (-inf, lam2].

    Parameters
    ----------
    delta, repeats, seed
        As in `WeiPerMSP`.
    lam1, lam2 : float
        Weights of the divergence of perturbed logits, and of the confidence.
    smoothing, smoothing_perturbed : int
        Bins over which the two histograms of a sample are averaged.
    bins : int
        Of the histograms.
    samples : int
        Training samples that are kept to estimate from, chosen by a hash of their index.

    Raises
    ------
    SettingError
        A setting is out of range.
    InputError
        The features of the sample are all equal.

    Notes
    -----
    The authors sample up to 300,000 images, and draw other perturbations for training than for test data; here they are
    the same ones. The range of a histogram is that of the sample.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> WeiPerKLD(repeats=5).fit(classifier, loader)(classifier(loader[0][0])).shape
    torch.Size([60])
    """

    name: ClassVar = "weiper-kld"
    presets: ClassVar = {
        "cifar10-resnet18": Preset(
            {"delta": 1.8, "lam1": 2.5, "lam2": 0.1, "smoothing": 4, "smoothing_perturbed": 15}, SOURCE
        ),
        "cifar100-resnet18": Preset(
            {"delta": 2.4, "lam1": 0.1, "lam2": 1.0, "smoothing": 4, "smoothing_perturbed": 40}, SOURCE
        ),
        "imagenet-resnet50": Preset(
            {"delta": 2.4, "lam1": 2.5, "lam2": 0.25, "smoothing": 40, "smoothing_perturbed": 15}, SOURCE
        ),
        "imagenet-vit-b16": Preset(
            {"delta": 2.0, "lam1": 2.5, "lam2": 0.1, "smoothing": 40, "smoothing_perturbed": 15, "bins": 80}, SOURCE
        ),
    }
    ranges: Fitted[Float[Tensor, "2 2"]]
    mean_features: Fitted[Float[Tensor, " B"]]
    mean_perturbed: Fitted[Float[Tensor, " B"]]

    def __init__(
        self,
        *,
        delta: NonNegative = 2.4,
        repeats: Count = 100,
        lam1: NonNegative = 2.5,
        lam2: NonNegative = 0.25,
        smoothing: Count = 40,
        smoothing_perturbed: Count = 15,
        bins: Count = 100,
        samples: Count = 2_000,
        seed: Seed = 0,
    ) -> None:
        super().__init__(delta=delta, repeats=repeats, seed=seed)
        self.lam1 = lam1
        self.lam2 = lam2
        self.smoothing = smoothing
        self.smoothing_perturbed = smoothing_perturbed
        self.bins = bins
        self.samples = samples

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """A sample of the features."""
        return {"sample": Reservoir(self.samples)}

    def estimate(self, head: Head, sample: Reservoir) -> None:  # type: ignore[override]
        """Draw the perturbations, and take the mean histograms of the sample."""
        super().estimate(head)
        features = sample.rows
        linear = LinearHead(head.linear.weight.cpu().float(), head.linear.bias.cpu().float())
        extremes = torch.stack([torch.stack(head(features).aminmax()) for head in self.perturbed(linear)])
        ranges = [torch.stack(features.aminmax()), torch.stack([extremes[:, 0].amin(), extremes[:, 1].amax()])]
        found = torch.stack(ranges)
        if bool((found[:, 0] >= found[:, 1]).any()):
            raise InputError("WeiPerKLD needs a histogram, and the features of the training sample are all equal.")
        # a little wider, so that rounding does not push the extreme sample out
        margin = 1e-6 * (found[:, 1] - found[:, 0])
        self.ranges = torch.stack([found[:, 0] - margin, found[:, 1] + margin], dim=1)
        self.mean_features = density(features, self.ranges[0], self.bins).mean(0)
        self.mean_perturbed = self._density_of_logits(features, linear)[0].mean(0)

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Negative divergence (N,)."""
        features = activations.features
        perturbed, confidence = self._density_of_logits(features, activations.head.linear)
        found = density(features, self.ranges[0], self.bins)
        of_features = divergence(self.mean_features, found, self.smoothing, EPSILON)
        of_logits = divergence(self.mean_perturbed, perturbed, self.smoothing_perturbed, EPSILON_PERTURBED)
        return -(of_features + self.lam1 * of_logits - self.lam2 * confidence)

    def _density_of_logits(self, features: Tensor, linear: LinearHead) -> tuple[Tensor, Tensor]:
        found = features.new_zeros(features.shape[0], self.bins)
        confidence = features.new_zeros(features.shape[0])
        for head in self.perturbed(linear):
            logits = head(features)
            found += density(logits, self.ranges[1], self.bins)
            confidence += torch.softmax(logits, dim=1).amax(1)
        return found / self.repeats, confidence / self.repeats
