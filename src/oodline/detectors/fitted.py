"""Fitted tensors, declared once by name, kind and shape: `threshold: Fitted[Float[Tensor, "C D"]]`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, get_args

import torch
from torch import Tensor

from oodline._util.annotations import resolved
from oodline.errors import DetectorError

T = TypeVar("T")

Fitted = Annotated[T, "fitted"]
"""Annotation of a detector's attribute that `estimate` sets, that is saved with it, and without which it cannot score.

In its shape `C` is the number of classes, `D` that of features; another name stands for one size, the same in all
tensors of the detector, a number for itself, and `...` for any further dimensions. `Fitted[Tensor]` is of any kind and
shape.
"""

FLOATS = (torch.float32, torch.float64)
_KINDS: dict[str, tuple[torch.dtype, ...]] = {
    "Float": FLOATS,
    "Int": (torch.int64,),
    "Int8": (torch.int8,),
    "Bool": (torch.bool,),
}


@dataclass(frozen=True)
class FittedTensor:
    """What a detector says of one of its fitted tensors.

    Examples
    --------
    >>> FittedTensor("Float", "C D").problem(torch.zeros(3, 4), {"C": 3, "D": 5})
    'has shape (3, 4) in place of (C, D) = (3, 5)'
    >>> FittedTensor("Int", "N").problem(torch.zeros(3), {})
    'holds torch.float32 in place of torch.int64'
    """

    kind: str
    shape: str

    def problem(self, value: Tensor, sizes: dict[str, int]) -> str:
        """What is wrong with a tensor, empty where nothing is; sizes that are not known yet are noted in `sizes`."""
        if not self.kind:
            return ""
        if value.dtype not in _KINDS[self.kind]:
            known = "floating-point numbers" if self.kind == "Float" else str(_KINDS[self.kind][0])
            return f"holds {value.dtype} in place of {known}"
        names = self.shape.split()
        if is_open := names[-1:] == ["..."]:
            names.pop()
        fits = len(value.shape) >= len(names) if is_open else len(value.shape) == len(names)
        wanted = [int(name) if name.isdigit() else sizes.get(name) for name in names]
        for name, size, actual in zip(names, wanted, value.shape, strict=False):
            if size is None:
                fits &= actual > 0
                sizes[name] = actual
            else:
                fits &= actual == size
        if fits:
            return ""
        stated = ", ".join([*names, "..."] if is_open else names)
        meant = ", ".join("any" if size is None else str(size) for size in wanted)
        return f"has shape {tuple(value.shape)} in place of ({stated}) = ({meant})"


def fitted_tensors(cls: type) -> Mapping[str, FittedTensor]:
    """The fitted tensors that a class and those above it declare, by name.

    Raises
    ------
    DetectorError
        A fitted tensor is declared by anything but a kind and a shape.
    """
    found: dict[str, FittedTensor] = {}
    for one in reversed(cls.__mro__):
        said = inspect.get_annotations(one)
        stated = {name: each for name, each in said.items() if _is_fitted(each)}
        meant = resolved(stated, _names(one))
        for name, annotation in stated.items():
            if name not in meant:
                raise DetectorError(
                    f"`{one.__name__}.{name}` must be declared by names of its module; got {annotation}."
                )
            found[name] = _declared(f"{one.__name__}.{name}", get_args(meant[name])[0])
    return found


def _is_fitted(annotation: Any) -> bool:
    if isinstance(annotation, str):
        return "Fitted[" in annotation
    return "fitted" in getattr(annotation, "__metadata__", ())


def _names(cls: type) -> dict[str, Any]:
    """What names mean where the class stands; a file that is being read may be no module yet."""
    module = sys.modules.get(cls.__module__)
    functions = [inspect.unwrap(value) for value in vars(cls).values() if inspect.isfunction(value)]
    return (functions[0].__globals__ if functions else {}) | ({} if module is None else vars(module))


def _declared(name: str, annotation: Any) -> FittedTensor:
    if annotation is Tensor:
        return FittedTensor("", "...")
    kind, shape = getattr(annotation, "__name__", "").partition("[")[0], getattr(annotation, "dim_str", None)
    if kind not in _KINDS or shape is None:
        form = f'Fitted[Float[Tensor, "C D"]], of kind {", ".join(_KINDS)}'
        raise DetectorError(f"`{name}` must be declared as {form}; got {annotation}.")
    return FittedTensor(kind, shape)
