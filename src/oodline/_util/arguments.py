"""Check values against annotations; a wrong value is an error of one sentence. `checked` applies it to arguments.

An annotation may hold more than a type: a range (`ranges.py`), or any object with `accept` and `words`.
"""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol, Union, get_args, get_origin, runtime_checkable

import numpy as np
import torch
from jaxtyping import AbstractArray
from torch import Tensor, nn

from oodline._util.annotations import resolved
from oodline._util.ranges import Refused
from oodline._util.validation import SHOWN
from oodline.errors import SettingError


@runtime_checkable
class Accepts(Protocol):
    """What an annotation says beside the type: `Annotated[T, Accepts]`."""

    def accept(self, value: Any) -> Any:
        """A value of the type, checked and perhaps converted; raises `Refused`."""
        ...

    def words(self, kind: str) -> str:
        """What is accepted, where `kind` says the type, such as "an integer"."""
        ...


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Annotations of the named parameters, without those that cannot be resolved where the function was written."""
    own: Any = inspect.unwrap(function)
    stated = {
        name: parameter.annotation
        for name, parameter in inspect.signature(own).parameters.items()
        if parameter.annotation is not parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    return resolved(stated, own.__globals__)


def accept(name: str, value: Any, hint: Any) -> Any:
    """The value as an annotation has it.

    Raises
    ------
    SettingError
        It is not what the annotation says.

    Examples
    --------
    >>> accept("std", np.ones(2), Sequence[float]), accept("k", None, int | None)
    ([1.0, 1.0], None)
    >>> accept("scale", "loud", Literal["log", "linear"])
    Traceback (most recent call last):
    oodline.errors.SettingError: `scale` must be 'log' or 'linear'; got 'loud'.
    """
    try:
        return _taken(value, hint)
    except Refused:
        remedy = "".join(f" {text}" for text in dict.fromkeys(_remedies(hint)))
        said = words(hint)
        if isinstance(value, float) and not math.isfinite(value):
            said = said.replace("a number", "a finite number")
        raise SettingError(f"`{name}` must be {said}; got {_given(value)}.{remedy}") from None


def words(hint: Any) -> str:
    """What an annotation asks for, as messages say it.

    Examples
    --------
    >>> words(float | str | None), words(Sequence[int]), words(Mapping[str, float])
    ('a number or a string', 'a sequence, each an integer', 'a mapping, each value a number')
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        said = words(inner[0])
        for one in inner[1:]:
            said = one.words(said) if isinstance(one, Accepts) else said
        return said
    if origin in (Union, types.UnionType):
        *first, last = dict.fromkeys(words(each) for each in inner if each is not type(None))
        return f"{', '.join(first)} or {last}" if first else last
    if origin is Literal:
        *first, last = map(repr, inner)
        return f"{', '.join(first)} or {last}" if first else last
    if origin is tuple and Ellipsis not in inner:
        return f"a tuple of {len(inner)}: {', '.join(words(each) for each in inner)}"
    if origin in _CONTAINERS or hint in _CONTAINERS:
        kind, each = _CONTAINERS[origin or hint]
        return f"{kind}, {each} {words(_entry(inner))}" if inner and inner[-1] is not Any and each else kind
    if hint in _KINDS:
        return _KINDS[hint]
    if (array := _array_of(hint)) is not None:
        return "a tensor" if array is Tensor else "an array"
    name = getattr(origin or hint, "__name__", str(hint))
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"


_KINDS: dict[Any, str] = {
    int: "an integer",
    float: "a number",
    bool: "True or False",
    str: "a string",
    type(None): "None",
    None: "None",
    Tensor: "a tensor",
    nn.Module: "a torch.nn.Module",
}
_CONTAINERS: dict[Any, tuple[str, str]] = {
    Sequence: ("a sequence", "each"),
    list: ("a list", "each"),
    tuple: ("a tuple", "each"),
    Collection: ("a collection", "each"),
    Iterable: ("an iterable", "each"),
    Mapping: ("a mapping", "each value"),
    dict: ("a dict", "each value"),
    Callable: ("a function", ""),
}


def _entry(inner: tuple[Any, ...]) -> Any:
    return inner[0] if inner[-1] is Ellipsis else inner[-1]


def _remedies(hint: Any) -> Iterator[str]:
    if isinstance(remedy := getattr(hint, "argument_remedy", None), str):
        yield remedy
    if get_origin(hint) is Mapping:
        yield "Give names: {'a name': ...}."
    else:
        for inner in get_args(hint):
            yield from _remedies(inner)


def _given(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN and "\n" not in text else f"something of type {type(value).__name__}"


def _taken(value: Any, hint: Any) -> Any:
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        value = value if hasattr(inner[1], "replaces_type") else _taken(value, inner[0])
        for one in inner[1:]:
            value = one.accept(value) if isinstance(one, Accepts) else value
        return value
    if origin in (Union, types.UnionType):
        return _one_of(value, inner)
    if origin is Literal:
        return _true(value, any(type(value) is type(each) and value == each for each in inner))
    if hint in (int, float, bool):
        return _number(value, hint)
    if hint is str:
        return _true(value, isinstance(value, str))
    if hint is None or hint is type(None):
        return _true(value, value is None)
    if (array := _array_of(hint)) is not None:
        return (
            torch.as_tensor(value) if array is Tensor and _is_numeric(value) else _true(value, isinstance(value, array))
        )
    if origin in _CONTAINERS or hint in _CONTAINERS:
        return _contained(value, origin or hint, inner)
    return _instance(value, origin or hint)


def _true(value: Any, fits: bool) -> Any:
    if not fits:
        raise Refused
    return value


def _one_of(value: Any, hints: Sequence[Any]) -> Any:
    # 5 is an integer where both are taken, whatever the order
    for hint in sorted(hints, key=lambda each: type(value) is not each):
        try:
            return _taken(value, hint)
        except Refused:
            continue
    # of the alternatives, the one of the right type says more than that the type is wrong
    raise Refused


def _number(value: Any, kind: type) -> Any:
    if isinstance(value, bool | np.bool_):
        return bool(_true(value, kind is bool))
    if kind is int:
        return int(_true(value, isinstance(value, int | np.integer)))
    try:
        found = float(_true(value, kind is float and isinstance(value, int | float | np.integer | np.floating)))
    except OverflowError:
        raise Refused from None
    return _true(found, math.isfinite(found))


def _array_of(hint: Any) -> Any:
    if hint is Tensor:
        return Tensor
    if inspect.isclass(hint) and issubclass(hint, AbstractArray):
        return hint.array_type if inspect.isclass(hint.array_type) else np.ndarray
    return None


def _is_numeric(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "biuf"


def _contained(value: Any, kind: Any, inner: tuple[Any, ...]) -> Any:
    if kind is Callable:
        return _true(value, callable(value))
    if isinstance(value, np.ndarray | Tensor) and kind is not Iterable and value.ndim:
        value = value.tolist()
    wanted = (list, tuple) if kind in (list, tuple) else kind  # JSON knows no tuples
    if isinstance(value, str | bytes) or not isinstance(value, wanted):
        raise Refused
    if kind in (Mapping, dict):
        taken = {_taken(key, inner[0]): _taken(value[key], inner[1]) for key in value} if inner else value
        return taken if any(taken[key] is not value[key] for key in value) else value
    if kind is tuple and inner and Ellipsis not in inner:
        _true(value, len(value) == len(inner))
        return tuple(_taken(each, hint) for each, hint in zip(value, inner, strict=True))
    if inner and isinstance(value, list | tuple):  # what is read only once is left alone
        made = [_taken(each, _entry(inner)) for each in value]
        value = (
            value
            if all(a is b for a, b in zip(made, value, strict=True))
            else made
            if isinstance(value, list)
            else tuple(made)
        )
    return tuple(value) if kind is tuple else value


def _instance(value: Any, kind: Any) -> Any:
    if not inspect.isclass(kind) or kind is Any:
        return value
    if getattr(kind, "_is_protocol", False):
        return _true(value, all(_has(value, name) for name in _members(kind)))
    if isinstance(value, kind):
        return value
    return kind.of_argument(value) if hasattr(kind, "of_argument") else _true(value, False)


def _members(protocol: type) -> set[str]:
    return {name for name in vars(protocol) if not name.startswith("_")}


def _has(value: Any, name: str) -> bool:
    return inspect.getattr_static(value, name, Refused) is not Refused
