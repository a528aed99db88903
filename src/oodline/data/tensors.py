"""Data sets of tensors other than images: features, logits, tokens, spectra, table rows; from files or memory."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from oodline._util.digests import combine, digest, file_digest
from oodline.data.batch import UNLABELLED, Batch, Inputs
from oodline.data.loader import describe_rows
from oodline.data.subset import evenly
from oodline.data.tensor_formats import Rows, open_rows, rows_of
from oodline.errors import DataError, InputError

LABELS = "labels"
"""The array that is not an input of the model."""

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
"""What labels may be, and what safetensors calls them."""
KINDS = (*INTEGERS, *(kind.replace("uint", "U").replace("int", "I") for kind in INTEGERS))

_CHUNK = 4096
"""Samples that are read at once to learn their labels."""


class TensorSource:
    """Arrays with one entry per sample, whatever the sample is.

    An array called `labels` (N,) of integers holds the classes, or (N, C) of 0 and 1 the labels that apply. One other
    array (N, ...) is what the model takes as its one argument; several are what it takes as keyword arguments, each
    under its name. They reach the model as they are, without preprocessing.

    Parameters
    ----------
    arrays : mapping of str to array or Tensor
        NumPy arrays, also mapped from a file, tensors, or lists of numbers.
    where : str
        What messages call it.
    only : sequence of str, optional
        Names that inputs may have, each of which the model then takes as a keyword argument, a single one too.

    Raises
    ------
    DataError
        There is no input or no sample, arrays differ in length, or hold no numbers.

    Examples
    --------
    >>> source = TensorSource({"tokens": torch.ones(5, 8), "labels": torch.arange(5)})
    >>> inputs, labels = source.read(1, 3)
    >>> len(source), source.name(1), inputs.shape, labels
    (5, 'the arrays[1]', torch.Size([2, 8]), tensor([1, 2]))
    """

    class_names: tuple[str, ...] | None = None

    def __init__(
        self, arrays: Mapping[str, Any], where: str = "the arrays", *, only: Sequence[str] | None = None
    ) -> None:
        self.path: Path | None = None
        self._take({name: rows_of(name, array) for name, array in arrays.items()}, where, only)

    def _take(self, rows: Mapping[str, Rows], where: str, only: Sequence[str] | None) -> None:
        self.where, self.arrays, self.named = where, rows, only is not None
        self.inputs = sorted(rows.keys() - {LABELS})
        self.has_labels = LABELS in rows
        wrong = [] if only is None else [name for name in self.inputs if name not in only]
        if only is not None and (wrong or not self.inputs):
            names = ", ".join(f"`{name}`" for name in rows) or "nothing"
            listed = " and ".join(f"`{name}`" for name in only)
            raise DataError(f"{where} must hold {listed}, or one of them, and optionally `{LABELS}`; got {names}.")
        if not self.inputs:
            raise DataError(f"{where} holds no input: a tensor with one entry per sample is needed beside `{LABELS}`.")
        for name in self.inputs:
            if not rows[name].numbers:
                raise DataError(f"`{name}` of {where} must be numbers; got {rows[name].kind}. Convert it to float32.")
        shapes = {name: array.shape for name, array in rows.items()}
        lengths = {name: shape[0] if shape else 0 for name, shape in shapes.items()}
        self._length = lengths[self.inputs[0]]
        if len(set(lengths.values())) > 1 or not self._length:
            listed = ", ".join(f"{name} {shapes[name]}" for name in sorted(shapes))
            raise DataError(
                f"the tensors of {where} must have one entry per sample, and at least one sample; got {listed}."
            )
        column = self.has_labels and len(shapes[LABELS]) == 2 and shapes[LABELS][1] == 1  # of classes, most likely
        if self.has_labels and (column or len(shapes[LABELS]) not in (1, 2) or rows[LABELS].kind not in KINDS):
            kind = rows[LABELS].kind
            raise DataError(
                f"`{LABELS}` of {where} must be integers (N,), or (N, C) for several labels per sample; got {kind} "
                f"{shapes[LABELS]}."
            )

    def __len__(self) -> int:
        return self._length

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of an array."""
        return self.arrays[name].shape

    def name(self, i: int) -> str:
        """What it is called, and the position in it."""
        return f"{self.where}[{i}]"

    def read(self, start: int, stop: int) -> tuple[Inputs, Tensor | None]:
        """Inputs and labels of a run of samples; no more than these is read into memory.

        Raises
        ------
        DataError
            The file has changed or gone.
        """
        try:
            found = {name: self.arrays[name].read(start, stop) for name in self.inputs}
            labels = self.labels(start, stop)
        except (SafetensorError, OSError) as error:
            raise DataError(f"{self.path or self.where} can no longer be read: {error}.") from error
        sizes = {len(tensor) for tensor in (*found.values(), *(() if labels is None else (labels,)))}
        if sizes != {stop - start}:
            raise DataError(f"{self.path or self.where} has changed since it was opened. Open it again.")
        return found if self.named or len(found) > 1 else found[self.inputs[0]], labels

    def labels(self, start: int = 0, stop: int | None = None) -> Tensor | None:
        """Labels (n,) or (n, C), int64, of a run of samples, or of all."""
        if not self.has_labels:
            return None
        found = self.arrays[LABELS].read(start, len(self) if stop is None else stop)
        if found.is_floating_point():
            raise DataError(f"{self.path or self.where} has changed since it was opened. Open it again.")
        return found.long()

    def fingerprint(self) -> str:
        """SHA-256 of names, kinds and values."""
        if self.path is not None:
            return file_digest(self.path)
        digests = []
        for name, array in sorted(self.arrays.items()):
            values = array.read(0, len(self))
            digests.append((name, array.kind, array.shape, digest(values)))
        return combine(digests)


class TensorFile(TensorSource):
    """The arrays of a file: .safetensors, .npz, .npy, or .pt or .pth of tensors alone; see `TensorSource`.

    The one array of a .npy file, or of a .pt file that holds one tensor, is called `features`. Names of the classes may
    stand under `class_names`: as a JSON list in the metadata of .safetensors, as an array of text in .npz.

    Raises
    ------
    DataError
        There is no such file, it is damaged, holds Python objects, or is refused as `TensorSource` refuses arrays.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from safetensors.torch import save_file
    >>> with TemporaryDirectory() as folder:
    ...     save_file({"tokens": torch.ones(5, 8), "labels": torch.arange(5)}, f"{folder}/test.safetensors")
    ...     source = TensorFile(f"{folder}/test.safetensors")
    ...     inputs, labels = source.read(1, 3)
    >>> len(source), source.name(1), inputs.shape, labels
    (5, 'test.safetensors[1]', torch.Size([2, 8]), tensor([1, 2]))
    """

    path: Path

    def __init__(self, path: str | Path, *, only: Sequence[str] | None = None) -> None:
        rows, self.class_names = open_rows(Path(path))
        self.path, self._only = Path(path), only
        self._take(rows, str(path), only)

    def name(self, i: int) -> str:
        """The file and the position in it."""
        return f"{self.path.name}[{i}]"

    def __reduce__(self) -> Any:
        # another process opens the file itself: what is mapped is not copied there
        return _reopened, (self.path, self._only)


def _reopened(path: Path, only: Sequence[str] | None) -> TensorFile:
    return TensorFile(path, only=only)


class TensorSample:
    """At most `most` samples of a source, evenly spaced over it and shuffled: of all classes also where it is sorted.

    Examples
    --------
    >>> picked = TensorSample(TensorSource({"x": torch.arange(9)}), 3)
    >>> sorted(picked.read(0, 3)[0].tolist())
    [0, 3, 6]
    """

    def __init__(self, source: TensorSource, most: int, seed: int = 0) -> None:
        size = min(most, len(source))
        order = torch.randperm(size, generator=torch.Generator().manual_seed(seed)).tolist()
        self.source, self.path, self.class_names = source, source.path, source.class_names
        self.positions = [i * len(source) // size for i in order]

    def __len__(self) -> int:
        return len(self.positions)

    def name(self, i: int) -> str:
        """As the source calls it."""
        return self.source.name(self.positions[i])

    def read(self, start: int, stop: int) -> tuple[Inputs, Tensor | None]:
        """As the source reads them."""
        parts = [self.source.read(i, i + 1) for i in self.positions[start:stop]]
        inputs, labels = zip(*parts, strict=True)
        first = inputs[0]
        joined: Inputs = (
            {name: torch.cat([one[name] for one in inputs]) for name in first}
            if isinstance(first, Mapping)
            else torch.cat(inputs)
        )
        return joined, None if labels[0] is None else torch.cat(labels)

    def fingerprint(self) -> str:
        """Of the source's content and the positions."""
        return combine([self.source.fingerprint(), self.positions])


class TensorLoader:
    """Batches of a `TensorSource` in its order, with the position of every sample.

    Parameters
    ----------
    source : TensorSource or TensorSample
        What to read.
    batch_size : int
        Samples per batch; fewer in the last one.
    limit : int, optional
        Read at most this many samples, evenly over classes; of samples without labels the first ones.
    label_offset : int
        Added to every label.

    Raises
    ------
    InputError
        `batch_size` or `limit` is less than 1.
    """

    unit = "images"
    """What its samples are called in messages: most are images in another form."""

    def __init__(
        self,
        source: TensorSource | TensorSample,
        batch_size: int = 64,
        limit: int | None = None,
        label_offset: int = 0,
    ) -> None:
        if batch_size < 1 or (limit is not None and limit < 1):
            raise InputError(f"`batch_size` and `limit` must be at least 1; got {batch_size} and {limit}.")
        self.source, self.batch_size, self.label_offset = source, batch_size, label_offset
        self.skipped: list[str] = []
        """Always empty: a file is read as a whole or not at all."""
        self.positions: Tensor | None = None
        """The classifier's class of every label, where they are in two orders."""
        everything = limit is None or limit >= len(source)
        self._read_only(range(len(source)) if everything else evenly(self._labels(), limit or 1))

    def _labels(self) -> list[int | None]:
        found: list[int | None] = []
        for start in range(0, len(self.source), _CHUNK):
            stop = min(start + _CHUNK, len(self.source))
            labels = self.source.read(start, stop)[1]
            found += [None] * (stop - start) if labels is None or labels.ndim > 1 else labels.tolist()
        return found

    def _read_only(self, rows: Sequence[int]) -> None:
        self.rows: Sequence[int] = rows
        self._batches: Sequence[Sequence[int]] = [
            rows[k : k + self.batch_size] for k in range(0, len(rows), self.batch_size)
        ]

    @property
    def num_samples(self) -> int:
        """Number of samples."""
        return len(self.rows)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        for rows in self._batches:
            inputs, labels = _join([self.source.read(run[0], run[-1] + 1) for run in _runs(rows)])
            if labels is not None and labels.ndim == 1:  # several labels per sample are columns, not classes
                moved = labels if self.positions is None else self._in_order(labels)
                labels = torch.where(labels < 0, UNLABELLED, moved + self.label_offset)
            yield Batch(inputs, labels, torch.tensor(rows))

    def _in_order(self, labels: Tensor) -> Tensor:
        assert self.positions is not None
        if int(labels.max()) >= len(self.positions):
            raise DataError(
                f"a label of {self.source.path or 'the arrays'} is {int(labels.max())}, but the data names only "
                f"{len(self.positions)} classes."
            )
        return self.positions[labels.clamp(min=0)]

    def over(self, batches: Sequence[Sequence[int]]) -> TensorLoader:
        """The same samples cut into these batches of positions, which need not be all."""
        part = copy.copy(self)
        part._batches = batches
        return part

    def part(self, i: int, n: int) -> TensorLoader:
        """The i-th of `n` shares: a run of whole batches, which keep the positions that they have here."""
        first, end = (math.ceil(k * len(self) / n) * self.batch_size for k in (i, i + 1))
        part = copy.copy(self)
        part._read_only(self.rows[first:end])
        return part

    def name(self, i: int) -> str:
        """What to call sample `i` in messages."""
        return self.source.name(i)

    def identity(self) -> dict[str, str]:
        """All that the batches' content depends on, by name: what a cache knows them by."""
        return {"data": self.source.fingerprint(), **self.preparation()}

    def preparation(self) -> dict[str, str]:
        """The same but for the data itself."""
        return {
            "preprocessing": "none",
            "label offset": str(self.label_offset),
            "samples": describe_rows(self.rows),
            **({} if self.positions is None else {"class order": str(self.positions.tolist())}),
        }


def _runs(rows: Sequence[int]) -> list[Sequence[int]]:
    """Cut ascending positions into runs without gaps, each of which is read at once."""
    cuts = [0, *(k for k in range(1, len(rows)) if rows[k] != rows[k - 1] + 1), len(rows)]
    return [rows[first:end] for first, end in pairwise(cuts)]


def _join(parts: Sequence[tuple[Inputs, Tensor | None]]) -> tuple[Inputs, Tensor | None]:
    if len(parts) == 1:
        return parts[0]
    inputs, labels = zip(*parts, strict=True)
    joined = None if labels[0] is None else torch.cat(labels)
    if isinstance(inputs[0], Tensor):
        return torch.cat(inputs), joined
    return {key: torch.cat([part[key] for part in inputs]) for key in inputs[0]}, joined
