"""Give a batch to a model: on its device, in its type, and with a sentence where the model refuses it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from oodline.data.batch import Inputs, check_inputs
from oodline.errors import HeadError, InputError
from oodline.model.outputs import shapes_of
from oodline.model.wrappers import uncompiled


def moved(model: nn.Module, device: torch.device, inputs: Inputs) -> Inputs:
    """Inputs on the device; floating ones in the type of the weights, unless autocast chooses it.

    Raises
    ------
    InputError
        They are neither a tensor nor a mapping, or hold no sample.

    Examples
    --------
    >>> moved(nn.Linear(2, 2), torch.device("cpu"), torch.ones(1, 2, dtype=torch.float64)).dtype
    torch.float32
    """

    def one(value: Tensor) -> Tensor:
        if value.ndim == 0 or value.shape[0] == 0:
            raise InputError(f"a batch needs at least one sample; this one has shape {tuple(value.shape)}.")
        if value.is_floating_point() and not torch.is_autocast_enabled(device.type):
            dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), value.dtype)
            return value.to(device, dtype)
        return value.to(device)

    if isinstance(inputs, Mapping):
        return {name: one(value) if isinstance(value, Tensor) else value for name, value in inputs.items()}
    check_inputs(inputs)
    return one(inputs)


def forward(model: nn.Module, inputs: Inputs) -> Any:
    """What the model returns.

    Raises
    ------
    InputError
        The model refuses the batch.
    """
    try:
        with uncompiled(model):
            return model(**inputs) if isinstance(inputs, Mapping) else model(inputs)
    except (torch.OutOfMemoryError, HeadError):  # the latter of a layer that cannot be read
        raise
    except (RuntimeError, TypeError, ValueError, IndexError, AssertionError) as error:
        raise InputError(
            f"{type(model).__name__} refused a batch of shape {shapes_of(inputs)}: {error}. Check that it has a batch "
            "dimension, and the size, channels and dtype that the model was trained on."
        ) from error
