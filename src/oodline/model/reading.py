"""Turn the captured inputs and outputs of the head's modules into one row of features per sample.

A head may be applied to one vector per sample, or to all of its tokens or pixels, of which the model then selects one
or takes the mean. Which it was is found by comparing numbers, and written in operations that a graph can hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from oodline.model.agreement import gap, precision
from oodline.model.head_name import HeadName
from oodline.model.linear_modules import Affine

Place = Literal["only", "selected", "mean", "masked"]
"""One vector per sample; one of several that the model selects; the mean of all, or of those that are not padding."""

MASK = "attention mask"
"""Key of what says which tokens are not padding, where the inputs do."""


@dataclass(frozen=True)
class Reading:
    """How the logits come from the head.

    Parameters
    ----------
    name : HeadName
        The modules.
    place : str
        Where a sample's features are; see `Place`.
    shifted : bool
        What the model returns differs from the head's output by a constant per sample, as `log_softmax` does.
    """

    name: HeadName
    place: Place = "only"
    shifted: bool = False


@dataclass(frozen=True, eq=False)
class Split:
    """A pass, split: features (N, D), logits (N, C) and how they were found."""

    features: Tensor
    logits: Tensor
    reading: Reading


def combined(affines: list[Affine], name: HeadName) -> Affine:
    """The one linear map from all modules' features, side by side, to the logits.

    Examples
    --------
    >>> two = [Affine(torch.ones(3, 2), torch.ones(3)), Affine(torch.ones(3, 4), torch.ones(3))]
    >>> combined(two, HeadName(((0.5, "a"), (0.5, "b")))).weight.shape
    torch.Size([3, 6])
    """
    if name.single:
        return Affine(affines[0].weight, affines[0].bias)
    factors = [factor for factor, _ in name.terms]
    return Affine(
        torch.cat([factor * affine.weight for factor, affine in zip(factors, affines, strict=True)], 1),
        torch.stack([factor * affine.bias for factor, affine in zip(factors, affines, strict=True)]).sum(0),
    )


def overheard(names: tuple[str, ...]) -> tuple[dict[str, str], dict[str, str]]:
    """Keys of what to listen to: inputs and outputs of the modules."""
    return {f"features of {n}": n for n in names}, {f"output of {n}": n for n in names}


def split(reading: Reading, affines: list[Affine], seen: Mapping[str, Any], logits: Tensor) -> Split | None:
    """Features and logits of a pass, proven by `W f + b == logits`; None where no way of reading fits.

    Parameters
    ----------
    reading : Reading
        How the pass before was read: tried first.
    affines : list of Affine
        The tensors of its modules.
    seen : mapping
        What they read and returned, under the keys of `overheard`.
    logits : Tensor (N, C)
        What the model returned.
    """
    head = combined(affines, reading.name)
    if head.weight.shape[0] != logits.shape[1]:
        return None
    outputs = [o for name in reading.name.names if isinstance(o := seen.get(f"output of {name}"), Tensor)]
    for way in _ways(reading, logits.shape[1]):
        features = features_of(way, affines, seen, logits)
        if features is None or features.shape[1] != head.weight.shape[1] or not features.is_floating_point():
            continue
        eps = precision(features, head.weight, logits, *outputs)
        served = head(at_least_float32(features)) if way.shifted else logits
        expected = logits if not way.shifted else logits + (served - logits).mean(1, keepdim=True)
        if gap(head, features, expected, eps) is None:
            return Split(features, served, way)
    return None


def follow(reading: Reading, affines: list[Affine], seen: Mapping[str, Any], logits: Tensor) -> Split:
    """As `split`, in the way that is known and without a look at the values: for a graph."""
    features = features_of(reading, affines, seen, logits)
    assert features is not None
    served = combined(affines, reading.name)(at_least_float32(features)) if reading.shifted else logits
    return Split(features, served, reading)


def features_of(reading: Reading, affines: list[Affine], seen: Mapping[str, Any], logits: Tensor) -> Tensor | None:
    """Features (N, D) read in one way, unproven; None where the shapes forbid it."""
    found = []
    for name, affine in zip(reading.name.names, affines, strict=True):
        features, output = seen.get(f"features of {name}"), seen.get(f"output of {name}")
        if not isinstance(features, Tensor) or not isinstance(output, Tensor):
            return None
        one = _at_place(reading, affine, features, output, logits, seen.get(MASK))
        if one is None:
            return None
        found.append(one)
    return found[0] if len(found) == 1 else torch.cat(found, 1)


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32 where it is of half precision."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _ways(reading: Reading, classes: int) -> Iterator[Reading]:
    yield reading
    places: tuple[Place, ...] = ("only", "selected", "mean", "masked")
    # a sigmoid, unlike a softmax, does change with a constant
    for shifted in (False, True)[: 2 if classes > 1 and not reading.name.multilabel else 1]:
        for place in places:
            way = replace(reading, place=place, shifted=shifted)
            if way != reading and not (place == "selected" and len(reading.name.terms) > 1):
                yield way


def _at_place(
    reading: Reading, affine: Affine, features: Tensor, output: Tensor, logits: Tensor, mask: Tensor | None
) -> Tensor | None:
    if reading.place == "only":
        flat = features.flatten(1) if features.ndim > 1 else features.unsqueeze(0)
        return flat if flat.shape == (logits.shape[0], affine.weight.shape[1]) else None
    placed = affine.places(features, logits.shape[0])
    if placed is None or placed.shape[2] != affine.weight.shape[1]:
        return None
    if reading.place == "mean":
        return at_least_float32(placed).mean(1)
    if reading.place == "masked":
        if mask is None or mask.shape != placed.shape[:2]:
            return None
        kept = mask.to(at_least_float32(placed)).unsqueeze(2)
        return (at_least_float32(placed) * kept).sum(1) / kept.sum(1)
    outputs = affine.places(output, logits.shape[0])
    if outputs is None or outputs.shape[:2] != placed.shape[:2] or outputs.shape[2] != logits.shape[1]:
        return None
    difference = (at_least_float32(outputs) - at_least_float32(logits).unsqueeze(1)).detach()
    if reading.shifted:
        difference = difference - difference.mean(2, keepdim=True)
    which = difference.abs().amax(2).argmin(1)
    return placed.gather(1, which.view(-1, 1, 1).expand(-1, 1, placed.shape[2])).squeeze(1)
