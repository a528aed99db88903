"""Split held-out data in two: one part as reference scores of a detector, the other to calibrate on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.utils.data import DataLoader

from oodline._util.checked import checked
from oodline._util.hashing import splitmix64
from oodline._util.ranges import Rate
from oodline.data.batch import Batch, Inputs, Loader, unpack
from oodline.detectors.base import Detector
from oodline.errors import OodlineError
from oodline.model.classifier import Classifier
from oodline.scoring.calibration import samples_needed

ENOUGH = 100
"""Held-out samples of which a fifth says how a detector's scores are distributed."""


@dataclass(frozen=True, eq=False)
class SplitLoader:
    """The samples of a loader that belong to one of two parts; a loader in turn, read anew at each iteration.

    Parameters
    ----------
    loader : iterable
        Batches, in the same order each time, or saying the positions of their samples (`Batch.index`).
    fraction : float
        Of the samples that belong to the first part.
    first : bool
        Whether this is the first part.
    """

    loader: Iterable[Any]
    fraction: float
    first: bool

    def __iter__(self) -> Iterator[Batch]:
        """Batches of the samples of this part, with their positions in the whole."""
        total = 0
        for batch in self.loader:
            inputs, labels, index = unpack(batch, total)
            total += len(index)
            if len(rows := self.rows_of(index)):
                yield Batch(
                    _take(inputs, rows), None if labels is None else labels[rows.to(labels.device)], index[rows]
                )

    def rows_of(self, index: Int[Tensor, " n"]) -> Int[Tensor, " m"]:
        """Which of the samples at these positions (N,) belong to this part (M,)."""
        return torch.nonzero(belongs(index.cpu(), self.fraction) == self.first).flatten()


@checked
def split(loader: Loader, fraction: Rate = 0.2) -> tuple[SplitLoader, SplitLoader]:
    """Two loaders that share the samples of one: the first gets about this fraction of them, the second the others.

    Which part a sample goes to is a hash of its position, and has nothing to do with what it shows. So calibration on
    one part keeps its promise whatever is done with the other.

    Parameters
    ----------
    loader : iterable
        Batches, in the same order each time it is iterated, or `Batch` records that say the positions of their samples.
    fraction : float
        In (0, 1).

    Raises
    ------
    SettingError
        The fraction is outside (0, 1).

    Examples
    --------
    >>> from oodline.testing import toy_loader
    >>> reference, held_out = split(toy_loader(seed=1), 0.25)
    >>> [len(batch.index) for part in (reference, held_out) for batch in part]
    [11, 49]
    """
    return SplitLoader(loader, fraction, first=True), SplitLoader(loader, fraction, first=False)


@runtime_checkable
class UsesReference(Protocol):
    """A detector that compares with held-out ID data."""

    reference_is_given: bool
    """Whether somebody gave it the data that it compares with, so that nothing else may replace it."""

    def set_reference(self, classifier: Classifier, loader: Iterable[Any], *, progress: bool = False) -> Any:
        """Compare with this data from now on."""
        ...


def set_references(
    detectors: Mapping[str, Detector],
    classifier: Classifier,
    loader: Iterable[Any],
    false_alarm: float,
    *,
    failures: dict[str, OodlineError] | None = None,
    progress: bool = False,
) -> Iterable[Any]:
    """Give a fifth of held-out data to the detectors that compare with it, and return the rest, to calibrate on.

    Members of detectors are asked as well, the innermost first. All of the data is left where no detector compares,
    somebody has given each the data it compares with, the loader can be read only once, or the rest would be too few
    for the false-alarm rate. Where `failures` is given, a detector that cannot take its reference is noted there.

    Examples
    --------
    >>> from oodline import Fuse
    >>> from oodline.testing import toy_loader, toy_problem
    >>> classifier, loader = toy_problem()
    >>> held_out = [*toy_loader(seed=1), *toy_loader(seed=2)]
    >>> rest = set_references({"fuse": Fuse().fit(classifier, loader)}, classifier, held_out, 0.05)
    >>> sum(len(batch.index) for batch in rest)
    101
    """
    able = {name: [one for one in comparing(d) if not one.reference_is_given] for name, d in detectors.items()}
    if not any(able.values()) or isinstance(loader, Iterator):
        return loader
    count = count_samples(loader)
    if not can_spare(sum(len(unpack(batch, 0)[2]) for batch in loader) if count is None else count, false_alarm):
        return loader
    reference, rest = split(loader)
    for name, several in able.items():
        try:
            for each in several:
                each.set_reference(classifier, reference, progress=progress)
                each.reference_is_given = False
        except OodlineError as error:
            if failures is None:
                raise
            failures[name] = error
    return rest


def comparing(detector: Detector) -> list[UsesReference]:
    """Those of a detector, its members and theirs that compare with held-out data, the innermost first.

    Examples
    --------
    >>> from oodline import Fuse, PriorNormalised
    >>> outer = Fuse(["energy", PriorNormalised(scorer=Fuse("msp+energy"))])
    >>> [len(each.detectors) for each in comparing(outer)], comparing(outer)[1] is outer
    ([2, 2], True)
    """
    found = [each for _, member in detector.members for each in comparing(member)]
    return [*found, detector] if isinstance(detector, UsesReference) else found


def count_samples(loader: Iterable[Any]) -> int | None:
    """Number of samples of a loader, where that is known without reading them.

    Examples
    --------
    >>> from torch.utils.data import DataLoader
    >>> from oodline.testing import toy_loader
    >>> batches = toy_loader(seed=1)
    >>> [count_samples(loader) for loader in (batches, DataLoader(range(7), batch_size=2), iter(batches))]
    [60, 7, None]
    """
    known = getattr(loader, "num_samples", None)
    if isinstance(known, int):
        return known
    if isinstance(loader, DataLoader) and not loader.drop_last:
        sampler = loader.sampler if loader.batch_sampler is not None else None
        return len(sampler) if isinstance(sampler, Sized) else None
    return sum(len(unpack(batch, 0)[2]) for batch in loader) if isinstance(loader, list | tuple) else None


def can_spare(samples: int, false_alarm: float) -> bool:
    """Whether the held-out set is large enough to give 20 % to the reference and calibrate on the rest.

    Examples
    --------
    >>> can_spare(100, 0.05), can_spare(100, 0.01)
    (True, False)
    """
    return samples >= samples_to_spare(false_alarm)


def samples_to_spare(false_alarm: float) -> int:
    """Fewest held-out samples of which `can_spare` is true.

    Examples
    --------
    >>> [samples_to_spare(rate) for rate in (0.05, 0.01, 1e-9)]
    [100, 198, 1999999998]
    """
    return max(ENOUGH, 2 * samples_needed(false_alarm))


def belongs(index: Int[Tensor, " n"], fraction: float) -> Bool[Tensor, " n"]:
    """Whether the samples of these positions (N,) are in the first part (N,)."""
    hashes = splitmix64(index.numpy().astype("uint64"))
    return torch.from_numpy(hashes < int(fraction * 2**64))


def _take(inputs: Inputs, rows: Int[Tensor, " m"]) -> Inputs:
    if isinstance(inputs, Tensor):
        return inputs[rows.to(inputs.device)]
    assert isinstance(inputs, Mapping)
    return {key: value[rows.to(value.device)] if isinstance(value, Tensor) else value for key, value in inputs.items()}
