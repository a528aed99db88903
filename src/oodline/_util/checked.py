"""Decorate functions so that arguments are checked against their annotations before the call.

`checked` wraps a function; detectors have their `__init__` wrapped when the class is made.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """The function, which raises `SettingError` where an argument is not what its annotation says.

    NumPy numbers are taken for Python's, integers for floats, arrays for tensors; truth values are no numbers, and NaN
    and infinity are not taken. A missing or unknown argument is Python's own `TypeError`.

    Examples
    --------
    >>> import numpy as np
    >>> from oodline._util.ranges import Count
    >>> @checked
    ... def repeat(text: str, times: Count = 2) -> str:
    ...     return times * text
    >>> repeat("ab", np.int64(3))
    'ababab'
    >>> repeat("ab", times="3")
    Traceback (most recent call last):
    oodline.errors.SettingError: `times` must be an integer of at least 1; got '3'.
    """
    signature = inspect.signature(function)
    usual = {name: parameter.default for name, parameter in signature.parameters.items()}
    hints: dict[str, Any] = {}

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        from oodline._util.arguments import (  # torch, which `import oodline` and a typing error do without
            accept,
            hints_of,
        )

        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)  # which says what is missing or unknown
        if not hints:
            hints.update(hints_of(function))
        for name, value in bound.arguments.items():
            if name in hints and value is not usual[name]:
                bound.arguments[name] = accept(name, value, hints[name])
        return function(*bound.args, **bound.kwargs)

    return call


C = TypeVar("C")


def checked_fields(kind: type[C]) -> type[C]:
    """A dataclass whose fields are checked as `checked` does where an object is made.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @checked_fields
    ... @dataclass(frozen=True)
    ... class Times:
    ...     n: int = 1
    >>> Times("many")
    Traceback (most recent call last):
    oodline.errors.SettingError: `n` must be an integer; got 'many'.
    """
    kind.__init__ = checked(kind.__init__)  # type: ignore[method-assign]
    return kind
