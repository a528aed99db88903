"""What a loader yields: a record of ours, or any of the usual ways to say inputs and labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from oodline.errors import InputError

Inputs = Tensor | Mapping[str, Any]
"""What a model takes: a tensor as its one argument, a mapping as keyword arguments."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Inputs, labels, and which samples of the data set they are.

    The index keeps the identity of a sample when others were skipped, shuffled or read by another worker.
    """

    inputs: Inputs
    """(N, ...), as the model takes them."""
    labels: Tensor | None
    """(N,), int64, where the data set has labels."""
    index: Tensor
    """(N,), int64: position of each sample in its data set."""


def unpack(batch: Any, start: int) -> tuple[Inputs, Tensor | None, Tensor]:
    """Inputs, labels (None where there are none) and positions (N,) of a batch, counted from `start` if it has none.

    Raises
    ------
    InputError
        The batch is an empty sequence.

    Examples
    --------
    >>> unpack([torch.ones(2, 3), [0, 1]], start=10)[1:]
    (tensor([0, 1]), tensor([10, 11]))
    """
    inputs: Inputs
    labels = index = None
    if isinstance(batch, Batch):
        inputs, labels, index = batch.inputs, batch.labels, batch.index
    elif isinstance(batch, Mapping):
        inputs = {key: value for key, value in batch.items() if key not in ("label", "labels")}
        labels = batch.get("labels", batch.get("label"))
    elif isinstance(batch, tuple | list):
        if not batch:
            raise InputError("the loader yielded an empty sequence as a batch.")
        inputs, labels = batch[0], batch[1] if len(batch) > 1 else None
    else:
        inputs = batch
    if index is None:
        first = next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs
        size = len(first) if isinstance(first, Tensor) and first.ndim else 0
        index = torch.arange(start, start + size)
    return inputs, _as_labels(labels), index


def _as_labels(labels: Any) -> Tensor | None:
    try:
        return None if labels is None else torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError):
        return None  # paths or names stand there: no labels, which only those that need them will complain of
