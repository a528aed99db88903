"""What detectors share that read several layers: the setting `layers`, by name or chosen by the network's structure."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from oodline.detectors.base import Detector
from oodline.errors import HeadError, SettingError
from oodline.model.activations import Activations, Needs
from oodline.model.classifier import Classifier
from oodline.model.depths import depths
from oodline.model.layers import Layer, LayerReading
from oodline.statistics.sources import SideBySide

Layers = Sequence[str] | Literal["auto"]
"""Modules by name, or four depths that `fit` takes from the network."""


class Layered(Detector):
    """Base of detectors that read vectors of several layers; a subclass says which vector of each.

    With `layers="auto"`, `fit` chooses four depths of the network (see `oodline.model.depths`), which are then the
    setting, also in a file.
    """

    layers: tuple[str, ...] | Literal["auto"]

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        if (isinstance(layers, str) and layers != "auto") or len(layers) == 0:
            raise SettingError(f"`layers` must be 'auto' or names of modules, at least one; got {layers!r}.")
        self.layers = "auto" if isinstance(layers, str) else tuple(layers)
        self._chooses = isinstance(layers, str)

    @abc.abstractmethod
    def reading(self, module: str) -> LayerReading:
        """What is read of a module's output."""

    @property
    def readings(self) -> tuple[LayerReading, ...]:
        """What is read of each layer; nothing before `fit` has chosen them."""
        return () if isinstance(self.layers, str) else tuple(self.reading(name) for name in self.layers)

    @property
    def all_layers(self) -> tuple[Layer, ...]:
        """What it reads of its layers."""
        return self.readings

    @property
    def rows_of_layers(self) -> SideBySide:
        """A source of the vectors of all layers, in one row (N, K)."""
        return SideBySide(self.readings)

    def use_classifier(self, classifier: Classifier) -> None:
        """Choose the layers by the structure of the network, where that was asked for.

        Raises
        ------
        HeadError
            It has no module before its head.
        """
        if not self._chooses or classifier.lacking(Needs.LAYERS):
            return
        found = depths(classifier.model, classifier.head_name)
        if not found:
            raise HeadError(
                f"{type(classifier.model).__name__} has no module before its head that {type(self).__name__} could "
                "read. Name some: layers=['NAME', ...]."
            )
        self.layers = found

    def rows(self, activations: Activations) -> list[Tensor]:
        """The vectors (N, K) of each layer."""
        return [activations.layers[reading] for reading in self.readings]
