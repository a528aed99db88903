"""Inputs that are no images: tokens, spectra, rows of a table, as tensors in a safetensors file."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from oodline.batch import Batch, Inputs
from oodline.data.digests import file_digest
from oodline.errors import DataError, InputError
from oodline.tensor_file import parse_json

LABELS = "labels"
"""The tensor that is not an input of the model."""

KINDS = ("I8", "I16", "I32", "I64", "U8")
INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)
"""What labels may be."""


class TensorFile:
    """A safetensors file whose tensors have one entry a sample, whatever the sample is.

    A tensor called `labels` (N,) of integers holds the classes. One other tensor (N, ...) is what the model takes as
    its one argument; several are what it takes as keyword arguments, each under its name. They reach the model as they
    are, without preprocessing. Names of the classes may stand in the metadata, as a JSON list under `class_names`.

    Raises
    ------
    DataError
        There is no such file, it is damaged, holds no input or no sample, or its tensors differ in length.

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

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise DataError(f"there is no file {path}. Check the path.")
        try:
            with safe_open(self.path, framework="pt") as file:
                shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
                kind = file.get_slice(LABELS).get_dtype() if LABELS in shapes else "I64"
                self.class_names = _class_names(file.metadata() or {})
        except (SafetensorError, OSError, ValueError) as error:
            raise DataError(f"{path} is no safetensors file of samples, or damaged: {error}.") from error
        self.inputs = sorted(shapes.keys() - {LABELS})
        self.has_labels = LABELS in shapes
        if not self.inputs:
            raise DataError(f"{path} holds no input: a tensor with one entry a sample was expected beside `{LABELS}`.")
        lengths = {key: shape[0] if shape else 0 for key, shape in shapes.items()}
        self._length = lengths[self.inputs[0]]
        if len(set(lengths.values())) > 1 or not self._length:
            listed = ", ".join(f"{key} {shapes[key]}" for key in sorted(shapes))
            raise DataError(f"the tensors of {path} must have one entry a sample, and at least one; they are {listed}.")
        if self.has_labels and (len(shapes[LABELS]) != 1 or kind not in KINDS):
            raise DataError(f"the labels of {path} must be integers (N,); they are {kind} {shapes[LABELS]}.")

    def __len__(self) -> int:
        return self._length

    def name(self, i: int) -> str:
        """The file and the position in it."""
        return f"{self.path.name}[{i}]"

    def read(self, start: int, stop: int) -> tuple[Inputs, Tensor | None]:
        """Inputs and labels of a run of samples; no more than these is read into memory.

        Raises
        ------
        DataError
            The file has changed or gone.
        """
        try:
            with safe_open(self.path, framework="pt") as file:
                found = {key: file.get_slice(key)[start:stop] for key in self.inputs}
                labels = file.get_slice(LABELS)[start:stop] if self.has_labels else None
        except (SafetensorError, OSError) as error:
            raise DataError(f"{self.path} can no longer be read: {error}.") from error
        sizes = {len(tensor) for tensor in (*found.values(), *(() if labels is None else (labels,)))}
        if sizes != {stop - start} or (labels is not None and labels.dtype not in INTEGERS):
            raise DataError(f"{self.path} has changed since it was opened. Open it again.")
        labels = None if labels is None else labels.long()
        return found if len(found) > 1 else found[self.inputs[0]], labels

    def fingerprint(self) -> str:
        """SHA-256 of the file's bytes."""
        return file_digest(self.path)


class TensorLoader:
    """Batches of a `TensorFile` in its order, with the position of every sample.

    Parameters
    ----------
    source : TensorFile
        What to read.
    batch_size : int
        Samples a batch; fewer in the last one.
    limit : int, optional
        Read only the first so many samples.
    label_offset : int
        Added to every label.

    Raises
    ------
    InputError
        `batch_size` or `limit` is less than 1.
    """

    def __init__(
        self, source: TensorFile, batch_size: int = 64, limit: int | None = None, label_offset: int = 0
    ) -> None:
        if batch_size < 1 or (limit is not None and limit < 1):
            raise InputError(f"batch_size and limit must be at least 1; they are {batch_size} and {limit}.")
        self.source, self.batch_size, self.label_offset = source, batch_size, label_offset
        self.skipped: list[str] = []
        """Always empty: a file is read as a whole or not at all."""
        self._read_only(range(len(source) if limit is None else min(limit, len(source))))

    def _read_only(self, rows: range) -> None:
        self.rows = rows
        self._batches: Sequence[range] = [rows[k : k + self.batch_size] for k in range(0, len(rows), self.batch_size)]

    @property
    def num_samples(self) -> int:
        """Number of samples."""
        return len(self.rows)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        for rows in self._batches:
            inputs, labels = self.source.read(rows.start, rows.stop)
            yield Batch(
                inputs, None if labels is None else labels + self.label_offset, torch.arange(rows.start, rows.stop)
            )

    def over(self, batches: Sequence[range]) -> TensorLoader:
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
            "samples": f"{self.rows.start} to {self.rows.stop}",
        }


def _class_names(metadata: dict[str, str]) -> tuple[str, ...] | None:
    if "class_names" not in metadata:
        return None
    names = parse_json(metadata["class_names"])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("the `class_names` of its metadata are no JSON list of names")
    return tuple(names)
