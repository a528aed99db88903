"""Subsets of a data set: at given positions, evenly over classes, or sampled at random."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from oodline._util.digests import combine
from oodline.data.sources import Source

Sample = TypeVar("Sample")


class Subset(Generic[Sample]):
    """The samples of a source at these positions.

    Parameters
    ----------
    source : Source
        Whose images or texts.
    positions : sequence of int
        Which, in which order.
    """

    def __init__(self, source: Source[Sample], positions: Sequence[int]) -> None:
        self.source, self.positions = source, list(positions)
        self.class_names = source.class_names

    def __len__(self) -> int:
        return len(self.positions)

    def name(self, i: int) -> str:
        """As the source calls it."""
        return self.source.name(self.positions[i])

    def label(self, i: int) -> int | None:
        """As the source says."""
        return self.source.label(self.positions[i])

    def read(self, i: int) -> Sample:
        """As the source reads it."""
        return self.source.read(self.positions[i])

    def fingerprint(self) -> str:
        """Of the source's content and the positions."""
        return combine([self.source.fingerprint(), self.positions])


def evenly(labels: Sequence[int | None] | NDArray[np.integer[Any]], most: int) -> Sequence[int]:
    """Positions of at most `most` samples in ascending order: the first of each class, equally many where there are.

    Of fewer samples than classes each is of another class, evenly over them. Samples without label come last.

    Examples
    --------
    >>> evenly([0, 0, 0, 0, 1, 1, 2, None], 5), evenly([0, 0, 1, 1, 2, 2, 3, 3], 2), evenly([None] * 4, 2)
    ([0, 1, 4, 5, 6], [0, 4], range(0, 2))
    """
    if most >= len(labels):
        return range(len(labels))
    known = labels if isinstance(labels, np.ndarray) else np.array([-1 if v is None else v for v in labels])
    unlabelled = np.flatnonzero(known < 0)
    if most >= len(known) - len(unlabelled):
        chosen = np.concatenate([np.flatnonzero(known >= 0), unlabelled[: most - len(known) + len(unlabelled)]])
        return _as_range(np.sort(chosen).tolist())
    labelled = np.flatnonzero(known >= 0)
    _, classes, counts = np.unique(known[labelled], return_inverse=True, return_counts=True)
    each = most // len(counts)
    while np.minimum(counts, each + 1).sum() <= most:  # classes that have fewer leave more to the others
        each += 1
    quota = np.minimum(counts, each)
    rest, larger = most - int(quota.sum()), np.flatnonzero(counts > each)
    quota[larger[np.arange(rest) * len(larger) // max(rest, 1)]] += 1
    order = np.argsort(classes, kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    return _as_range(labelled[rank < quota[classes]].tolist())


def _as_range(positions: list[int]) -> Sequence[int]:
    return range(len(positions)) if positions[-1] == len(positions) - 1 else positions


def labels_of(source: Source[Any]) -> Sequence[int | None] | NDArray[np.integer[Any]]:
    """Labels of all samples, without a call for each where the source keeps them as an array."""
    known = getattr(source, "labels", None)
    return known if isinstance(known, np.ndarray) else [source.label(i) for i in range(len(source))]


def sample(source: Source[Sample], most: int, seed: int = 0) -> Subset[Sample]:
    """At most `most` samples, evenly spaced over the source and shuffled: of all classes also where they are sorted.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from PIL import Image
    >>> from oodline.data import open_images
    >>> with TemporaryDirectory() as folder:
    ...     for i in range(9):
    ...         Image.new("L", (1, 1)).save(f"{folder}/{i}.png")
    ...     sorted(sample(open_images(folder), 3).positions)
    [0, 3, 6]
    """
    size = min(most, len(source))
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed)).tolist()
    return Subset(source, [i * len(source) // size for i in order])
