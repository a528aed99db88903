"""Text for a terminal: control characters, which could move the cursor or hide text, are written as escapes."""

from __future__ import annotations

import re

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""All but the tabulator and the line feed; and what changes the direction of writing, or begins another line."""


def printable(text: str) -> str:
    r"""The text with control characters as they stand in a literal of Python.

    Examples
    --------
    >>> print(printable("cat\x1b[2J dog"))
    cat\x1b[2J dog
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
