"""Sources of a statistic: functions from activations to one vector per sample, comparable by value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from oodline.errors import LabelError
from oodline.model.activations import Activations

Grouping = Literal["label", "predicted", "correct", "all"]
"""By true label; by argmax; by label, all misclassified samples in one further group, the last; or one group."""


@runtime_checkable
class Source(Protocol):
    """A frozen record that turns activations into vectors; equal records give equal vectors."""

    def __call__(self, activations: Activations, groups: Int[Tensor, " n"]) -> Float[Tensor, "n k"]:
        """Vectors (N, K); `groups` says which class each sample counts for."""
        ...


@dataclass(frozen=True)
class Features:
    """The penultimate features (N, D)."""

    def __call__(self, activations: Activations, groups: Int[Tensor, " n"]) -> Float[Tensor, "n d"]:
        """The features as they are."""
        return activations.features


def scaled(features: Float[Tensor, "n d"], power: float) -> Float[Tensor, "n d"]:
    """`f / |f|^power`: the features as they are for 0, of length 1 for 1; in float64 above 0. Zero stays zero.

    Examples
    --------
    >>> scaled(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), 1.0)
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]], dtype=torch.float64)
    """
    if power == 0:
        return features
    features = features.double()  # squares of small single-precision numbers would be zero
    length = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    return features / torch.where(length > 0, length, 1.0).pow(power)


@dataclass(frozen=True)
class ScaledFeatures:
    """The features over a power of their length, `f / |f|^power` (N, D), in float64."""

    power: float

    def __call__(self, activations: Activations, groups: Int[Tensor, " n"]) -> Float[Tensor, "n d"]:
        """The scaled features."""
        return scaled(activations.features, self.power)


def features_scaled_by(power: float) -> Source:
    """`ScaledFeatures`, or for power 0 plain `Features`, so that statistics of these are shared with all detectors.

    Examples
    --------
    >>> features_scaled_by(0.0), features_scaled_by(1.0)
    (Features(), ScaledFeatures(power=1.0))
    """
    return Features() if power == 0 else ScaledFeatures(power)


@dataclass(frozen=True)
class Logits:
    """The logits (N, C)."""

    def __call__(self, activations: Activations, groups: Int[Tensor, " n"]) -> Float[Tensor, "n c"]:
        """The logits as they are."""
        return activations.logits


@dataclass(frozen=True)
class Probabilities:
    """The softmax of the logits (N, C), in float64."""

    def __call__(self, activations: Activations, groups: Int[Tensor, " n"]) -> Float[Tensor, "n c"]:
        """The probabilities."""
        return torch.softmax(activations.logits.cpu().double(), dim=1)


@dataclass(frozen=True)
class Contributions:
    """Feature times gradient of the group's logit with respect to the features (N, D).

    The first-order contribution of each feature to the logit of the class that the sample counts for (LINe, Sec. 3.2).
    On a linear head it is `W[c] * f`, the exact Shapley value against a zero baseline, and no pass needs it; it is for
    heads of several layers.
    """

    def __call__(self, activations: Activations, groups: Int[Tensor, " n"]) -> Float[Tensor, "n d"]:
        """One backward pass through the head for the whole batch."""
        # under autocast the products would lose what the float64 sums keep
        with torch.enable_grad(), torch.autocast(activations.features.device.type, enabled=False):
            features = activations.features.detach().clone().requires_grad_()
            logits = activations.head(features)
            # samples do not interact in a head in evaluation mode, so the gradient of the sum holds each one's own
            chosen = logits.gather(1, groups.to(logits.device).unsqueeze(1)).sum()
            (gradient,) = torch.autograd.grad(chosen, features)
        return (features * gradient).detach()


@dataclass(frozen=True)
class SideBySide:
    """The vectors of several sources in one row (N, K1 + K2 + ...)."""

    sources: tuple[Source, ...]

    def __call__(self, activations: Activations, groups: Int[Tensor, " n"]) -> Float[Tensor, "n k"]:
        """Joined in their order."""
        return torch.cat([source(activations, groups) for source in self.sources], dim=1)


def group(activations: Activations, labels: Tensor | None, by: Grouping) -> tuple[Int[Tensor, " n"], int]:
    """Class each sample counts for, on the CPU, and the number of classes there are.

    Raises
    ------
    LabelError
        `by="label"` or "correct", and labels are missing, of the wrong shape, not integers, or outside [0, C).
    """
    if by == "all":
        return torch.zeros(len(activations), dtype=torch.int64), 1
    classes = activations.logits.shape[1] or activations.head.num_classes  # there may be no logits
    if by == "predicted":
        return activations.logits.argmax(1).cpu(), classes
    if labels is None:
        raise LabelError(
            "this statistic is grouped by class, but the loader yields no labels; yield (inputs, labels), or choose "
            "detectors that read none, such as energy, gen, fdbd, vim or band-energy."
        )
    if labels.shape != (len(activations),):
        several = " For several labels per sample: Classifier(model, task='multilabel')." if labels.ndim == 2 else ""
        raise LabelError(
            f"labels have shape {tuple(labels.shape)}; ({len(activations)},), one per sample, is needed.{several}"
        )
    if labels.dtype.is_floating_point or labels.dtype.is_complex or labels.dtype == torch.bool:
        raise LabelError(f"labels are {labels.dtype}; integers from 0 to {classes - 1} are needed.")
    labels = labels.cpu().long()
    outside = (labels < 0) | (labels >= classes)
    if bool(outside.any()):
        first = int(torch.nonzero(outside)[0])
        raise LabelError(
            f"{int(outside.sum())} of {len(labels)} labels are outside [0, {classes - 1}], the classes of this "
            f"classifier (first: label {int(labels[first])} of sample {int(activations.index[first])}). "
            "Map the labels of the data set to the order of the logits; a sample with -1 has no label: leave it out."
        )
    if by == "correct":
        return torch.where(activations.logits.argmax(1).cpu() == labels, labels, classes), classes + 1
    return labels, classes
