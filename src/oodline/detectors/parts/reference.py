"""The sample of ID data that fused detectors are compared on: its features, and the vectors that some read of layers.

Which samples a reservoir keeps depends on their indices alone, so those of features and layers hold the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from oodline.detectors.base import Detector
from oodline.errors import SettingError
from oodline.model.activations import Activations, Needs
from oodline.model.head import Head
from oodline.model.layers import Layer, LayerReading
from oodline.statistics import Reservoir, Statistic

SIZE = 1000
"""Samples of the training data, at most."""


def check_kept(detector: Detector) -> None:
    """Raise `SettingError` where a detector reads what is not kept of a sample: more than one vector of each layer."""
    if detector.all_needs & ~(Needs.FROM_FEATURES | Needs.LAYERS):
        raise SettingError(
            f"Fuse compares its members on a sample that is kept from the one pass; '{detector.name}' reads more than "
            "features and logits, and vectors of layers. Take another one, or evaluate it beside the fused ones."
        )
    if whole := [layer for layer in detector.all_layers if isinstance(layer, str)]:
        raise SettingError(
            f"Fuse compares its members on a sample that is kept from the one pass, with one vector of each layer; "
            f"'{detector.name}' reads the whole output of '{whole[0]}'. Let it read PooledLayer('{whole[0]}') instead, "
            "or evaluate it beside the fused ones."
        )


def vectors_of(layers: Iterable[Layer]) -> tuple[LayerReading, ...]:
    """What is read of layers, each reading once."""
    return tuple(dict.fromkeys(layer for layer in layers if isinstance(layer, LayerReading)))


def reference_statistics(layers: Sequence[LayerReading]) -> dict[str, Statistic]:
    """Empty samples of features and of each layer, by the names that `reference_activations` takes them under."""
    found: dict[str, Statistic] = {"reference": Reservoir(SIZE, by="predicted")}
    return found | {f"layer_{i}": Reservoir(SIZE, layer) for i, layer in enumerate(layers)}


def reference_activations(
    head: Head, reference: Reservoir, layers: Sequence[LayerReading], vectors: Sequence[Reservoir]
) -> Activations:
    """What the network computed for the sample, in the order of the samples' hashes.

    Parameters
    ----------
    head : LinearHead or LayeredHead
        The classifier's, which gives the logits.
    reference : Reservoir
        Of features.
    layers : sequence of LayerReading
        What is read of layers.
    vectors : sequence of Reservoir
        Of each of these.
    """
    rows = reference.rows.to(head.linear.weight.device)
    here = head.to(rows)
    kept: dict[Layer, Tensor] = {layer: each.rows.to(rows.device) for layer, each in zip(layers, vectors, strict=True)}
    return Activations(rows, here(rows), here, torch.arange(len(rows)), layers=kept)
