"""Logging of a service: bounded, whatever clients send, with an optional access log."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

BOUNDED = ("oodline.serve", "uvicorn.error", "asyncio")
"""Loggers that strangers can make speak."""

ACCESS = logging.getLogger("oodline.access")

MOST, SECONDS = 20, 10.0
"""Largest number of messages of one logger, and in how many seconds."""


class Bounded(logging.Filter):
    """Lets `most` messages pass in `seconds`; the next that passes says how many were left out.

    Examples
    --------
    >>> log, bounded = logging.getLogger("busy"), Bounded(most=2)
    >>> [bounded.filter(log.makeRecord("busy", logging.ERROR, "", 0, "no", (), None)) for _ in range(4)]
    [True, True, False, False]
    """

    def __init__(self, most: int = MOST, seconds: float = SECONDS) -> None:
        super().__init__()
        self._most = most
        self._seconds = seconds
        self._since = monotonic()
        self._passed = self._left_out = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this message is written."""
        if monotonic() - self._since >= self._seconds:
            self._since, self._passed = monotonic(), 0
        if self._passed >= self._most:
            self._left_out += 1
            return False
        self._passed += 1
        if self._left_out:
            record.msg = f"{record.getMessage()} ({self._left_out} messages were left out before this one)"
            record.args = ()
            self._left_out = 0
        return True


@contextmanager
def logging_kept(access: bool) -> Iterator[None]:
    """Bound the log, and write a line for each request to standard error where `access` is true."""
    bounded = {logging.getLogger(name): Bounded() for name in BOUNDED}
    forms = logging.getLogger("python_multipart")
    before, writer = forms.level, logging.StreamHandler(sys.stderr)
    writer.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    forms.setLevel(logging.ERROR)  # a stranger's form is no news for the log
    for logger, one in bounded.items():
        logger.addFilter(one)
    if access:
        ACCESS.addHandler(writer)
        ACCESS.setLevel(logging.INFO)
    try:
        yield
    finally:
        ACCESS.removeHandler(writer)
        ACCESS.setLevel(logging.NOTSET)
        for logger, one in bounded.items():
            logger.removeFilter(one)
        forms.setLevel(before)
