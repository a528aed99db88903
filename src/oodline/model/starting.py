"""Make a forward pass differentiable from one module on: what comes before it is computed without a graph."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from oodline.model.hooks import submodule


@dataclass(frozen=True)
class Start:
    """Where a pass begins to be differentiable: the input or the output of a module, by its name."""

    module: str
    of: Literal["input", "output"] = "output"


Accept = Callable[[Tensor, nn.Module], bool]
"""From what a module read or returned, and the module, to whether a pass may start there."""


@contextmanager
def starting(model: nn.Module, starts: Sequence[Start], accept: Accept) -> Iterator[list[tuple[Start, Tensor]]]:
    """Hand the model a leaf wherever a start is accepted, and record what follows; yields starts and leaves, in order.

    Each leaf cuts what came before off, so that the last one is where the pass begins to be differentiable. Run the
    model under `torch.no_grad()` inside the block: gradients are switched on at a start, and back off at the end of
    that `no_grad`.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1, bias=False))
    >>> with torch.no_grad(), starting(model, [Start("1", "input")], lambda value, module: True) as leaves:
    ...     out = model(torch.ones(1, 2))
    >>> torch.equal(torch.autograd.grad(out.sum(), leaves[0][1])[0], model[1].weight)
    True
    """
    me = threading.get_ident()
    leaves: list[tuple[Start, Tensor]] = []

    def attach(start: Start) -> RemovableHandle:
        module = submodule(model, start.module)

        def replaced(value: Any) -> Any:
            if threading.get_ident() != me or not isinstance(value, Tensor) or not value.is_floating_point():
                return value
            if not accept(value, module):
                return value
            torch.set_grad_enabled(True)
            leaf = value.detach().clone().requires_grad_()
            leaves.append((start, leaf))
            return leaf.clone()  # what follows may work in place

        def before(_module: nn.Module, args: tuple[Any, ...]) -> Any:
            return (replaced(args[0]), *args[1:]) if args else None

        def after(_module: nn.Module, _args: Any, out: Any) -> Any:
            return (replaced(out[0]), *out[1:]) if isinstance(out, tuple) and out else replaced(out)

        return module.register_forward_pre_hook(before) if start.of == "input" else module.register_forward_hook(after)

    with ExitStack() as stack:
        for start in starts:
            stack.callback(attach(start).remove)
        yield leaves
