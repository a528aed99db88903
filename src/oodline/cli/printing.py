"""`say`: what every command prints by, so that a name of the user's data cannot control the terminal."""

from __future__ import annotations

import sys
from typing import TextIO

from oodline._util.terminal import printable


def say(value: object = "", *, file: TextIO | None = None, flush: bool = False) -> None:
    r"""Print a text, on standard output unless told otherwise, with control characters as escapes.

    Examples
    --------
    >>> say("class 'cat\x1b[2J'")
    class 'cat\x1b[2J'
    """
    print(printable(str(value)), file=sys.stdout if file is None else file, flush=flush)
