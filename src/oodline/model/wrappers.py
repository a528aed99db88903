"""Unwrap models (such as `DataParallel` or `torch.compile`), and refuse those whose layers cannot be hooked."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn
from torch.export import ExportedProgram

from oodline.errors import HeadError

_lock = threading.Lock()
_users = 0
_before: Any = None


def unwrapped(model: object) -> nn.Module:
    """The module that a wrapper runs: of `torch.compile`, of `DataParallel` and of `DistributedDataParallel`.

    Raises
    ------
    HeadError
        It is not a module, or one of which nothing but inputs and outputs is known.

    Examples
    --------
    >>> inside = nn.Linear(2, 2)
    >>> unwrapped(nn.DataParallel(inside)) is inside
    True
    """
    if isinstance(model, torch.jit.ScriptModule | torch.jit.ScriptFunction):
        raise HeadError(
            "the model is TorchScript: its features cannot be read. Pass the nn.Module that it was made of, with the "
            "same weights (model.load_state_dict(script.state_dict()))."
        )
    if isinstance(model, ExportedProgram) or _is_flat_graph(model):
        raise HeadError(
            "the model is an exported program (torch.export): it is one flat graph, and its features cannot be read. "
            "Pass the nn.Module that it was made of, with the same weights."
        )
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrapped(model.module)
    if _is_compiled(model):
        return unwrapped(cast(Any, model)._orig_mod)
    if not isinstance(model, nn.Module):
        raise HeadError(f"model must be a torch.nn.Module; got {type(model).__name__}.")
    return model


@contextmanager
def uncompiled(model: nn.Module) -> Iterator[None]:
    """Run what is compiled inside `model` as it was written, for only that can be listened to.

    Examples
    --------
    >>> with uncompiled(nn.Linear(2, 2)):
    ...     pass
    """
    global _users, _before
    if not any(_is_compiled(m) or m._compiled_call_impl is not None for m in model.modules()):
        yield
        return
    # how compiled code is run is set for the whole process: the last pass out of several restores it
    with _lock:
        if _users == 0:
            _before = torch.compiler.set_stance("force_eager")
            _before.__enter__()
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _before.__exit__(None, None, None)


def _is_compiled(model: object) -> bool:
    return type(model).__name__ == "OptimizedModule" and hasattr(model, "_orig_mod")


def _is_flat_graph(model: object) -> bool:
    if not isinstance(model, torch.fx.GraphModule):
        return False
    called = [str(node.target) for node in model.graph.nodes if node.op == "call_module"]
    layers = any(next(model.get_submodule(name).parameters(), None) is not None for name in called)
    return not layers and next(model.parameters(), None) is not None
