"""Read JSON from an untrusted source: what `json` would take in silence is refused."""

from __future__ import annotations

import json
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """Parse a document as `json.loads` does, but refuse a key that stands twice in one object.

    Raises
    ------
    ValueError
        It is not JSON, repeats a key, or is nested too deeply.

    Examples
    --------
    >>> parse_json('{"threshold": 1, "threshold": 2}')
    Traceback (most recent call last):
    ValueError: the key 'threshold' stands there twice
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:80]!r} stands there twice")
        found[key] = value
    return found
