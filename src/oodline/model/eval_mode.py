"""Put a model in evaluation mode for the duration of a pass, safely if several threads use the model."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


class _Modes:
    """Which modules of a model were in training mode before the first of several concurrent passes began."""

    def __init__(self) -> None:
        self.users = 0
        self.training: list[nn.Module] = []


_modes: weakref.WeakKeyDictionary[nn.Module, _Modes] = weakref.WeakKeyDictionary()
_modes_lock = threading.Lock()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put every module of `model` in evaluation mode, and back into the mode it had.

    Examples
    --------
    >>> model = nn.Dropout().train()
    >>> with evaluating(model):
    ...     model.training
    False
    >>> model.training
    True
    """
    # the first pass in switches to evaluation and the last one out restores, so that overlapping passes of several
    # threads neither run in training mode nor leave the model in evaluation mode
    with _modes_lock:
        modes = _modes.setdefault(model, _Modes())
        if modes.users == 0:
            modes.training = [m for m in model.modules() if m.training]
            for module in modes.training:
                module.training = False
        modes.users += 1
    try:
        yield
    finally:
        with _modes_lock:
            modes.users -= 1
            if modes.users == 0:
                for module in modes.training:
                    module.training = True
                modes.training = []
