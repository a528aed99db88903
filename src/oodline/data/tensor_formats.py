"""Read named arrays from safetensors, NumPy and PyTorch files or memory, by ranges of rows, without running code."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from oodline._util.json_text import parse_json
from oodline.errors import DataError

SUFFIXES = (".safetensors", ".npz", ".npy", ".pt", ".pth")
"""Endings of the files that hold tensors."""

ALONE = "features"
"""What the one array of a file without names is called."""

NAMES = "class_names"
"""Where the names of the classes stand: a JSON list in the metadata of safetensors, an array of text in .npz."""


@dataclass(frozen=True)
class Rows:
    """One array that is read by runs of its rows."""

    shape: tuple[int, ...]
    kind: str
    """Kind of its numbers, as the format calls it."""
    numbers: bool
    """Whether these are numbers that a tensor can hold."""
    read: Callable[[int, int], Tensor]
    """From the first and the end of a run to a tensor of its own."""


def open_rows(path: Path) -> tuple[dict[str, Rows], tuple[str, ...] | None]:
    """The arrays of a file by name, and the names of its classes.

    Raises
    ------
    DataError
        There is no such file, it has another ending, is damaged, or would run code.
    """
    if not path.is_file():
        if path.is_dir():
            raise DataError(f"{path} is a folder, and a file of tensors is needed. Check the path.")
        raise DataError(f"there is no file {path}. Check the path.")
    if path.suffix not in _OPENERS:
        raise DataError(f"{path} is not a file of tensors: its name must end in {', '.join(SUFFIXES)}.")
    if not path.stat().st_size:
        raise DataError(f"{path} is empty.")
    try:
        return _OPENERS[path.suffix](path)
    except DataError:
        raise
    except (SafetensorError, OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        kind = path.suffix[1:]
        raise DataError(
            f"{path} is not a {kind} file of samples, or is damaged: {_first_line(error)}. Save or copy it again."
        ) from error


def rows_of(name: str, array: Any) -> Rows:
    """An array of memory, or anything that NumPy makes one of; rows are what they are.

    Raises
    ------
    DataError
        It is not an array of numbers.
    """
    if isinstance(array, Rows):
        return array
    if isinstance(array, Tensor):
        return _of_tensor(array)
    try:
        array = np.asarray(array)
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(f"`{name}` must be an array; got {type(array).__name__}: {_first_line(error)}.") from error
    if array.dtype.hasobject:
        raise DataError(f"`{name}` must be an array of numbers; got one of Python objects. Convert it to float32.")
    return _of_array(array)


def _of_array(array: np.ndarray[Any, Any]) -> Rows:
    numbers = array.dtype.kind in "biuf" and array.dtype.itemsize <= 8

    def read(start: int, stop: int) -> Tensor:
        part = array[start:stop]
        # a copy in the machine's own byte order: what is mapped from a file cannot be written to
        return torch.from_numpy(np.array(part, dtype=part.dtype.newbyteorder("=")))

    return Rows(array.shape, str(array.dtype), numbers, read)


def _of_tensor(tensor: Tensor) -> Rows:
    plain = tensor.layout == torch.strided and not tensor.is_quantized
    numbers = plain and not tensor.is_complex()
    kind = str(tensor.dtype).removeprefix("torch.") if plain else f"{tensor.layout}".removeprefix("torch.")
    return Rows(tuple(tensor.shape), kind, numbers, lambda start, stop: tensor[start:stop].detach())


def _open_safetensors(path: Path) -> tuple[dict[str, Rows], tuple[str, ...] | None]:
    def reader(key: str) -> Callable[[int, int], Tensor]:
        def read(start: int, stop: int) -> Tensor:
            with safe_open(path, framework="pt") as file:
                return file.get_slice(key)[start:stop]  # type: ignore[no-any-return]

        return read

    with safe_open(path, framework="pt") as file:
        slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
        arrays = {
            key: Rows(tuple(part.get_shape()), part.get_dtype(), not part.get_dtype().startswith("C"), reader(key))
            for key, part in slices.items()
        }
        metadata = file.metadata() or {}
    if NAMES not in metadata:
        return arrays, None
    names = parse_json(metadata[NAMES])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"the `{NAMES}` of its metadata are not a JSON list of names")
    return arrays, tuple(names)


def _open_npy(path: Path) -> tuple[dict[str, Rows], None]:
    with _objects_refused(path):
        return {ALONE: _of_array(np.lib.format.open_memmap(path, mode="r"))}, None


def _open_npz(path: Path) -> tuple[dict[str, Rows], tuple[str, ...] | None]:
    found: dict[str, Rows] = {}
    names = None
    with _objects_refused(path), path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("it is not an archive of arrays")
        for key in file.files:
            array = file[key]
            if key == NAMES and array.dtype.kind == "U" and array.ndim == 1:
                names = tuple(array.tolist())
            else:
                found[key] = _of_array(array)
    return found, names


@contextmanager
def _objects_refused(path: Path) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        if "bject" not in str(error):
            raise
        raise DataError(
            f"{path} holds Python objects, and loading them could run code, so it was not loaded. Save arrays of "
            "numbers: numpy.savez(path, features=features.astype('float32'), labels=labels)."
        ) from error


def _open_torch(path: Path) -> tuple[dict[str, Rows], tuple[str, ...] | None]:
    content = load_torch(path)
    if isinstance(content, Tensor):
        return {ALONE: _of_tensor(content)}, None
    if not isinstance(content, Mapping):
        raise DataError(
            f"{path} holds a {type(content).__name__}; it must hold one tensor, or a dict of tensors: "
            "torch.save({'features': features, 'labels': labels}, path)."
        )
    content = dict(content)
    names = content.pop(NAMES, None)
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise DataError(f"the entry {key!r} of {path} must be a tensor with a name; got {type(value).__name__}.")
    listed = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    return {key: _of_tensor(value) for key, value in content.items()}, tuple(names) if listed else None


def load_torch(path: Path) -> Any:
    """What a PyTorch file holds, read with `weights_only`, and mapped rather than copied where the file allows it.

    Raises
    ------
    DataError
        It is damaged, or holds more than tensors.
    """
    try:
        mapped = zipfile.is_zipfile(path)  # files of before PyTorch 1.6 cannot be mapped
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old pickles
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # on a damaged pickle torch ends in nearly any
        if isinstance(error, pickle.UnpicklingError) and ("GLOBAL" in str(error) or "Unsupported" in str(error)):
            raise DataError(
                f"{path} holds more than tensors, and loading it could run code, so it was not loaded. Save tensors: "
                "torch.save({'features': features, 'labels': labels}, path)."
            ) from error
        raise DataError(f"{path} is not a PyTorch file of tensors, or damaged. Save or copy it again.") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


_OPENERS: dict[str, Callable[[Path], tuple[dict[str, Rows], tuple[str, ...] | None]]] = {
    ".safetensors": _open_safetensors,
    ".npz": _open_npz,
    ".npy": _open_npy,
    ".pt": _open_torch,
    ".pth": _open_torch,
}
