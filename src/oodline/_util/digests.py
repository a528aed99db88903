"""SHA-256 of files, texts, bytes and tensors, to identify a content wherever it is; all digests are made here."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from PIL import Image

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    Content = str | bytes | Tensor | np.ndarray[Any, Any]


class Digest:
    """SHA-256 of contents one after another, as if they were one: text as UTF-8, tensors and arrays by their values.

    Where contents end is not part of it; see `combine`, or put shapes and names between them.

    Examples
    --------
    >>> Digest("ab").add("c").hex() == Digest("abc").hex() == Digest(b"abc").hex()
    True
    """

    def __init__(self, *contents: Content) -> None:
        self._hash = hashlib.sha256()
        self.add(*contents)

    def add(self, *contents: Content) -> Self:
        """Take in more."""
        for content in contents:
            self._hash.update(_bytes_of(content))
        return self

    def hex(self) -> str:
        """Digest of what was taken in so far, as 64 hexadecimal digits."""
        return self._hash.hexdigest()


def digest(*contents: Content) -> str:
    """SHA-256 of contents one after another, as 64 hexadecimal digits; see `Digest`.

    Examples
    --------
    >>> import torch
    >>> digest(torch.tensor([1.0])) == digest(bytes([0, 0, 128, 63]))
    True
    """
    return Digest(*contents).hex()


def short_digest(content: bytes) -> bytes:
    """A digest of 16 bytes, to tell many small contents apart."""
    return hashlib.blake2b(content, digest_size=16).digest()


def checksum(path: str | Path) -> str:
    """SHA-256 of a file's bytes, read now, whatever was known of the file.

    Raises
    ------
    OSError
        It cannot be read.
    """
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes; `unreadable` where it cannot be read, which a loader will say when it comes to it.

    A file whose size and time of change are as before is not read again by the same process.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     _ = Path(folder, "a").write_bytes(b"same"), Path(folder, "b").write_bytes(b"same")
    ...     file_digest(f"{folder}/a") == file_digest(f"{folder}/b") == checksum(f"{folder}/a")
    True
    """
    try:
        state = Path(path).stat()
        if not stat.S_ISREG(state.st_mode):  # a pipe or a device would never end
            return "unreadable"
        return _checksum_once(str(Path(path).absolute()), state.st_ino, state.st_size, state.st_mtime_ns)
    except OSError:
        return "unreadable"


@lru_cache(maxsize=100_000)
def _checksum_once(path: str, inode: int, size: int, changed: int) -> str:
    return checksum(path)


def image_digest(image: Image.Image) -> str:
    """SHA-256 of mode, size and pixels of a decoded image.

    Examples
    --------
    >>> image_digest(Image.new("L", (1, 2))) == image_digest(Image.new("L", (2, 1)))
    False
    """
    return digest(f"{image.mode} {image.size}", image.tobytes())


def combine(parts: Iterable[object]) -> str:
    """One SHA-256 of several texts or numbers in their order.

    Examples
    --------
    >>> combine(["ab", "c"]) == combine(["a", "bc"])
    False
    """
    whole = Digest()
    for part in parts:
        text = repr(part).encode()
        whole.add(f"{len(text)} ", text)
    return whole.hex()


def _bytes_of(content: Content) -> Any:
    if isinstance(content, str):
        return content.encode()
    if isinstance(content, bytes):
        return content
    import numpy as np  # not needed for texts and files

    if not isinstance(content, np.ndarray):
        import torch

        content = content.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return np.ascontiguousarray(content).data
