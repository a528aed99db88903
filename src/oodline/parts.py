"""Held-out data in two parts, for two uses that must not see the same samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from oodline.batch import Batch, Inputs, unpack
from oodline.calibration import samples_needed
from oodline.classifier import Classifier
from oodline.errors import SettingError
from oodline.statistics.reservoir import splitmix64

ENOUGH = 100
"""Held-out samples of which a fifth says how a detector's scores are distributed."""


@dataclass(frozen=True, eq=False)
class Part:
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
            chosen = belongs(index.cpu(), self.fraction) == self.first
            if bool(chosen.any()):
                rows = torch.nonzero(chosen).flatten()
                yield Batch(
                    _take(inputs, rows), None if labels is None else labels[rows.to(labels.device)], index[rows]
                )


def split(loader: Iterable[Any], fraction: float = 0.2) -> tuple[Part, Part]:
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
    if not 0 < fraction < 1:
        raise SettingError(f"a fraction of the samples lies between 0 and 1; {fraction:g} does not.")
    return Part(loader, fraction, first=True), Part(loader, fraction, first=False)


@runtime_checkable
class Refers(Protocol):
    """A detector that compares with held-out ID data."""

    def refer(self, classifier: Classifier, loader: Iterable[Any], *, progress: bool = False) -> Any:
        """Compare with this data from now on."""
        ...


def refer(
    detectors: Iterable[object], classifier: Classifier, loader: Iterable[Any], *, progress: bool = False
) -> Iterable[Any]:
    """Give a fifth of held-out data to the detectors that compare with it, and return the rest, to calibrate on.

    Where no detector does, all of the data is left.

    Examples
    --------
    >>> from oodline import Fuse
    >>> from oodline.testing import toy_loader, toy_problem
    >>> classifier, loader = toy_problem()
    >>> rest = refer([Fuse().fit(classifier, loader)], classifier, [*toy_loader(seed=1), *toy_loader(seed=2)])
    >>> sum(len(batch.index) for batch in rest)
    101
    """
    able = [detector for detector in detectors if isinstance(detector, Refers)]
    if not able:
        return loader
    reference, rest = split(loader)
    for detector in able:
        detector.refer(classifier, reference, progress=progress)
    return rest


def can_spare(samples: int, false_alarm: float) -> bool:
    """Whether a fifth of so many held-out samples says something, and the rest can still promise a false-alarm rate.

    Examples
    --------
    >>> can_spare(100, 0.05), can_spare(100, 0.01)
    (True, False)
    """
    return samples >= max(ENOUGH, 2 * samples_needed(false_alarm))


def belongs(index: Int[Tensor, " n"], fraction: float) -> Bool[Tensor, " n"]:
    """Whether the samples of these positions (N,) are in the first part (N,)."""
    hashes = splitmix64(index.numpy().astype("uint64"))
    return torch.from_numpy(hashes < int(fraction * 2**64))


def _take(inputs: Inputs, rows: Int[Tensor, " m"]) -> Inputs:
    if isinstance(inputs, Tensor):
        return inputs[rows.to(inputs.device)]
    assert isinstance(inputs, Mapping)
    return {key: value[rows.to(value.device)] if isinstance(value, Tensor) else value for key, value in inputs.items()}
