"""Make a forward pass differentiable from one module on: what comes before it is computed without a graph."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from oodline.model.hooks import submodule


@dataclass(frozen=True)
class Start:
    """Where a pass begins to be differentiable: the input or the output of a module, by its name."""

    module: str
    of: Literal["input", "output"] = "output"


@contextmanager
def starting(model: nn.Module, start: Start) -> Iterator[list[Tensor]]:
    """Hand the model a leaf at the start, and record all that follows; yields the leaves, one for each call.

    Run the model under `torch.no_grad()` inside the block: gradients are switched on at the start, and back off at the
    end of that `no_grad`.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1, bias=False))
    >>> with torch.no_grad(), starting(model, Start("1", "input")) as leaves:
    ...     out = model(torch.ones(1, 2))
    >>> torch.equal(torch.autograd.grad(out.sum(), leaves[0])[0], model[1].weight)
    True
    """
    me = threading.get_ident()
    leaves: list[Tensor] = []

    def replaced(value: Any) -> Any:
        if threading.get_ident() != me or not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        torch.set_grad_enabled(True)
        leaves.append(value.detach().clone().requires_grad_())
        return leaves[-1].clone()  # what follows may work in place

    def before(_module: nn.Module, args: tuple[Any, ...]) -> Any:
        return (replaced(args[0]), *args[1:]) if args else None

    def after(_module: nn.Module, _args: Any, out: Any) -> Any:
        return (replaced(out[0]), *out[1:]) if isinstance(out, tuple) and out else replaced(out)

    module = submodule(model, start.module)
    handle = module.register_forward_pre_hook(before) if start.of == "input" else module.register_forward_hook(after)
    try:
        yield leaves
    finally:
        handle.remove()
