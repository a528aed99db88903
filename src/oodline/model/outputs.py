"""Read the logits from a model's output, and the tensors from its inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from oodline.data.batch import Inputs
from oodline.errors import HeadError, InputError
from oodline.model.layers import Layer, layer_key
from oodline.model.linear_modules import candidates
from oodline.model.reading import MASK, at_least_float32


def logits_of(model: nn.Module, output: Any, inputs: Inputs, *, binary: bool = False) -> Tensor:
    """The logits (N, C) that a model returned: its one tensor, or what it calls `logits`.

    Parameters
    ----------
    model : nn.Module
        For the message.
    output : object
        What it returned.
    inputs : Tensor or mapping
        What it was given.
    binary : bool
        One number per sample may stand for a row of one.

    Raises
    ------
    HeadError
        There are several tensors, or none.
    InputError
        They are not one row per sample.

    Examples
    --------
    >>> import torch
    >>> logits_of(nn.Linear(2, 3), {"logits": torch.ones(4, 3)}, torch.ones(4, 2)).shape
    torch.Size([4, 3])
    """
    if isinstance(output, Mapping) and "logits" in output:
        output = output["logits"]
    output = getattr(output, "logits", output)
    if isinstance(output, Mapping | tuple | list):  # one tensor, whatever it is called, and perhaps nothing beside
        values = [v for v in (output.values() if isinstance(output, Mapping) else output) if v is not None]
        output = values[0] if len(values) == 1 else output
    if not isinstance(output, Tensor):
        raise HeadError(
            f"{type(model).__name__} returns a {type(output).__name__}, not one tensor of logits: it seems to have "
            f"several heads. Wrap it so that it returns the logits of one. {candidates(model)}"
        )
    shape = tuple(output.shape)
    if output.ndim > 2 and all(size == 1 for size in shape[2:]):
        output = output.flatten(1)
    rows = next((value.shape[0] for value in tensors_of(inputs)), None)
    if output.ndim == 1 and shape[0] == rows and binary:
        output = output.unsqueeze(1)
    if output.ndim != 2:
        two = " A model of two classes and one logit: Classifier(model, binary=True)." if output.ndim == 1 else ""
        raise InputError(
            f"the model returned logits of shape {shape}, but one row per sample, (N, C), is needed. "
            f"Check that the input has a batch dimension.{two}"
        )
    return cast(Tensor, output)


def layer_output(seen: Mapping[str, Any], name: Layer) -> Tensor:
    """What a named layer returned in a pass, or what was read of it.

    Raises
    ------
    HeadError
        It was not called, or returned no tensor.
    """
    found = seen.get(layer_key(name))
    if not isinstance(found, Tensor):
        what = "was not called in the forward pass" if found is None else f"returns a {type(found).__name__}"
        raise HeadError(f"the layer '{name}' {what}; name one that returns one tensor on the way to the logits.")
    return found


def with_mask(seen: dict[str, Any], inputs: Inputs) -> dict[str, Any]:
    """What was heard in a pass, and beside it which tokens are not padding, where the inputs say so."""
    mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
    return {**seen, MASK: mask} if isinstance(mask, Tensor) else seen


def tensors_of(inputs: Inputs) -> Iterator[Tensor]:
    """The tensors of a batch."""
    yield from (v for v in (inputs.values() if isinstance(inputs, Mapping) else [inputs]) if isinstance(v, Tensor))


def shapes_of(inputs: Inputs) -> Any:
    """The shape of a batch, or of each tensor in it."""
    if isinstance(inputs, Tensor):
        return tuple(inputs.shape)
    return {name: tuple(value.shape) for name, value in inputs.items() if isinstance(value, Tensor)}


def first_rows(inputs: Inputs, most: int) -> Inputs:
    """The first samples of a batch, at most `limit`.

    Examples
    --------
    >>> import torch
    >>> first_rows({"x": torch.arange(5), "flag": True}, 2)
    {'x': tensor([0, 1]), 'flag': True}
    """
    first = next(tensors_of(inputs), None)
    if first is None or not first.ndim:
        return inputs  # no batch: the model says why
    rows = first.shape[0]
    if isinstance(inputs, Tensor):
        return inputs[:most]
    return {k: v[:most] if isinstance(v, Tensor) and v.ndim and v.shape[0] == rows else v for k, v in inputs.items()}


def feature_map_of(model: nn.Module, seen: Mapping[str, Any], features: Tensor, *, named: bool) -> Tensor:
    """The feature map (N, K, H, W) that hooks captured; one that was not named must average to the features.

    Raises
    ------
    HeadError
        None was captured, or it does not.
    """
    captured = seen.get("feature map")
    advice = "Name the module whose output it is: Classifier(model, feature_map='NAME')."
    if not isinstance(captured, Tensor) or captured.ndim != 4:
        raise HeadError(f"no feature map (N, K, H, W) was found in {type(model).__name__}. {advice}")
    if not named and not (
        captured.shape[1] == features.shape[1]
        and torch.allclose(captured.float().mean((2, 3)), features.float(), rtol=1e-2, atol=1e-3)
    ):
        raise HeadError(
            f"the input of the last average pooling, shape {tuple(captured.shape)}, does not average to the features, "
            f"shape {tuple(features.shape)}, and so is not the feature map. {advice}"
        )
    return at_least_float32(captured)
