"""The forward pass of a classifier as one compiled graph: from inputs to what is read of it, and the logits.

Hooks would break a compiled model into pieces. So the pass is first exported, with what the hooks hear as its outputs,
and that graph is compiled. What cannot be compiled runs as it is, with a warning.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from oodline._util.warning import warn

Pass = Callable[[Tensor], tuple[dict[str, Any], Tensor]]
"""From inputs to what the hooks heard, and the logits."""


class CompiledPasses:
    """Compiled passes by what they read.

    Parameters
    ----------
    backend : str
        Of `torch.compile`.

    Examples
    --------
    >>> linear = nn.Linear(2, 3)
    >>> passes = CompiledPasses("eager")
    >>> seen, logits = passes.run("all", linear, lambda x: ({"features": x}, linear(x)), torch.ones(4, 2))
    >>> list(seen), torch.equal(logits, linear(torch.ones(4, 2)))
    (['features'], True)
    """

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.failure = ""
        self._graphs: dict[Any, tuple[list[str], Callable[[Tensor], list[Tensor]]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_graphs": {}}  # another process compiles its own

    def run(self, key: Any, model: nn.Module, eager: Pass, inputs: Tensor) -> tuple[dict[str, Any], Tensor]:
        """Run a pass, compiled where it can be; `key` says what it reads."""
        if self.failure:
            return eager(inputs)
        try:
            if key not in self._graphs:
                self._graphs[key] = self._compiled(model, eager, inputs)
            names, graph = self._graphs[key]
            with torch.no_grad():
                *heard, logits = graph(inputs)
            return dict(zip(names, heard, strict=True)), logits
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # tracing and compiling fail in any way
            self.failure = " ".join(str(error).split())[:200] or type(error).__name__
            warn(f"{type(model).__name__} cannot be compiled, and runs as it is: {self.failure}")
            return eager(inputs)

    def _compiled(
        self, model: nn.Module, eager: Pass, inputs: Tensor
    ) -> tuple[list[str], Callable[[Tensor], list[Tensor]]]:
        names: list[str] = []

        def flat(inputs: Tensor) -> list[Tensor]:
            seen, logits = eager(inputs)
            heard = {name: value for name, value in seen.items() if isinstance(value, Tensor)}
            names[:] = heard
            return [*heard.values(), logits]

        size = {0: Dim.AUTO} if len(inputs) > 1 else {}  # of a batch of one, torch takes the size for fixed
        with torch.no_grad():
            program = torch.export.export(_Traced(model, flat), (inputs,), dynamic_shapes=(size,), strict=False)
        return names, torch.compile(program.module(), backend=self.backend)


class _Traced(nn.Module):
    """A function as a module that has the model's tensors, as `torch.export` wants it."""

    def __init__(self, model: nn.Module, run: Callable[[Tensor], list[Tensor]]) -> None:
        super().__init__()
        self.model, self.run = model, run

    def forward(self, inputs: Tensor) -> list[Tensor]:
        return self.run(inputs)
