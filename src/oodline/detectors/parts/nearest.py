"""The k-th nearest of a bank of unit vectors: exactly and in parts by torch, exactly or nearly by faiss.

On the sphere the nearest have the largest product. What is found is a place in the bank and no distance: the detector
measures it itself, without the cancellation of `2 - 2 ab`.
"""

from __future__ import annotations

import warnings
from types import ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from oodline.errors import missing_extra

BLOCK = 2**16
"""Rows of the bank whose products with a batch are held at a time: 16 MiB in single precision for a batch of 64."""

CANDIDATES = 4, 100
"""Candidates that are ranked exactly after a search among codes: this multiple of k, and at least this number."""

CODES = 256
"""At most this many codes of four bits stand for a vector."""


def kth_nearest(points: Float[Tensor, "n d"], bank: Float[Tensor, "b d"], k: int) -> Int[Tensor, " n"]:
    """Place in the bank of the vector with the k-th largest product (N,), by comparing with all.

    Examples
    --------
    >>> kth_nearest(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0]]), k=2)
    tensor([1])
    """
    values, places = [], []
    for start in range(0, len(bank), BLOCK):
        block = bank[start : start + BLOCK]
        best = (points @ block.T).topk(min(k, len(block)), dim=1)
        values.append(best.values)
        places.append(best.indices + start)
    last = torch.cat(values, dim=1).topk(k, dim=1).indices[:, -1:]
    return torch.cat(places, dim=1).gather(1, last).squeeze(1)


def kth_by_faiss(points: Float[Tensor, "n d"], bank: Float[Tensor, "b d"], k: int) -> Int[Tensor, " n"]:
    """As `kth_nearest`, by faiss, which reads the bank where it lies.

    Raises
    ------
    MissingExtraError
        faiss is not installed.
    """
    faiss = load_faiss()
    _, places = faiss.knn(_array(points), _array(bank), k, metric=faiss.METRIC_INNER_PRODUCT)
    return torch.from_numpy(places[:, -1]).to(points.device)


class Codes:
    """A bank as product-quantised codes of four bits, an eighth of its size or less, searched by faiss.

    Built from the bank whenever it is needed, never stored.

    Parameters
    ----------
    bank : Tensor (B, D)
        Unit vectors, in random order: the first ones teach the codes.

    Raises
    ------
    MissingExtraError
        faiss is not installed.
    """

    def __init__(self, bank: Float[Tensor, "b d"]) -> None:
        faiss = load_faiss()
        width = bank.shape[1]
        together = -(-width // CODES)  # numbers that share a code
        self._missing = -width % together
        codes = (width + self._missing) // together
        self._index: Any = faiss.IndexPQFastScan(codes * together, codes, 4, faiss.METRIC_INNER_PRODUCT)
        self._index.pq.cp.niter = 10
        self._index.pq.cp.max_points_per_centroid = 64
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)  # hundreds of small problems: threads would wait for each other
        try:
            self._index.train(self._padded(bank[:BLOCK]))
        finally:
            faiss.omp_set_num_threads(threads)
        for part in torch.split(bank, BLOCK):
            self._index.add(self._padded(part))

    def kth_nearest(self, points: Float[Tensor, "n d"], bank: Float[Tensor, "b d"], k: int) -> Int[Tensor, " n"]:
        """Place of the k-th among the candidates, which are those with the nearest codes, compared exactly (N,)."""
        times, least = CANDIDATES
        wide = min(max(times * k, least), len(bank))
        _, places = self._index.search(self._padded(points), wide)
        candidates = torch.from_numpy(places).to(points.device)
        # one point after the other: gathering for all at once would hold N times 4 k vectors
        found = [
            theirs[(bank.index_select(0, theirs) @ point).topk(k).indices[-1]]
            for point, theirs in zip(points, candidates, strict=True)
        ]
        return torch.stack(found)

    def _padded(self, vectors: Tensor) -> NDArray[np.float32]:
        return _array(pad(vectors, (0, self._missing)))


def load_faiss() -> ModuleType:
    """The module, imported when it is first needed.

    Raises
    ------
    MissingExtraError
        It is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the types that SWIG makes
        try:
            import faiss
        except ImportError as error:
            raise missing_extra("faiss-cpu", "faiss", "faiss indexes") from error
    module: ModuleType = faiss
    return module


def _array(vectors: Tensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = vectors.detach().to("cpu", torch.float32).contiguous().numpy()
    return found
