"""`TrainingLoss`: what a loss of a training recipe says of itself, and when it refuses a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from oodline.detectors.paper import Paper, Preset
from oodline.errors import InputError, unknown_name
from oodline.model.activations import Activations, Needs
from oodline.training.batches import MixedBatch

WithoutOutliers = Literal["error", "skip"]
"""What becomes of a batch that has no outliers: an error, or the loss of its ID samples alone."""


class TrainingLoss(nn.Module, ABC):
    """A loss (scalar) of the activations of a batch and its labels, where -1 marks outliers.

    A subclass says its `name`, what it `needs`, whether it `needs_outliers`, its `paper`, and the settings of the paper
    as `presets`; and has `compute`. A loss that has parameters of its own, such as a projection, is given to the
    optimiser beside the network, and is dropped after the training.

    Where a loss uses no outliers, samples labelled -1 pass through the network, where they take part in batch
    statistics, and add nothing to the loss.
    """

    name: ClassVar[str]
    needs: ClassVar[Needs] = Needs.LOGITS
    """What to ask `Forward` for."""
    needs_outliers: ClassVar[bool] = False
    """Whether a batch without outliers is refused, unless `without_outliers` is "skip"."""
    paper: ClassVar[Paper | None] = None
    presets: ClassVar[Mapping[str, Preset]] = {}
    without_outliers: WithoutOutliers = "error"

    def forward(self, activations: Activations, labels: Tensor) -> Tensor:
        """The loss of a batch.

        Parameters
        ----------
        activations : Activations
            `Forward(model)(inputs, loss.needs)`.
        labels : Tensor (N,)
            Classes from 0; -1 for outliers.

        Returns
        -------
        Tensor ()
            To differentiate.

        Raises
        ------
        LabelError
            Labels are not one integer per sample from -1 to C - 1.
        InputError
            No sample is ID; or none is an outlier, and the loss needs outliers.
        """
        batch = MixedBatch.of(activations, labels)
        if self.needs_outliers and not batch.has_outliers and self.without_outliers == "error":
            raise InputError(
                f"{type(self).__name__} needs outliers in every batch, labelled -1; this batch of {len(labels)} has "
                "none. Add some with oodline.training.mix, or pass without_outliers='skip' to train such a batch on "
                "its ID samples alone."
            )
        return self.compute(batch)

    @abstractmethod
    def compute(self, batch: MixedBatch) -> Tensor:
        """The loss of a checked batch; called by `forward`, and by losses that this one is the ID part of."""

    @classmethod
    def preset(cls, name: str, **settings: Any) -> TrainingLoss:
        """The loss with the settings of a paper, and those that are given.

        Raises
        ------
        UnknownNameError
            There is no such preset.
        """
        if name not in cls.presets:
            raise unknown_name(f"preset of {cls.name}", name, cls.presets)
        return cls(**{**cls.presets[name].settings, **settings})
