"""Write a file completely or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from oodline._util.temporary import claim, release, remove_stale, temporary_name
from oodline.errors import DataError

_NEVER = ("/dev/stdin", "/dev/stdout", "/dev/stderr", "/dev/fd/", "/proc/")
"""Names of what a process holds open: what they lead to must not be renamed over."""


def check_writable(path: str | Path) -> None:
    """Find out before long work, rather than after it, whether a file can be written there.

    Raises
    ------
    DataError
        The folder does not exist or is not writable, or what stands in the file's place is not a file: a folder, a
        device, a pipe.

    Examples
    --------
    >>> check_writable("result.csv")
    """
    target = _target(path)
    folder = target.parent if Path(path).is_symlink() else Path(path).parent  # as it was typed
    if not target.parent.is_dir():
        raise DataError(f"could not write {path}: there is no folder {folder}. Make it first.")
    if not os.access(target.parent, os.W_OK):
        raise DataError(f"could not write {path}: the folder {folder} is not writable. Check its permissions.")


def write_atomically(path: str | Path, write: Callable[[IO[bytes]], object]) -> Path:
    """Call `write` with an open temporary file beside `path`, then rename it into place.

    An error, a full disk, Ctrl-C or a signal to end leaves what was at `path` before, and no temporary file; one that a
    killed process left is removed by the next write. A link stays one, and what it leads to is written. A file that is
    replaced keeps its permissions.

    Raises
    ------
    DataError
        The folder does not exist, is not writable, or the disk is full; or `path` is a folder, a device or a pipe.

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
        self._target = _target(path)
        remove_stale(self._target)
        self._temporary = temporary_name(self._target)
        self._claimed = claim(lambda: self._temporary.unlink(missing_ok=True))
        try:
            with self._explained():
                # made by `open`, which honours the umask; never open to more people than what it replaces
                mode = self._mode()
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
                descriptor = os.open(self._temporary, flags, 0o666 if mode is None else mode)
                self._file = os.fdopen(descriptor, "wb")
        except BaseException:
            release(self._claimed)
            raise

    def write(self, write: Callable[[IO[bytes]], object]) -> None:
        """Call `write` with the open file."""
        with self._explained():
            write(self._file)

    def commit(self) -> Path:
        """Rename it into place."""
        with self._explained(), self._file as file:
            file.flush()
            os.fsync(file.fileno())
        with self._explained():
            if (mode := self._mode()) is not None:
                self._temporary.chmod(mode)
            _target(self.path)  # what stands there now may have come in the meantime
            self._temporary.replace(self._target)
        release(self._claimed)
        return self.path

    def discard(self) -> None:
        """Leave no temporary file; nothing happens after `commit`."""
        with suppress(OSError):  # what was not written yet does not fit on the disk, and is not wanted
            self._file.close()
        self._temporary.unlink(missing_ok=True)
        release(self._claimed)

    def _mode(self) -> int | None:
        return stat.S_IMODE(self._target.stat().st_mode) if self._target.exists() else None

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(
                f"could not write {self.path}: {error.strerror or error}. Nothing was left behind; check the folder, "
                "its permissions and the free space."
            ) from error


def _target(path: str | Path) -> Path:
    """What is written: `path`, or where links lead to. Raises `DataError` where it is not a file."""
    try:
        target = Path(os.path.realpath(path))
        kind = None if not target.exists() else target.stat().st_mode
        if kind is None and Path(path).is_symlink() and target.is_symlink():
            raise OSError("its links lead in a circle")
    except OSError as error:
        raise DataError(f"could not write {path}: {error.strerror or error}. Name another file.") from error
    if kind is not None and stat.S_ISDIR(kind):
        raise DataError(f"could not write {path}: it is a folder. Name a file.")
    if (kind is not None and not stat.S_ISREG(kind)) or str(Path(path).absolute()).startswith(_NEVER):
        raise DataError(f"could not write {path}: it is a device, a pipe or a socket. Name a file.")
    return target
