"""Divide a loader among processes in whole batches, so that every batch is the same as in a single process.

A matrix product may round differently in a batch of another size. With the same batches, features are the same to the
last bit however many processes computed them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sized
from typing import Any, Protocol, runtime_checkable

from torch.utils.data import DataLoader, IterableDataset, SequentialSampler

from oodline.data import ImageLoader, TextLoader
from oodline.data.batch import Batch, unpack
from oodline.errors import InputError
from oodline.statistics import Seen


@runtime_checkable
class Divisible(Protocol):
    """A loader that divides itself, such as `oodline.data.ImageLoader`."""

    def part(self, i: int, n: int) -> Iterable[Any]:
        """The i-th of `n` shares; it yields `Batch`, with the position of each sample in the whole."""
        ...


def bounds(total: int, i: int, n: int) -> tuple[int, int]:
    """First and last but one of `total` batches that the i-th of `n` shares holds; earlier shares are the larger ones.

    Examples
    --------
    >>> [bounds(5, i, 3) for i in range(3)]
    [(0, 2), (2, 4), (4, 5)]
    """
    return math.ceil(i * total / n), math.ceil((i + 1) * total / n)


def shard(loader: Iterable[Any], i: int, n: int) -> Iterable[Any]:
    """The i-th of `n` shares of a loader.

    Parameters
    ----------
    loader : iterable
        One that has `part(i, n)` divides itself. A torch `DataLoader` that reads a data set in order is cut into runs
        of batches. Of anything else the share is every n-th batch, and all batches are read to find them.

    Raises
    ------
    InputError
        The loader shuffles, or is already divided, so that shares would overlap.

    Examples
    --------
    >>> import torch
    >>> [batch.index.tolist() for batch in shard([torch.ones(2, 3), torch.ones(1, 3), torch.ones(2, 3)], 0, 2)]
    [[0, 1], [3, 4]]
    """
    if isinstance(loader, Divisible):
        return loader.part(i, n)
    if not isinstance(loader, DataLoader):
        return _EveryNth(loader, i, n)
    if isinstance(loader.dataset, IterableDataset):
        return _EveryNth(loader, i, n)
    if not isinstance(loader.sampler, SequentialSampler):
        raise InputError(
            f"a loader with a {type(loader.sampler).__name__} cannot be divided: its order, or its share, differs from "
            "process to process. Pass DataLoader(dataset, shuffle=False) over the whole data set."
        )
    if loader.batch_size is None:
        return _EveryNth(loader, i, n)
    return _Run(loader, *bounds(len(loader), i, n))


def count_by_position(loader: Iterable[Any]) -> int:
    """How many batches a loader has whose shares can be read without the others.

    Raises
    ------
    InputError
        It has no length, or every share would have to read all of it.
    """
    if not isinstance(loader, Sized) or isinstance(shard(loader, 0, 1), _EveryNth):
        raise InputError(
            "the workers of this engine read by position, and this loader has none. Pass an oodline.data.image_loader, "
            "or DataLoader(dataset, shuffle=False)."
        )
    return len(loader)


def note_skipped(loader: Iterable[Any], seen: Seen) -> None:
    """Tell a loader of images or texts, whose shares were read elsewhere, which samples none of them gave."""
    if isinstance(loader, ImageLoader | TextLoader):
        last = max(loader.rows, default=-1) + 1
        read = set(loader.rows)
        loader.skipped = [loader.source.name(i) for i in seen.missing(last) if i in read]


class _EveryNth:
    def __init__(self, loader: Iterable[Any], i: int, n: int) -> None:
        self.loader, self.i, self.n = loader, i, n

    def __iter__(self) -> Iterator[Batch]:
        total = 0
        for number, batch in enumerate(self.loader):
            inputs, labels, index = unpack(batch, total)
            total += len(index)
            if number % self.n == self.i:
                yield Batch(inputs, labels, index)


class _Run:
    """Batches `first` to `end` of a DataLoader that reads in order."""

    def __init__(self, loader: DataLoader[Any], first: int, end: int) -> None:
        assert loader.batch_size is not None and isinstance(loader.dataset, Sized)
        self.start, self.size = first * loader.batch_size, loader.batch_size
        stop = min(end * self.size, len(loader.dataset))
        starts = range(self.start, stop, self.size)
        self.loader: DataLoader[Any] = DataLoader(
            loader.dataset,
            batch_sampler=[range(k, min(k + self.size, stop)) for k in starts],  # type: ignore[misc]
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
        )

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        for number, batch in enumerate(self.loader):
            yield Batch(*unpack(batch, self.start + number * self.size))
