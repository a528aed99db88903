"""A sketch of the samples seen, to estimate how much of other data was among them.

Bottom-k sketch (Cohen and Kaplan, PODC 2007): a sample's features are hashed to 64 bits, and the k lowest hashes are
kept. A sample whose hash is at most the largest of these is in the sketch if and only if it was seen, so the fraction
of such samples that is in the sketch estimates the fraction of all.
"""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from oodline._util.hashing import splitmix64
from oodline.errors import SettingError
from oodline.model.activations import Activations
from oodline.statistics.base import Statistic

SIZE = 1024
"""Hashes kept, unless told otherwise: 8 kB."""

STEPS = 100_000
"""Rounding steps, shared among the features of a sample: coarse enough that a pass in batches of another size, which
changes features by a millionth of themselves, gives nine of ten samples the same hash, or more."""


class ContentSketch(Statistic):
    """The `size` lowest hashes of the features of all samples, each once, in ascending order (S,), int64.

    Parameters
    ----------
    size : int
        How many hashes to keep at most, 8 bytes each.

    Examples
    --------
    >>> from oodline.testing import activations_of
    >>> sketch, f = ContentSketch(), torch.randn(100, 8)
    >>> sketch.update(activations_of(f[:50]), None)
    >>> found = was_seen(sketch.hashes, content_hash(f))
    >>> int(found.sum()), len(found)
    (50, 100)
    """

    tensors: ClassVar = ("hashes",)
    rows_may_differ: ClassVar = True

    def __init__(self, size: int = SIZE) -> None:
        if size < 1:
            raise SettingError(f"a sketch keeps at least one hash; size={size} does not.")
        self.size = size
        self.hashes: Int[Tensor, " s"] = None  # type: ignore[assignment]

    @property
    def key(self) -> tuple[object, ...]:
        """The class and its size."""
        return (type(self).__name__, self.size)

    def update(self, activations: Activations, labels: Tensor | None) -> None:
        """Take in one batch; labels are not used."""
        self._keep(content_of(activations))

    def _absorb(self, other: Self) -> None:
        self._keep(other.hashes)

    def _keep(self, hashes: Tensor) -> None:
        if self.hashes is not None:
            if len(self.hashes) == self.size:
                hashes = hashes[hashes < self.hashes[-1]]
            hashes = torch.cat([self.hashes, hashes])
        self.hashes = torch.unique(hashes)[: self.size]


def content_hash(features: Float[Tensor, "n d"]) -> Int[Tensor, " n"]:
    """A 64-bit hash of each row, rounded (N,), int64, on the CPU: equal for equal content, whatever its position.

    Examples
    --------
    >>> f = torch.tensor([[1.0, 2.0], [3.0, 1.0], [1.0, 2.0]])
    >>> h = content_hash(f)
    >>> bool(h[0] == h[2]), bool(h[0] == h[1])
    (True, False)
    """
    steps = max(STEPS // features.shape[1], 16)
    features = features.cpu()
    tiny = torch.finfo(features.dtype).tiny
    largest = torch.maximum(features.amax(1, keepdim=True), -features.amin(1, keepdim=True)).clamp_(min=tiny)
    units = (features / largest).mul_(steps).round_()
    size = (largest.log2() * (steps / 64)).round()
    odd = splitmix64(np.arange(features.shape[1] + 1, dtype=np.uint64)) | np.uint64(1)
    sums = _products(units, odd[:-1]) + _products(size, odd[-1:])
    return torch.from_numpy(splitmix64(sums).view(np.int64))


def _products(units: Float[Tensor, "n k"], odd: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Each row of whole numbers times the factors, modulo 2^64 (N,): one product for each part of the factors' bits.

    A part is so short that no sum reaches 2^53, up to which double precision is exact.
    """
    bits = np.uint64(32 if len(odd) < 2**16 else 16)
    shifts = np.arange(0, 64, int(bits), dtype=np.uint64)
    parts = (odd >> shifts[:, None]) & ((np.uint64(1) << bits) - np.uint64(1))
    sums = (torch.from_numpy(parts.astype(np.float64)) @ units.double().T).long().numpy().view(np.uint64)
    found: NDArray[np.uint64] = (sums << shifts[:, None]).sum(0, dtype=np.uint64)
    return found


def content_of(activations: Activations) -> Int[Tensor, " g"]:
    """The hash of each input (G,); of one with several rows, such as pixels, that of their mean."""
    return content_hash(activations.features if activations.places is None else activations.places.means)


def was_seen(sketch: Int[Tensor, " s"], hashes: Int[Tensor, " n"], size: int = SIZE) -> Bool[Tensor, " m"]:
    """Whether each sample that the sketch can speak of was among those it was made of (M,), M <= N.

    Parameters
    ----------
    sketch : Tensor (S,), int64
        Hashes of a `ContentSketch`, ascending.
    hashes : Tensor (N,), int64
        `content_hash` of the samples in question.
    size : int
        The sketch's size: with fewer hashes it holds all that there were, and speaks of every sample.
    """
    if len(sketch) >= size:
        hashes = hashes[hashes <= sketch[-1]]
    return torch.isin(hashes, sketch)
