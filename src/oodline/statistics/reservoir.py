"""A uniform random sample of fixed size: the k samples whose index has the lowest hash.

Which samples are kept depends on their indices alone, so one worker or many, in any order, keep the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from oodline._util.hashing import splitmix64
from oodline.errors import SettingError, StatisticsError
from oodline.model.activations import Activations
from oodline.statistics.base import Statistic
from oodline.statistics.sources import Features, Grouping, Source, group


@dataclass(frozen=True)
class _Sample:
    rows: Tensor
    index: Tensor
    groups: Tensor


class Reservoir(Statistic):
    """At most `size` samples of a source, in the order of their hash.

    Parameters
    ----------
    size : int
        How many samples to keep at most; while it fills, and when it is read, up to two and a half times as many are in
        memory.
    of : Source
        What to keep of each; features by default. Kept in float32.
    by : {"all", "label", "predicted"}
        Which group is remembered of each. If omitted, labels are not read.
    seed : int
        Another seed keeps another sample.

    Notes
    -----
    A sample is known by its index in the data set (`Activations.index`). A loader that shuffles and does not say the
    index is counted by position, and then another order keeps another, equally uniform, sample.

    Examples
    --------
    >>> from oodline.model.activations import Activations
    >>> from oodline.model.head import LinearHead
    >>> head = LinearHead(torch.eye(2), torch.zeros(2))
    >>> f = torch.randn(100, 2)
    >>> whole, left, right = Reservoir(5), Reservoir(5), Reservoir(5)
    >>> whole.update(Activations(f, f, head, torch.arange(100)), None)
    >>> left.update(Activations(f[:60], f[:60], head, torch.arange(60)), None)
    >>> right.update(Activations(f[60:], f[60:], head, torch.arange(60, 100)), None)
    >>> torch.equal(right.merge(left).rows, whole.rows)
    True
    """

    tensors: ClassVar = ("rows", "index", "groups")
    rows_may_differ: ClassVar = True

    def __init__(self, size: int, of: Source | None = None, by: Grouping = "all", *, seed: int = 0) -> None:
        if size < 1:
            raise SettingError(f"a reservoir keeps at least one sample; size={size} does not.")
        self.size = size
        self.of = of if of is not None else Features()
        self.by = by
        self.seed = seed
        self._kept: _Sample | None = None  # in no order
        self._pending: list[_Sample] = []

    @property
    def key(self) -> tuple[object, ...]:
        """The class, source, grouping, size and seed."""
        return (type(self).__name__, self.of, self.by, self.size, self.seed)

    @property
    def rows(self) -> Float[Tensor, "s k"]:
        """What was kept of each sample (S, K), S <= size, ordered by hash."""
        return self._sample("rows")

    @property
    def index(self) -> Int[Tensor, " s"]:
        """Index of each kept sample in its data set (S,)."""
        return self._sample("index")

    @property
    def groups(self) -> Int[Tensor, " s"]:
        """Group of each kept sample (S,), as `by` says."""
        return self._sample("groups")

    @property
    def empty(self) -> bool:
        """Whether nothing was taken in yet."""
        return self._kept is None and not self._pending

    def update(self, activations: Activations, labels: Tensor | None) -> None:
        """Take in one batch; see `Statistic.update`."""
        groups, _ = group(activations, labels, self.by)
        index = activations.index.cpu().long()
        chosen = torch.ones(len(index), dtype=torch.bool)
        if self._kept is not None and len(self._kept.index) == self.size:
            # nearly every sample after the first ones ends here: it hashes above all that are kept
            chosen = torch.from_numpy(self._hash(index) < self._largest)
            if not bool(chosen.any()):
                return
        rows = self.of(activations, groups)[chosen.to(activations.features.device)].to("cpu", torch.float32)
        self._pending.append(_Sample(rows, index[chosen], groups[chosen]))
        # settling only when a fixed fraction of what is kept is waiting makes the cost a row constant
        if sum(len(sample.index) for sample in self._pending) >= self.size / 4:
            self._settle()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore from `state_dict()`; see `Statistic.load_state_dict`."""
        self._check_names(state)
        self._kept, self._pending = None, []
        if state:
            self._pending = [_Sample(*(state[name].clone() for name in self.tensors))]
            self._settle()

    def _absorb(self, other: Self) -> None:
        both = torch.isin(other.index, self.index)
        if bool(both.any()):
            raise StatisticsError(
                f"cannot merge: sample {int(other.index[both][0])} is in both reservoirs, so a shard was counted twice."
            )
        self._pending.append(_Sample(other.rows, other.index, other.groups))
        self._settle()

    def _sample(self, name: str) -> Tensor:
        self._settle()
        if self._kept is None:
            raise StatisticsError("the reservoir is empty: nothing was taken in yet.")
        found: Tensor = getattr(self._kept, name)
        return found[torch.from_numpy(np.argsort(self._hash(self._kept.index)))]

    def _settle(self) -> None:
        if not self._pending:
            return
        new = _Sample(*(torch.cat([getattr(part, name) for part in self._pending]) for name in self.tensors))
        self._pending = []
        if self._kept is None and len(new.index) <= self.size:
            self._kept, self._largest = new, self._hash(new.index).max()
            return
        if self._kept is None:
            self._kept = _Sample(new.rows[:0], new.index[:0], new.groups[:0])
        old, before = self._kept, len(self._kept.index)
        hashes = self._hash(torch.cat([old.index, new.index]))
        lowest = np.argsort(hashes)[: self.size]
        self._largest = hashes[lowest[-1]]
        enter = torch.from_numpy(lowest[lowest >= before] - before)
        stays = torch.zeros(len(lowest), dtype=torch.bool)
        stays[lowest[lowest < before]] = True
        # those that stay keep their place: with wide rows, moving them would take as much memory again
        place = torch.nonzero(~stays).flatten()
        self._kept = _Sample(*(_put(getattr(old, k), place, getattr(new, k)[enter], len(lowest)) for k in self.tensors))

    def _hash(self, index: Tensor) -> NDArray[np.uint64]:
        return splitmix64(index.numpy().astype(np.uint64) + np.uint64(self.seed * 0x9E3779B97F4A7C15 % 2**64))


def _put(into: Tensor, place: Tensor, values: Tensor, length: int) -> Tensor:
    if len(into) < length:
        into = torch.cat([into, into.new_empty((length - len(into), *into.shape[1:]))])
    into[place] = values
    return into
