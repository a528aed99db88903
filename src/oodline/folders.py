"""Write a folder whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from oodline.errors import DataError


def check_replaceable(path: str | Path, marker: str) -> None:
    """Raise `DataError` where `write_folder` would refuse: found out before long work rather than after it.

    Examples
    --------
    >>> check_replaceable("no-such-folder", "run.json")
    """
    path = Path(path)
    if path.is_dir() and any(path.iterdir()) and not (path / marker).is_file():
        raise DataError(
            f"could not write {path}: it is a folder with other things in it (no {marker}), which would be lost. Name "
            "a new folder."
        )
    if path.exists() and not path.is_dir():
        raise DataError(f"could not write {path}: a file is there. Name a new folder.")


def write_folder(path: str | Path, write: Callable[[Path], object], *, marker: str) -> Path:
    """Call `write` with an empty temporary folder beside `path`, then rename it into place.

    A folder that is at `path` already is replaced if it is empty or holds a file named `marker`, and refused
    otherwise. An error, a full disk or Ctrl-C leaves what was there before.

    Raises
    ------
    DataError
        Something else is at `path`, or the folder cannot be written.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     made = write_folder(f"{folder}/run", lambda new: (new / "a.txt").write_text("hello"), marker="a.txt")
    ...     [file.name for file in made.iterdir()]
    ['a.txt']
    """
    path = Path(path)
    check_replaceable(path, marker)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        new = temporary / "new"
        new.mkdir()
        write(new)
        if path.exists():
            path.rename(temporary / "old")
        new.rename(path)
    except OSError as error:
        raise DataError(
            f"could not write {path}: {error.strerror or error}. Nothing was left behind; check the folder, its "
            "permissions and the free space."
        ) from error
    finally:
        if temporary is not None:
            if (temporary / "old").exists() and not path.exists():
                (temporary / "old").rename(path)
            shutil.rmtree(temporary, ignore_errors=True)
    return path
