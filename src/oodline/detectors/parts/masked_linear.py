"""A linear layer of which each sample uses only the weights above the thresholds of its class.

LINe's score is this product. It is not a matrix product: every class leaves other weights, and the weights that are
left for all classes, (C, K, D), are too many to hold. So a tile of the weights that fits the cache is masked for one
class after the other, and multiplied with the samples of that class before it is overwritten.

Which of three forms computes it depends on where the tensors are, never on a setting: tiles on a CPU, one Triton
kernel on a GPU that has Triton, and a plain expression while a graph is traced or a gradient is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

TILE = 2**18
"""Weights masked at a time on a CPU: 1 MB of float32. A smaller tile costs more calls than it saves memory traffic."""

LARGEST_TILE = 2**23
"""The same on other devices, where a launch costs more than memory: 32 MB of float32."""

GRAPH_TILE = 2**15
"""Weights masked at a time, for each sample of the batch, in an exported graph."""

MOST_TILES = 128
"""Into how many tiles a graph is unrolled at most."""


def masked_linear(
    features: Float[Tensor, "n d"],
    weight: Float[Tensor, "k d"],
    bias: Float[Tensor, " k"],
    threshold: Float[Tensor, "c d"],
    classes: Int[Tensor, " n"],
) -> Float[Tensor, "n k"]:
    """For each sample i of class c: `bias[k]` plus the sum of `weight[k, d] features[i, d]` over the kept d.

    Kept is where `weight[k, d] > threshold[c, d]`.

    Parameters
    ----------
    features : Tensor (N, D)
        What the layer reads.
    weight, bias : Tensor (K, D) and (K,)
        The layer.
    threshold : Tensor (C, D)
        Of each class, the value above which a weight counts; infinity where none or all do.
    classes : Tensor (N,), int64
        Whose thresholds hold for each sample, in [0, C).

    Returns
    -------
    Tensor (N, K)
        A sample's row does not depend on the others but for rounding. Needs at most `LARGEST_TILE` floats beside
        arguments, result and a copy of the features.

    Examples
    --------
    >>> weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> threshold = torch.tensor([[-torch.inf, 2.0], [2.0, torch.inf]])
    >>> masked_linear(torch.ones(2, 2), weight, torch.zeros(2), threshold, torch.tensor([0, 1]))
    tensor([[1., 7.],
            [0., 3.]])
    """
    if torch.compiler.is_compiling() or features.requires_grad:
        return _as_graph(features, weight, bias, threshold, classes)
    if features.is_cuda and features.dtype == torch.float32 and (fused := _fused()) is not None:
        return fused(features, weight, bias, threshold, classes)
    if len(classes) == 1:
        return _by_group(features, weight, bias, threshold, [(int(classes), 0, 1)])
    order = classes.argsort(stable=True)
    present, counts = torch.unique_consecutive(classes[order], return_counts=True)
    ends = counts.cumsum(0).tolist()
    groups = list(zip(present.tolist(), [0, *ends], ends, strict=False))
    products = _by_group(features[order], weight, bias, threshold, groups)
    return torch.empty_like(products).index_copy_(0, order, products)


def graph_tile(weight: Float[Tensor, "k d"]) -> int:
    """How many rows of the weights an exported graph takes at a time, for the whole batch."""
    return max(1, GRAPH_TILE // weight.shape[1], -(-len(weight) // MOST_TILES))


@cache
def _fused() -> Callable[..., Tensor] | None:
    try:
        from oodline.detectors.parts.masked_linear_triton import masked_linear_triton
    except ImportError:
        return None
    return masked_linear_triton


def _by_group(
    features: Tensor, weight: Tensor, bias: Tensor, threshold: Tensor, groups: list[tuple[int, int, int]]
) -> Tensor:
    # groups: class, and the first and the end of its rows of the features
    products = features.new_empty(len(features), len(weight))
    height = max(1, (TILE if weight.is_cpu else LARGEST_TILE) // weight.shape[1])
    buffer = weight.new_empty(min(height, len(weight)), weight.shape[1])
    for start in range(0, len(weight), height):
        rows = slice(start, start + height)
        tile = weight[rows]
        kept = buffer[: len(tile)]
        for c, first, end in groups:
            # a mask of zeros and ones in the weights' own type: on a CPU one of bools takes four times as long
            torch.gt(tile, threshold[c], out=kept).mul_(tile)
            products[first:end, rows] = torch.addmm(bias[rows], features[first:end], kept.T)
    return products


def _as_graph(features: Tensor, weight: Tensor, bias: Tensor, threshold: Tensor, classes: Tensor) -> Tensor:
    # what torch.export and autograd can follow: no values looked at, nothing overwritten, every sample its own mask
    limits, points = threshold.index_select(0, classes).unsqueeze(1), features.unsqueeze(2)
    height, parts = graph_tile(weight), []
    for start in range(0, len(weight), height):
        tile = weight[start : start + height]
        parts.append(((tile > limits).to(tile) * tile) @ points)
    return torch.cat(parts, dim=1).squeeze(2) + bias
