"""Write a file whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from oodline.errors import DataError


def check_writable(path: str | Path) -> None:
    """Find out before long work, rather than after it, whether a file can be written there.

    Raises
    ------
    DataError
        The folder does not exist or is not writable, or a folder stands in the file's place.

    Examples
    --------
    >>> check_writable("result.csv")
    """
    path = Path(path)
    if path.is_dir():
        raise DataError(f"could not write {path}: it is a folder. Name a file.")
    if not path.parent.is_dir():
        raise DataError(f"could not write {path}: there is no folder {path.parent}. Make it first.")
    if not os.access(path.parent, os.W_OK):
        raise DataError(f"could not write {path}: the folder {path.parent} is not writable. Check its permissions.")


def write_atomically(path: str | Path, write: Callable[[IO[bytes]], object]) -> Path:
    """Call `write` with an open temporary file beside `path`, then rename it into place.

    An error, a full disk or Ctrl-C leaves what was at `path` before, and no temporary file.

    Raises
    ------
    DataError
        The folder does not exist, is not writable, or the disk is full.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write_atomically(f"{folder}/a.txt", lambda file: file.write(b"hello")).read_text()
    'hello'
    """
    growing = GrowingFile(path)
    try:
        growing.write(write)
        return growing.commit()
    finally:
        growing.discard()


class GrowingFile:
    """A file that is written little by little, and stands at `path` once it is whole.

    Raises
    ------
    DataError
        From any call, as `write_atomically`.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     growing = GrowingFile(f"{folder}/a.txt")
    ...     growing.write(lambda file: file.write(b"hel"))
    ...     growing.write(lambda file: file.write(b"lo"))
    ...     growing.commit().read_text()
    'hello'
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with self._explained():
            self._file = tempfile.NamedTemporaryFile(  # noqa: SIM115 - it outlives this call
                dir=self.path.parent, prefix=f".{self.path.name}.", delete=False
            )

    def write(self, write: Callable[[IO[bytes]], object]) -> None:
        """Call `write` with the open file."""
        with self._explained():
            write(self._file.file)

    def commit(self) -> Path:
        """Rename it into place."""
        with self._explained(), self._file as file:
            file.flush()
            os.fsync(file.fileno())
        temporary = Path(self._file.name)
        # temporary files are private; the result gets the permissions that an ordinary new file would
        umask = os.umask(0)
        os.umask(umask)
        with self._explained():
            temporary.chmod(0o666 & ~umask)
            temporary.replace(self.path)
        return self.path

    def discard(self) -> None:
        """Leave no temporary file; nothing happens after `commit`."""
        self._file.close()
        Path(self._file.name).unlink(missing_ok=True)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(
                f"could not write {self.path}: {error.strerror or error}. Nothing was left behind; check the folder, "
                "its permissions and the free space."
            ) from error
