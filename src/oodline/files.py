"""Write a file whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
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
    path = Path(path)
    temporary: Path | None = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            write(file.file)
            file.flush()
            os.fsync(file.fileno())
        # temporary files are private; the result gets the permissions that an ordinary new file would
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OSError as error:
        raise DataError(
            f"could not write {path}: {error.strerror or error}. Nothing was left behind; check the folder, its "
            "permissions and the free space."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return path
