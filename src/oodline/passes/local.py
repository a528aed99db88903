"""The local engine: one process runs the whole pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from oodline._util.progress import track
from oodline.model.classifier import Classifier
from oodline.passes.engine import Collector, Reads


class Local:
    """The engine of `fit` and `score` where none is named.

    Examples
    --------
    >>> import oodline as ol
    >>> from oodline.testing import toy_problem
    >>> line = ol.LINe()
    >>> _ = ol.fit([line], *toy_problem(), engine=ol.Local())
    >>> line.fitted
    True
    """

    is_main = True
    is_distributed = False

    def synchronised(self) -> AbstractContextManager[None]:
        """Nothing to wait for."""
        return nullcontext()

    def finish(self) -> None:
        """Nothing was kept."""

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
        """Make one pass; see `Engine.fill`."""
        batches = classifier.stream(loader, **wanted)
        for activations, labels in track(batches, task, loader, shown=progress):
            for collector in collectors:
                collector.update(activations, labels)
