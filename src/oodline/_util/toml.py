"""Read a TOML file, or raise an error that says why it cannot be read."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from oodline.errors import DataError, SettingError


def read_toml(path: str | Path, kind: str = "the benchmark") -> dict[str, Any]:
    """Read a TOML file; `kind` is what errors call it.

    Raises
    ------
    DataError
        There is no such file.
    SettingError
        It is not TOML.

    Examples
    --------
    >>> read_toml("nothing.toml")
    Traceback (most recent call last):
    oodline.errors.DataError: the benchmark nothing.toml cannot be read: No such file or directory. Check the path.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{kind} {path} cannot be read: {error.strerror}. Check the path.") from error
    except (ValueError, RecursionError) as error:
        raise SettingError(f"{path} is not TOML: {error}.") from error
