"""Read a safetensors file from an untrusted source in bounded memory, or refuse it.

safetensors checks that every tensor lies inside the file. Here, the header must also have a bounded length, no
duplicate key, and only dtypes that oodline writes, which is checked before a tensor is read.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from oodline._util.json_text import parse_json
from oodline.errors import ArtifactError

MAX_HEADER = 2**24
"""Bytes of the header at most: as Python objects it may take twenty times as many."""

DTYPES = ("F32", "F64", "I64", "I8", "BOOL")
"""The kinds of numbers that a file of oodline holds."""


def read_tensor_file(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Read metadata and tensors.

    Raises
    ------
    ArtifactError
        Truncated, damaged, of another kind, with a header that is too long, repeats a key, or names other kinds of
        numbers.
    """
    with path.open("rb") as file:
        return _read(path, file)


def _read(path: Path, file: IO[bytes]) -> tuple[dict[str, str], dict[str, Tensor]]:
    header = _header(path, file)
    for name, entry in header.items():
        if name != "__metadata__" and not (isinstance(entry, dict) and entry.get("dtype") in DTYPES):
            kind = str(entry.get("dtype"))[:20] if isinstance(entry, dict) else "nothing known"
            raise ArtifactError(
                f"the tensor {name[:80]!r} of {path} holds {kind}; oodline writes {', '.join(DTYPES)} and nothing "
                "else. Fit it again."
            )
    # the very file whose header was read, also where another process has replaced it since
    same = next((p for p in (Path(f"{d}/{file.fileno()}") for d in ("/proc/self/fd", "/dev/fd")) if p.exists()), path)
    try:
        with safe_open(same, framework="pt") as opened:
            return opened.metadata() or {}, {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise _damaged(path, str(error), truncated="ncomplete" in str(error)) from error


def _header(path: Path, file: IO[bytes]) -> dict[str, Any]:
    size = os.fstat(file.fileno()).st_size
    first = file.read(8)
    length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
    if len(first) < 8 or size < length + 8 <= MAX_HEADER:
        raise _damaged(path, "its header is incomplete", truncated=True)
    if length > MAX_HEADER:
        raise _damaged(path, f"its header would have {length} bytes, of {MAX_HEADER} at most")
    text = file.read(length)
    try:
        found = parse_json(text)
    except ValueError as error:
        raise _damaged(path, f"its header is not what it should be: {error}") from error
    if not isinstance(found, dict):
        raise _damaged(path, "its header is not a JSON object")
    return found


def _damaged(path: Path, why: str, *, truncated: bool = False) -> ArtifactError:
    what = "truncated" if truncated else "no safetensors file, or damaged"
    return ArtifactError(f"{path} is {what} ({path.stat().st_size} bytes; {why}). Copy or fit it again.")
