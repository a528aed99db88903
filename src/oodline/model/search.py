"""Search for the head of a model: the layer, or sum of layers, whose output equals the logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from oodline.model.agreement import gap, precision
from oodline.model.head_name import HeadName
from oodline.model.linear_modules import Affine, affine_of
from oodline.model.reading import Reading, split

MOST = 16
"""Layers to look at: the last ones that have as many outputs as there are logits."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer with as many outputs as there are logits, and what it did in the pass.

    Parameters
    ----------
    name, kind : str
        Its name in the model, and its class.
    affine : Affine
        Its tensors.
    output : Tensor (N, P, C)
        What it returned at its P places.
    gap : Tensor, optional
        How far that is from `W f + b`; None for rounding.
    """

    name: str
    kind: str
    affine: Affine
    output: Tensor
    gap: Tensor | None


def layers_of(model: nn.Module, names: Sequence[str], seen: Mapping[str, Any], rows: int) -> list[Layer]:
    """The layers that were called, the last ones first."""
    found = []
    for name in names:
        module = model.get_submodule(name)
        affine, features, output = affine_of(module), seen.get(f"features of {name}"), seen.get(f"output of {name}")
        if affine is None or not isinstance(features, Tensor) or not isinstance(output, Tensor):
            continue
        read, made = affine.places(features, rows), affine.places(output, rows)
        if read is None or made is None or read.shape[:2] != made.shape[:2]:
            continue
        if (read.shape[2], made.shape[2]) != (affine.weight.shape[1], affine.weight.shape[0]):
            continue
        eps = precision(read, made, affine.weight)
        off = gap(affine, read.flatten(0, 1), made.flatten(0, 1), eps)
        found.append(Layer(name, type(module).__name__, affine, made, off))
    return found[::-1]


def find(layers: Sequence[Layer], seen: Mapping[str, Any], logits: Tensor, scaled: bool = False) -> Reading | None:
    """The reading of one layer, or of the sum of several, that gives the logits; None where there is none.

    With `scaled`, one layer times a number will do.
    """
    for layer in layers:
        if division := split(Reading(HeadName(((1.0, layer.name),))), [layer.affine], seen, logits):
            return division.reading
    if any(layer.gap is not None and _is_all(layer, logits) for layer in layers):
        return None  # its parts may add up to the logits, but then their features repeat each other
    plain = [layer for layer in layers if layer.gap is None]
    for shifted in (False, True):
        terms = weights([layer.output.mean(1) for layer in plain], logits, shifted)
        if terms is None or sum(t != 0 for t in terms) < 2 - scaled:
            continue
        # a model's own order, and only layers that take part
        parts = [(t, layer) for t, layer in zip(terms, plain, strict=True) if t][::-1]
        name = HeadName(tuple((t, layer.name) for t, layer in parts))
        if division := split(Reading(name, shifted=shifted), [layer.affine for _, layer in parts], seen, logits):
            return division.reading
    return None


def weights(columns: Sequence[Tensor], target: Tensor, shifted: bool = False) -> list[float] | None:
    """Factors by which the columns, (N, C) each, add up to the target; None where they do not.

    Examples
    --------
    >>> a, b = torch.randn(4, 3), torch.randn(4, 3)
    >>> weights([a, b], 0.5 * a + 0.25 * b), weights([a], b)
    ([0.5, 0.25], None)
    """
    rows = torch.isfinite(target).all(1)
    for column in columns:
        rows = rows & torch.isfinite(column).all(1)
    parts = [c.detach()[rows].double() for c in (*columns, target)]
    if shifted:
        parts = [part - part.mean(1, keepdim=True) for part in parts]
    equations = parts[0].shape[0] * (parts[0].shape[1] - shifted)
    if not columns or equations < len(columns) + 1:
        return None
    matrix, y = torch.stack([part.flatten() for part in parts[:-1]], 1).cpu(), parts[-1].flatten().cpu()
    close = max(1e-4, 8 * precision(target, *columns))
    solved = torch.linalg.lstsq(matrix, y.unsqueeze(1), driver="gelsd").solution.flatten()
    used = solved.abs() > close * solved.abs().max()
    if not bool(used.any()) or bool(y.abs().max() == 0):
        return None
    simple = [_simple(float(value), close) if use else 0.0 for value, use in zip(solved, used, strict=True)]
    residual = matrix @ torch.tensor(simple, dtype=torch.float64) - y
    return simple if bool(residual.abs().max() <= close * y.abs().max()) else None


def _is_all(layer: Layer, logits: Tensor) -> bool:
    return layer.output.shape[1] == 1 and torch.equal(layer.output[:, 0].to(logits), logits)


def _simple(value: float, close: float) -> float:
    # a mean of heads is meant as a fraction; the nearest one of a small denominator, if it is that near
    near = float(Fraction(value).limit_denominator(12))
    return near if near and abs(near - value) <= close * abs(value) else value
