"""Capture inputs and outputs of named modules with forward hooks, for the passes of one thread."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from oodline.errors import HeadError
from oodline.model.layers import LayerReading, layer_key


@contextmanager
def listening(
    model: nn.Module,
    *,
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    readings: Collection[LayerReading] = (),
    mask: Tensor | None = None,
) -> Iterator[dict[str, Any]]:
    """Fill a dictionary while the block runs the model; no hook outlives the block.

    Parameters
    ----------
    model : nn.Module
        What is run.
    inputs, outputs : mapping of str to str
        From a key of the dictionary to the name of the module whose first argument, or whose output, it is to hold.
    readings : collection of LayerReading
        What to make of outputs at once, each under its `layer_key`; the outputs themselves are not held.
    mask : Tensor (N, T), optional
        Which tokens are not padding, for the readings.

    Raises
    ------
    HeadError
        The model has no module of that name.

    Examples
    --------
    >>> import torch
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    >>> with listening(model, inputs={"before": "1"}, outputs={"after": "1"}) as heard:
    ...     _ = model(torch.ones(4, 2))
    >>> torch.equal(heard["before"].relu(), heard["after"])
    True
    """
    me = threading.get_ident()
    heard: dict[str, Any] = {}

    def record(key: str, value: Any) -> None:
        # another thread may be running the same model: its values are not ours
        if threading.get_ident() == me:
            heard[key] = value

    def before(key: str, name: str) -> Any:
        # torch may call the hook without keywords while another thread removes its own
        def hook(_m: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> None:
            record(key, _copy(args[0] if args else next(iter((kwargs or {"": None}).values()))))

        return submodule(model, name).register_forward_pre_hook(hook, with_kwargs=True)

    def after(key: str, name: str) -> Any:
        def hook(_m: nn.Module, _args: Any, out: Any) -> Any:
            record(key, out)
            return _copy(out)  # the model goes on with the copy

        return submodule(model, name).register_forward_hook(hook)

    def reduced(reading: LayerReading) -> Any:
        def hook(module: nn.Module, _args: Any, out: Any) -> None:
            record(layer_key(reading), reading.heard(out, module, mask))

        return submodule(model, reading.module).register_forward_hook(hook)

    with ExitStack() as stack:
        for reading in readings:  # first, so that each sees what the module returned
            stack.callback(reduced(reading).remove)
        for attach, names in ((before, inputs), (after, outputs)):
            for key, name in names.items():
                stack.callback(attach(key, name).remove)
        yield heard


def submodule(model: nn.Module, name: str) -> nn.Module:
    """The module of that name.

    Raises
    ------
    HeadError
        There is none; the message lists the last ones.
    """
    try:
        return model.get_submodule(name)
    except AttributeError:
        last = ", ".join(n for n, _ in list(model.named_modules())[-5:])
        raise HeadError(f"{type(model).__name__} has no module named '{name}'. Its last modules: {last}.") from None


def last_pooling(model: nn.Module) -> str | None:
    """Name of the last average pooling, by whose input a feature map is known; None where there is none."""
    pools = [n for n, m in model.named_modules() if isinstance(m, nn.AdaptiveAvgPool2d | nn.AvgPool2d)]
    return pools[-1] if pools else None


def _copy(value: Any) -> Any:
    # what follows in the model may work in place
    return value.clone() if isinstance(value, Tensor) else value
