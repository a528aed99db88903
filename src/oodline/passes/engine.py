"""The interface of an engine: fill empty collectors with every sample of a data set, each sample once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, Self, TypedDict

from torch import Tensor

from oodline.model.activations import Activations, Needs
from oodline.model.classifier import Classifier
from oodline.model.layers import Layer


class Collector(Protocol):
    """What a pass fills: a statistic, or scores."""

    @property
    def key(self) -> tuple[object, ...]:
        """What makes two collectors the same one."""
        ...

    def fresh(self) -> Self:
        """An empty collector of the same kind."""
        ...

    def update(self, activations: Activations, labels: Tensor | None) -> None:
        """Take in one batch."""
        ...

    def merge(self, other: Self) -> Self:
        """Take in all that `other`, filled from other samples, has seen."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors to send, by name."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore from `state_dict()`."""
        ...


class Reads(TypedDict):
    """The arguments of `Classifier.stream` that say what a pass must compute."""

    needs: Needs
    layers: tuple[Layer, ...]


class Engine(Protocol):
    """Makes passes over data."""

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that prints and writes what all of them made."""
        ...

    @property
    def is_distributed(self) -> bool:
        """Whether several processes see parts of the data, and write files of their own."""
        ...

    def synchronised(self) -> AbstractContextManager[None]:
        """Run a block in every process of the engine; where it fails in one, it fails in all."""
        ...

    def finish(self) -> None:
        """Leave nothing behind that was kept for a pass to be resumed: its result is in safety."""
        ...

    def fill(
        self,
        collectors: Sequence[Collector],
        classifier: Classifier,
        loader: Iterable[Any],
        wanted: Reads,
        *,
        task: str,
        progress: bool = False,
    ) -> None:
        """Make one pass; afterwards every process holds collectors filled with the whole data set.

        Parameters
        ----------
        collectors : sequence of Collector
            Empty.
        classifier : Classifier
            The frozen classifier, the same in every process.
        loader : iterable
            The whole data set, the same in every process.
        wanted : Reads
            What the pass must compute.
        task : str
            A word in front of the progress bar.
        progress : bool
            Show the bar, in the process that leads.

        Raises
        ------
        InputError
            The loader is empty.
        """
        ...
