"""Write a folder completely or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from oodline._util.temporary import claim, release, remove, remove_stale, temporary_name
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
    otherwise. An error, a full disk, Ctrl-C or a signal to end leaves what was there before. Of a link to a folder, the
    folder is replaced.

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
    given, path = Path(path), Path(os.path.realpath(path))  # a link stays one
    check_replaceable(given, marker)
    temporary = temporary_name(path)

    def clear() -> None:
        if (temporary / "old").exists() and not path.exists():
            (temporary / "old").rename(path)
        remove(temporary)

    claimed = claim(clear)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(path)
        temporary.mkdir(mode=0o700)
        new = temporary / "new"
        new.mkdir()
        write(new)
        if path.exists():
            path.rename(temporary / "old")
        new.rename(path)
    except OSError as error:
        raise DataError(
            f"could not write {given}: {error.strerror or error}. Nothing was left behind; check the folder, its "
            "permissions and the free space."
        ) from error
    finally:
        clear()
        release(claimed)
    return given
