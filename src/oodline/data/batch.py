"""Read inputs, labels and positions from a batch in any usual form: tensor, tuple, mapping or `Batch`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from oodline._util.ranges import Refused
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
    """(N,), int64, and -1 for a sample without one; None where none has a label."""
    index: Tensor
    """(N,), int64: position of each sample in its data set."""


UNLABELLED = -1
"""Label of a sample without one, in a batch where others have one."""


def labels_of_batch(labels: Sequence[int | None], offset: int = 0) -> Tensor | None:
    """Labels (N,), int64, with an offset, and -1 where there is none; None where no sample has one.

    Examples
    --------
    >>> labels_of_batch([0, None, 2], offset=1), labels_of_batch([None, None])
    (tensor([ 1, -1,  3]), None)
    """
    if all(label is None for label in labels):
        return None
    return torch.tensor([UNLABELLED if label is None else label + offset for label in labels])


class _IterableOfBatches:
    replaces_type = True
    argument_remedy = "A data set becomes one by torch.utils.data.DataLoader(data, batch_size=64); [batch] is one, too."

    def accept(self, value: Any) -> Iterable[Any]:
        if isinstance(value, Tensor | np.ndarray | Mapping | Batch):
            return [value]
        if isinstance(value, str | bytes | type) or not isinstance(value, Iterable):
            raise Refused
        return value

    def words(self, kind: str) -> str:
        return "a loader, which yields batches"


Loader = Annotated[Iterable[Any], _IterableOfBatches()]
"""Batches; what is one batch by itself, such as a tensor or an array, is taken as a loader of it."""


@runtime_checkable
class KnownLoader(Protocol):
    """A loader that knows its content and can be cut anew; `oodline.data.ImageLoader` is one."""

    rows: Sequence[int]
    """Positions of the samples it yields."""
    batch_size: int
    skipped: list[str]
    """Names of the samples that could not be read in the last iteration."""

    def __iter__(self) -> Iterator[Batch]:
        """The batches; they say the positions as their `index`."""
        ...

    def identity(self) -> dict[str, str]:
        """All that the content of the batches depends on, by name."""
        ...

    def over(self, batches: Sequence[Sequence[int]]) -> Iterable[Batch]:
        """The same samples cut into these batches of positions, which need not be all."""
        ...

    def name(self, i: int) -> str:
        """What to call sample `i` in messages."""
        ...


def as_tensors(value: Any) -> Any:
    """A batch whose NumPy arrays of numbers are tensors, also in a mapping, a tuple or a list.

    Examples
    --------
    >>> as_tensors((np.zeros((2, 3), np.float32), [0, 1]))
    (tensor([[0., 0., 0.],
            [0., 0., 0.]]), [0, 1])
    """
    if isinstance(value, Batch | Tensor):
        return value
    if isinstance(value, np.ndarray):
        return (
            torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("=")))
            if value.dtype.kind in "biuf"
            else value
        )
    if isinstance(value, Mapping):
        return {key: as_tensors(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(as_tensors(part) for part in value) if type(value) in (tuple, list) else value
    return value


def check_inputs(inputs: Any) -> None:
    """Raise `InputError` where inputs are neither a tensor nor a mapping that is not empty."""
    if not isinstance(inputs, Tensor) and not (isinstance(inputs, Mapping) and inputs):
        kind = "an empty mapping" if isinstance(inputs, Mapping) else type(inputs).__name__
        raise InputError(f"a batch must be a tensor, a NumPy array of numbers, or a mapping of them; got {kind}.")


def unpack(batch: Any, start: int) -> tuple[Inputs, Tensor | None, Tensor]:
    """Inputs, labels (None where there are none) and positions (N,) of a batch, counted from `start` if it has none.

    Raises
    ------
    InputError
        The batch is an empty sequence, or holds neither a tensor nor a mapping.

    Examples
    --------
    >>> unpack([torch.ones(2, 3), [0, 1]], start=10)[1:]
    (tensor([0, 1]), tensor([10, 11]))
    """
    inputs: Inputs
    labels = index = None
    batch = as_tensors(batch)
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
    check_inputs(inputs)
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
