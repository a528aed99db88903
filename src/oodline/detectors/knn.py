"""Distance to the k-th nearest training sample (Sun et al., ICML 2022, Eq. 3), on normalised penultimate features."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from oodline._util.ranges import Count
from oodline.detectors.assumptions import Neighbours, TellsApart
from oodline.detectors.base import Detector
from oodline.detectors.fitted import Fitted
from oodline.detectors.paper import Paper, Preset
from oodline.detectors.parts.nearest import Codes, kth_by_faiss, kth_nearest, load_faiss
from oodline.errors import InputError, SettingError
from oodline.model.activations import Activations, Needs
from oodline.model.head import Head
from oodline.statistics import Reservoir, Statistic

CHUNK = 256
"""Vectors of the bank that are normalised at a time, in double precision: so few that they stay in the cache."""

LARGEST = 50
"""The largest k that is taken where none is given: the paper's for CIFAR-10."""

SMALL = 10_000
"""A bank of fewer vectors is searched exactly, whatever the index: codes would cost more than they save."""


class KNN(Detector):
    """Negative distance to the k-th nearest neighbour: `-|| f/|f| - f_(k)/|f_(k)| ||`. Higher = more in-distribution.

    Range: [-2, 0], no unit.

    Parameters
    ----------
    k : int, optional
        Which neighbour; the paper takes 50 on CIFAR-10, 200 on CIFAR-100 and 1000 on ImageNet. If omitted, a tenth of
        the bank's samples per class, at least 1 and at most 50, so that it can lie in the sample's own class.
    bank : int
        At most this many training samples are kept, chosen by a hash of their index (see `Reservoir`).
    index : {"exact", "faiss-flat", "faiss-pq"}
        How neighbours are found, in a bank on the CPU. "exact" compares with all by torch, "faiss-flat" by faiss.
        "faiss-pq" is for banks of hundreds of thousands: faiss looks among codes of four bits, and 4 k candidates, at
        least 100, are then compared exactly. The distance found is never too short. Below 10,000 samples it is exact.
        `benchmarks/studies/knn_faiss.py` measures all three; faiss is the extra `faiss`.

    Raises
    ------
    SettingError
        `k` is below 1 or above `bank`, or the index is not known.
    InputError
        Fewer than `k` samples were seen.
    MissingExtraError
        The index needs faiss, and it is not installed.

    Notes
    -----
    The state is the bank, whatever the index: faiss's own structures are built from it at the first score, and again
    after loading. `exact` holds the products of a batch with `nearest.BLOCK` vectors at a time.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> seen = KNN(k=1).fit(classifier, loader)(classifier(loader[0][0]))
    >>> bool(seen.min() > -1e-6)
    True
    """

    name: ClassVar = "knn"
    needs: ClassVar = Needs.FEATURES
    assumes: ClassVar = (Neighbours(), TellsApart())
    paper: ClassVar = Paper("Out-of-Distribution Detection with Deep Nearest Neighbors", "ICML 2022", "2204.06507")
    presets: ClassVar = {
        "cifar10": Preset({"k": 50}, "the paper's CIFAR-10 experiments"),
        "cifar100": Preset({"k": 200}, "the paper's CIFAR-100 experiments"),
        "imagenet": Preset({"k": 1000}, "the paper's ImageNet experiments"),
    }
    tunable: ClassVar = {"k": (1, 5, 10, 20, 50, 100, 200)}
    neighbours: Fitted[Float[Tensor, "N D"]]

    def __init__(
        self,
        *,
        k: Count | None = None,
        bank: Count = 50_000,
        index: Literal["exact", "faiss-flat", "faiss-pq"] = "exact",
    ) -> None:
        super().__init__()
        if k is not None and k > bank:
            raise SettingError(f"`k` must be at most `bank`, {bank}; got {k}.")
        if index != "exact":
            load_faiss()
        self.k = k
        self.bank = bank
        self.index = index
        self._codes: tuple[Tensor, Codes] | None = None

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """A sample of the features."""
        return {"bank": Reservoir(self.bank)}

    def estimate(self, head: Head, bank: Reservoir) -> None:
        """Normalise the bank."""
        rows = bank.rows  # a copy: the bank itself is read by others
        if self.k is not None and len(rows) < self.k:
            raise InputError(f"KNN(k={self.k}) needs at least {self.k} training samples; {len(rows)} were seen.")
        # in parts: the whole bank in double precision would be twice its size
        for part in torch.split(rows, CHUNK):
            part.copy_(normalize(part.double()))
        self.neighbours = rows

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Negative distance to the k-th neighbour (N,)."""
        points = normalize(activations.features)
        nearest = self._kth(points, self.neighbour(activations))
        distances: Tensor = torch.linalg.vector_norm(points - self.neighbours[nearest], dim=1)
        return -distances

    def neighbour(self, activations: Activations) -> int:
        """Which neighbour is taken: k, or what follows from the bank and the number of classes."""
        if self.k is not None:
            return self.k
        return max(1, min(LARGEST, len(self.neighbours) // max(1, activations.head.num_classes) // 10))

    def _kth(self, points: Float[Tensor, "n d"], k: int) -> Int[Tensor, " n"]:
        if self.index == "faiss-flat":
            return kth_by_faiss(points, self.neighbours, k)
        if self.index == "faiss-pq" and len(self.neighbours) >= SMALL:
            return self._built().kth_nearest(points, self.neighbours, k)
        return kth_nearest(points, self.neighbours, k)

    def _built(self) -> Codes:
        # fitting, loading and moving give another tensor; codes of the old one are of no use then
        if self._codes is None or self._codes[0] is not self.neighbours:
            self._codes = (self.neighbours, Codes(self.neighbours))
        return self._codes[1]

    def __getstate__(self) -> dict[str, Any]:
        # a copy, or the other end of a pipe, builds its own codes
        return {**self.__dict__, "_codes": None}
