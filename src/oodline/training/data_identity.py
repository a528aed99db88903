"""`DataIdentity`: what a training was begun on, by content, so that it is not resumed on other data."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from oodline._util.digests import Digest, combine
from oodline.data.batch import KnownLoader, unpack
from oodline.errors import InputError
from oodline.training.shuffled import Shuffled

MOST = 100
"""Batches that are read where nobody has read them."""

UNTOLD = "not told: its batches differ whenever they are read"


class DataIdentity:
    """A loader, digested while it is read; read it within `torch.random.fork_rng`.

    A loader of oodline says itself what it holds. Of any other, the batches are digested, from one seed of torch, so
    that a shuffled `DataLoader` gives the same ones. Where even then its first batch is another one each time, as with
    random numbers of NumPy in the main process, the content cannot be told, and no difference is found.

    Parameters
    ----------
    loader : iterable
        Batches.
    seed : int
        Of torch, before the loader is read.

    Examples
    --------
    >>> def identity(value):
    ...     of = DataIdentity([torch.full((2, 3), value)])
    ...     return of.text()
    >>> identity(1.0) == identity(1.0) != identity(2.0)
    True
    """

    def __init__(self, loader: Iterable[Any], seed: int = 0) -> None:
        self.loader, self.seed = loader, seed
        self._stated = _stated(loader)
        self._first, self._whole = "", Digest()

    def __iter__(self) -> Iterator[Any]:
        torch.manual_seed(self.seed)
        for batch in self.loader:
            if self._stated is None:
                self._whole.add(content := _digest(batch))
                self._first = self._first or content
            yield batch

    def text(self) -> str:
        """The identity, of all that was read of it; reads at most `MOST` batches where nothing was."""
        if self._stated is not None:
            return self._stated
        if not self._first:
            deque(islice(self, MOST), 0)
        torch.manual_seed(self.seed)
        again = next((_digest(batch) for batch in self.loader), "")
        return self._whole.hex() if again == self._first else UNTOLD


def _stated(loader: Iterable[Any]) -> str | None:
    inner, how = (loader.loader, vars(loader)) if isinstance(loader, Shuffled) else (loader, {})
    if not isinstance(inner, KnownLoader):
        return None
    shuffled = sorted((name, value) for name, value in how.items() if name != "loader")
    try:
        return combine([sorted(inner.identity().items()), inner.batch_size, shuffled])
    except InputError:  # prepared by code of the user's own, which does not say what it does
        return None


def _digest(batch: Any) -> str:
    inputs, labels, _ = unpack(batch, 0)
    named = sorted(inputs.items()) if isinstance(inputs, Mapping) else [("", inputs)]
    whole = Digest()
    for name, value in (*named, ("labels", labels)):
        if isinstance(value, Tensor):
            whole.add(f"{name} {value.dtype} {tuple(value.shape)} ", value)
        else:
            whole.add(f"{name} {value!r} ")
    return whole.hex()
