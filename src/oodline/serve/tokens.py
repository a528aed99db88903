"""Check access tokens: given directly, or lines of a file that is read again for every request."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Sequence
from pathlib import Path

from oodline._util.digests import digest
from oodline.errors import DataError, SettingError

LOG = logging.getLogger("oodline.serve")


class Tokens:
    """Tokens of which a client must send one.

    Parameters
    ----------
    source : str, sequence of str or Path
        A token, several, or a file with one per line; empty lines and those that begin with `#` are skipped. It is
        read anew for every request, so that a token that is added or taken away counts at once. Where it cannot be
        read any more, or is empty, nobody gets in.

    Raises
    ------
    SettingError
        A token is empty, or there is none.
    DataError
        The file cannot be read.

    Examples
    --------
    >>> Tokens(["one", "two"]).accept("two"), Tokens("one").accept("two")
    (True, False)
    """

    def __init__(self, source: str | Sequence[str] | Path) -> None:
        self._file = source if isinstance(source, Path) else None
        if self._file is not None:
            if not self._read(self._file):
                remedy = "Write a token into it, such as of `openssl rand -hex 32`."
                raise SettingError(f"the token file {self._file} is empty. {remedy}")
            return
        assert not isinstance(source, Path)
        self._given = [source] if isinstance(source, str) else list(source)
        if not self._given or not all(token.strip() for token in self._given):
            raise SettingError("`token` must not be empty. Give a token, or None to require none.")

    def accept(self, sent: str) -> bool:
        """Whether this is one of them; the time that it takes does not say how much of it is right."""
        found = digest(sent.encode("latin-1", "replace"))  # headers are bytes, shown as latin-1
        known = [digest(token) for token in self._current()]
        return sum(hmac.compare_digest(found, one) for one in known) > 0  # all are compared

    def _current(self) -> list[str]:
        if self._file is None:
            return self._given
        try:
            tokens = self._read(self._file)
        except DataError as error:
            LOG.error("all requests are refused: %s", error)
            return []
        if not tokens:
            LOG.error("all requests are refused: the token file %s is empty. Write a token into it.", self._file)
        return tokens

    @staticmethod
    def _read(path: Path) -> list[str]:
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
        except (OSError, ValueError) as error:
            raise DataError(
                f"the token file {path} cannot be read: {error}. Check the path and its permissions."
            ) from error
        return [line for line in lines if line and not line.startswith("#")]
