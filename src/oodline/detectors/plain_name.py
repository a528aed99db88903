"""What a detector may be called."""

from __future__ import annotations

import re
from typing import Any

from oodline.errors import DetectorError

PLAIN = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
"""Names of detectors: they stand in file names, columns and command lines, and need no quoting anywhere."""


def check_name(name: Any, what: str = "`name`") -> None:
    """Raise `DetectorError` where a name is not lowercase letters, digits and hyphens.

    Examples
    --------
    >>> check_name("my-score")
    >>> check_name("My score")
    Traceback (most recent call last):
    oodline.errors.DetectorError: `name` must be lowercase letters, digits and hyphens, such as 'my-score'; got
    'My score'.
    """
    if not isinstance(name, str) or not PLAIN.fullmatch(name):
        raise DetectorError(f"{what} must be lowercase letters, digits and hyphens, such as 'my-score'; got {name!r}.")
