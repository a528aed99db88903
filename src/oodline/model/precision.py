"""Run a network in half precision: autocast, so that weights stay as they are and a guard still knows them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from oodline.errors import SettingError

Dtype = Literal["float32", "bfloat16", "float16"]
"""What a forward pass computes in; features and logits come back in float32. "float32" is the network as it is."""


def full_precision(kind: str) -> AbstractContextManager[object]:
    """What scores are computed inside: without autocast. Where there is none, nothing is switched for every batch.

    Examples
    --------
    >>> with torch.autocast("cpu", torch.bfloat16), full_precision("cpu"):
    ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
    torch.float32
    """
    if torch.is_autocast_enabled(kind) or torch.compiler.is_compiling():
        return torch.autocast(kind, enabled=False)
    return nullcontext()


def computing_in(dtype: Dtype, device: torch.device) -> AbstractContextManager[object]:
    """What a forward pass runs inside.

    Raises
    ------
    SettingError
        The device cannot.

    Examples
    --------
    >>> with computing_in("bfloat16", torch.device("cpu")):
    ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
    torch.bfloat16
    """
    if dtype == "float32":
        return nullcontext()
    try:
        return torch.autocast(device.type, dtype=getattr(torch, dtype))
    except RuntimeError as error:
        raise SettingError(
            f"`dtype` must be one that {device.type} computes in; got {dtype}: {error}. Choose float32."
        ) from error
