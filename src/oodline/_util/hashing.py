"""Hashes of positions: what is chosen by them depends on no order, batch or worker."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Int
from numpy.typing import NDArray
from torch import Tensor

_SALT = np.uint64(0x5851F42D4C957F2D)


def splitmix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): a bijection, so two numbers never share a hash."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def hashed_share(index: Int[Tensor, " n"], share: float) -> Bool[Tensor, " n"]:
    """Whether each position (N,) is among a share of all that a hash chooses, (N,).

    Examples
    --------
    >>> hashed_share(torch.arange(8), 1.0).all(), int(hashed_share(torch.arange(10_000), 0.05).sum())
    (tensor(True), 486)
    """
    if share >= 1:
        return torch.ones(len(index), dtype=torch.bool)
    # another hash than the one that splits data sets and keeps samples of them
    return torch.from_numpy(splitmix64(index.cpu().numpy().astype("uint64") ^ _SALT) < int(share * 2**64))
