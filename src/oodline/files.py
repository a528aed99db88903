"""Write a file whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from oodline.errors import DataError


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
