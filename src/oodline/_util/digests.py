"""SHA-256 of files and of decoded images, to identify a data set wherever it is stored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from PIL import Image


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes; `unreadable` where it cannot be read, which a loader will say when it comes to it.

    A file whose size and time of change are as before is not read again by the same process.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     _ = Path(folder, "a").write_bytes(b"same"), Path(folder, "b").write_bytes(b"same")
    ...     file_digest(f"{folder}/a") == file_digest(f"{folder}/b")
    True
    """
    try:
        state = Path(path).stat()
        return _digest_once(str(Path(path).absolute()), state.st_ino, state.st_size, state.st_mtime_ns)
    except OSError:
        return "unreadable"


@lru_cache(maxsize=100_000)
def _digest_once(path: str, inode: int, size: int, changed: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def image_digest(image: Image.Image) -> str:
    """SHA-256 of mode, size and pixels of a decoded image.

    Examples
    --------
    >>> image_digest(Image.new("L", (1, 2))) == image_digest(Image.new("L", (2, 1)))
    False
    """
    digest = hashlib.sha256(f"{image.mode} {image.size}".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def combine(parts: Iterable[object]) -> str:
    """One SHA-256 of several texts or numbers in their order.

    Examples
    --------
    >>> combine(["ab", "c"]) == combine(["a", "bc"])
    False
    """
    digest = hashlib.sha256()
    for part in parts:
        text = repr(part).encode()
        digest.update(f"{len(text)} ".encode() + text)
    return digest.hexdigest()
