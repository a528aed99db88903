"""Where in an image the features come from: maps of sums of neurons over the places that a layer keeps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from math import isqrt

import torch
from jaxtyping import Float
from torch import Tensor, nn

from oodline.data.batch import Inputs
from oodline.errors import InputError, SettingError
from oodline.model.classifier import Classifier
from oodline.model.depths import depths
from oodline.model.hooks import last_pooling
from oodline.model.layers import channel_axis
from oodline.model.starting import Start

MOST_PREFIX = 8
"""Tokens before those of the image, such as the class token and registers, at most."""


LEAST_PLACES = 4
"""Places of a layer at least, where one has as many; maps of layers further back were less faithful."""


@dataclass(frozen=True, eq=False)
class PlaceMaps:
    """Sums of features, spread over the places of a layer.

    Parameters
    ----------
    values : Tensor (M, N, H, W)
        M maps for each of N images; each map sums over its places to `sum_d weights[m, n, d] f[n, d]`: exactly, where
        the features are the mean of the layer, else to first order (activation times gradient).
    start : Start
        The layer.
    exact : bool
        Whether the features are its mean.
    """

    values: Float[Tensor, "m n h w"]
    start: Start
    exact: bool


def place_maps(classifier: Classifier, inputs: Inputs, weights: Tensor, layer: str | None = None) -> PlaceMaps:
    """Spread M weighted sums of the features over the places of each image, in one forward pass, at most two.

    Where the features are the mean of a feature map A, as behind global average pooling, the map of weights w is
    `sum_d w[d] A[d] / (H W)`, and no gradient is needed. Elsewhere it is activation times gradient, summed over the
    channels of the layer: the last of the inputs of four blocks and of the last pooling that has 4 places or more. Of
    tokens (N, T, C) those before the square of the image's, such as the class token, are left out.

    Parameters
    ----------
    classifier : Classifier
        Of images.
    inputs : Tensor or mapping
        N images, preprocessed.
    weights : Tensor (M, N, D)
        Of the features.
    layer : str, optional
        Module whose output has the places, if it is to be another one.

    Raises
    ------
    InputError
        No layer keeps the places of an image, as in a network of vectors or of text.
    HeadError
        There is no layer of that name.
    SettingError
        The weights are of another shape.

    Examples
    --------
    >>> from oodline.testing.toys import toy_network
    >>> classifier, images = Classifier(toy_network()), torch.rand(2, 3, 8, 8)
    >>> found = place_maps(classifier, images, torch.ones(1, 2, 16))
    >>> found.values.shape, found.exact
    (torch.Size([1, 2, 6, 6]), True)
    >>> torch.allclose(found.values.sum((2, 3))[0], classifier(images).features.sum(1))
    True
    """
    starts = _starts(classifier, layer)
    for least in (2,) if layer or classifier.feature_map_name else (LEAST_PLACES, 2):
        found = classifier.features_from(inputs, starts, partial(_has_places, least=least))
        if found is not None:
            return _maps(classifier, *found, weights)
    raise InputError(
        f"no layer of {type(classifier.model).__name__} keeps the places of an image, so there is nothing to show a "
        "map of. Name one that does: layer='NAME'."
    )


def _maps(classifier: Classifier, start: Start, leaf: Tensor, features: Tensor, weights: Tensor) -> PlaceMaps:
    grid = _on_grid(leaf.detach(), classifier.model.get_submodule(start.module))
    assert grid is not None  # it was accepted
    if weights.ndim != 3 or weights.shape[1:] != features.shape:
        raise SettingError(
            f"`weights` must be (M, {', '.join(map(str, features.shape))}), of each feature of each input; got shape "
            f"{tuple(weights.shape)}."
        )
    weights = weights.to(features)
    if grid.shape[1] == features.shape[1] and torch.allclose(
        grid.mean((2, 3)).float(), features.detach().float(), rtol=1e-2, atol=1e-3
    ):
        values = torch.einsum("mnd,ndhw->mnhw", weights, grid.to(weights)) / grid[0, 0].numel()
        return PlaceMaps(values, start, exact=True)
    return PlaceMaps(torch.stack(list(_slopes(classifier, start, leaf, features, weights))), start, exact=False)


def _slopes(classifier: Classifier, start: Start, leaf: Tensor, features: Tensor, weights: Tensor) -> Iterator[Tensor]:
    module = classifier.model.get_submodule(start.module)
    for one in weights:
        [slope] = torch.autograd.grad((one * features).sum(), leaf, retain_graph=True)
        grid = _on_grid(leaf.detach() * slope, module)
        assert grid is not None  # it was one before
        yield grid.sum(1).to(weights)


def _starts(classifier: Classifier, layer: str | None) -> list[Start]:
    named = layer or classifier.feature_map_name
    if named is not None:
        return [Start(named)]
    blocks = [Start(name, "input") for name in depths(classifier.model, classifier.head_name)]
    pool = last_pooling(classifier.model)
    return blocks if pool is None else [*blocks, Start(pool, "input")]


def _has_places(output: Tensor, module: nn.Module, least: int) -> bool:
    grid = _on_grid(output, module)
    return grid is not None and grid[0, 0].numel() >= least


def _on_grid(output: Tensor, module: nn.Module) -> Float[Tensor, "n k h w"] | None:
    """Channels over the places of the image; None where it has none."""
    if output.ndim == 4:
        maps = output.movedim(channel_axis(output, module), 1)
    elif output.ndim == 3:
        side = isqrt(output.shape[1])
        if output.shape[1] - side * side > MOST_PREFIX:
            return None
        maps = output[:, output.shape[1] - side * side :].mT.reshape(len(output), -1, side, side)
    else:
        return None
    return maps
