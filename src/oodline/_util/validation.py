"""Turn a validation error of pydantic into one sentence: which entry, what it must be, what it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

KINDS = ("int", "float", "str", "bool", "none", "dict", "list", "tuple")
"""What pydantic puts into a path for the alternatives of a field, which no user has written."""

_RULES = {
    "model_type": "must be a table of settings",
    "model_attributes_type": "must be a table of settings",
    "dict_type": "must be a table of settings",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "string_type": "must be a text",
    "missing": "is missing",
    "extra_forbidden": "is not known",
    "json_invalid": "must be JSON",
}
_BEGINNINGS = ("Input should be", "Input should have", "String should have", "Tuple should have", "List should have")
SHOWN = 80
"""Characters of a value that are shown."""


def path_of(location: tuple[int | str, ...]) -> str:
    """The path of an entry as people write it.

    Examples
    --------
    >>> path_of(("ood", 2, "name")), path_of(("classifier", "preprocessing", "crop", "tuple[int, int]", 0))
    ('ood[2].name', 'classifier.preprocessing.crop[0]')
    """
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part.isidentifier() and part not in KINDS:
            path += f".{part}" if path else part
        elif not part.isidentifier() and not any(c in part for c in "[](),"):
            path += f".{part!r}" if path else repr(part)  # a key that a user made up
    return path


def problem(error: ValidationError, patterns: Mapping[str, str] | None = None) -> str:
    """The first problem as a sentence without its full stop; `patterns` says in words what a pattern asks for.

    Examples
    --------
    >>> from pydantic import BaseModel, PositiveInt
    >>> class Settings(BaseModel):
    ...     sizes: tuple[PositiveInt, ...]
    >>> try:
    ...     Settings(sizes=(3, -1))
    ... except ValidationError as error:
    ...     print(problem(error))
    `sizes[1]` must be greater than 0; got -1
    """
    first = error.errors(include_url=False)[0]
    path = path_of(first["loc"])
    name = f"`{path}`" if path else "it"
    rule = _rule(first, patterns or {})
    if first["type"] in ("missing", "extra_forbidden", "json_invalid"):
        return f"{name} {rule}"
    return f"{name} {rule}; got {shown(first['input'])}"


def shown(value: Any) -> str:
    """A value as messages show it: not longer than `SHOWN`."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 4]} ..."


def _rule(first: Any, patterns: Mapping[str, str]) -> str:
    kind, context = first["type"], first.get("ctx") or {}
    if kind == "string_pattern_mismatch" and context.get("pattern") in patterns:
        return f"must be {patterns[context['pattern']]}"
    if kind == "json_invalid":
        return f"must be JSON: {context.get('error', 'it cannot be read')}"
    if kind in _RULES:
        return _RULES[kind]
    text: str = first["msg"]
    for beginning in _BEGINNINGS:
        if text.startswith(beginning):
            return f"must {beginning.split()[-1]}{text.removeprefix(beginning)}"
    return f"is wrong: {text.removeprefix('Value error, ').rstrip('.')}"
