"""Resolve the annotations of classes and functions with `typing`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_type_hints


def resolved(annotations: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    """Annotations with `names` in place of what they are written with, without those that cannot be resolved.

    These are names that were imported for type checkers alone. What a data or guard file holds never comes here.

    Examples
    --------
    >>> resolved({"k": "int", "engine": "Engine"}, {})
    {'k': <class 'int'>}
    """
    found: dict[str, Any] = {}
    for name, annotation in annotations.items():

        def bearer() -> None: ...

        bearer.__annotations__ = {name: annotation}  # each by itself: one that fails takes no other with it
        try:
            found |= get_type_hints(bearer, dict(names), include_extras=True)
        except NameError:
            continue
    return found
