"""Mixed batches: ID samples with their class, and outliers, which have the label -1."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from oodline.errors import InputError, LabelError
from oodline.model.activations import Activations

OUTLIER = -1
"""Label of a sample of no class, in a batch that is trained on."""


@dataclass(frozen=True, eq=False)
class MixedBatch:
    """Activations of a batch with gradients, and which of its samples are outliers.

    Parameters
    ----------
    activations : Activations
        Of the whole batch, as `oodline.training.Forward` gives them.
    labels : Tensor (N,)
        Classes from 0, and -1 for outliers.

    Raises
    ------
    LabelError
        Labels are not one integer per sample from -1 to C - 1.
    InputError
        No sample of the batch is ID.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> batch = MixedBatch.of(classifier(loader[0][0][:3]), torch.tensor([0, -1, 2]))
    >>> len(batch.inliers), batch.inlier_labels, len(batch.outliers)
    (2, tensor([0, 2]), 1)
    """

    activations: Activations
    labels: Int[Tensor, " n"]

    @classmethod
    def of(cls, activations: Activations, labels: Tensor) -> MixedBatch:
        """Check the labels, and put them where the activations are."""
        size, classes = activations.logits.shape
        if labels.shape != (size,) or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise LabelError(
                f"`labels` must be one integer per sample, ({size},); got shape {tuple(labels.shape)}, {labels.dtype}."
            )
        labels = labels.to(activations.logits.device, torch.int64)
        outside = (labels < OUTLIER) | (labels >= classes)
        if bool(outside.any()):
            raise LabelError(
                f"`labels` must be from 0 to {classes - 1}, or {OUTLIER} for outliers; got {int(labels[outside][0])}."
            )
        if not bool((labels != OUTLIER).any()):
            raise InputError(
                f"a batch must hold ID samples; all {size} are labelled {OUTLIER}, as outliers. Put ID samples and "
                "outliers into one batch, as oodline.training.mix does."
            )
        return cls(activations, labels)

    @cached_property
    def is_outlier(self) -> Bool[Tensor, " n"]:
        """Which samples are outliers (N,)."""
        return self.labels == OUTLIER

    @cached_property
    def has_outliers(self) -> bool:
        """Whether there is one."""
        return bool(self.is_outlier.any())

    @cached_property
    def inliers(self) -> Activations:
        """Activations of the ID samples."""
        return rows_of(self.activations, ~self.is_outlier) if self.has_outliers else self.activations

    @cached_property
    def inlier_labels(self) -> Int[Tensor, " m"]:
        """Their classes."""
        return self.labels[~self.is_outlier]

    @cached_property
    def outliers(self) -> Activations:
        """Activations of the outliers."""
        return rows_of(self.activations, self.is_outlier)


def class_labels(labels: Tensor | None, size: int, classes: int, what: str = "training labels") -> Int[Tensor, " n"]:
    """One class per sample (N,), int64, on the CPU, as it must be where there are no outliers.

    Raises
    ------
    LabelError
        There are none, or they are something else; says how to make them.

    Examples
    --------
    >>> class_labels(torch.eye(3), 3, 3)
    Traceback (most recent call last):
    oodline.errors.LabelError: training labels must be one class number per sample, integers (3,) from 0 to 2; got
    float32 (3, 3). Of one row per sample, such as one-hot, pass labels.argmax(1).
    """
    wanted = f"{what} must be one class number per sample, integers ({size},) from 0 to {classes - 1}"
    if labels is None:
        raise LabelError(f"{wanted}; a batch has none. Yield (inputs, labels).")
    got = f"{wanted}; got {str(labels.dtype).removeprefix('torch.')} {tuple(labels.shape)}"
    if labels.shape == (size, 1):
        raise LabelError(f"{got}. Pass labels.flatten().")
    if labels.ndim == 2 and len(labels) == size:
        raise LabelError(f"{got}. Of one row per sample, such as one-hot, pass labels.argmax(1).")
    if labels.shape != (size,):
        raise LabelError(f"{got}.")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise LabelError(f"{got}. Pass labels.long(), if these are class numbers.")
    labels = labels.cpu().long()
    outside = (labels < 0) | (labels >= classes)
    if bool(outside.any()):
        raise LabelError(
            f"{wanted}; got {int(labels[outside][0])}, of labels from {int(labels.min())} to {int(labels.max())}. "
            "Number the classes from 0, and leave out samples without a label."
        )
    return labels


def rows_of(activations: Activations, chosen: Bool[Tensor, " n"]) -> Activations:
    """The activations of some samples; gradients flow through them, but not to inputs of their own."""
    features = activations.features
    feature_map, inputs = activations.feature_map, activations.inputs
    return replace(
        activations,
        features=features[chosen],
        logits=activations.logits[chosen],
        index=activations.index[chosen.cpu()],
        feature_map=None if feature_map is None else feature_map[chosen],
        layers={name: value[chosen] for name, value in activations.layers.items()},
        inputs=inputs[chosen] if isinstance(inputs, Tensor) else None,
    )


def mix(inputs: Tensor, labels: Tensor, outliers: Tensor) -> tuple[Tensor, Tensor]:
    """One batch of ID samples and outliers, ID first; outliers are labelled -1.

    Parameters
    ----------
    inputs : Tensor (N, ...)
        ID samples.
    labels : Tensor (N,)
        Their classes.
    outliers : Tensor (M, ...)
        Of the same shape per sample.

    Raises
    ------
    InputError
        Samples are not of the same shape.

    Examples
    --------
    >>> images, labels = mix(torch.zeros(2, 3), torch.tensor([0, 1]), torch.ones(1, 3))
    >>> images.shape, labels
    (torch.Size([3, 3]), tensor([ 0,  1, -1]))
    """
    if inputs.shape[1:] != outliers.shape[1:]:
        raise InputError(
            f"outliers must have the shape of ID samples, {tuple(inputs.shape[1:])}; got {tuple(outliers.shape[1:])}. "
            "Prepare both alike."
        )
    marks = labels.new_full((len(outliers),), OUTLIER)
    return torch.cat([inputs, outliers.to(inputs)]), torch.cat([labels, marks])
