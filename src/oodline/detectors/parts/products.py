"""The percentile of all products a[d] W[k, d], without forming them.

Each of the C classes of LINe has its own a, and the same W. With the columns of W sorted once, the number of products
up to t is D binary searches for t / a[d]. Bisecting t leaves a few thousand products between two bounds; those are
formed, and the percentile is read off them.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

SMALL = 2**17
"""Up to this number of products, sorting them all is as quick."""

FEW = 4096
"""So many products between the bounds are few enough to form."""

PER_COLUMN = 8
"""Products per column from which the first bounds are guessed."""

ASIDE = 0.005
"""How far from the guessed place the first bounds are, in shares of all products."""

STEPS = 60
"""Counts at most; what ties leave between the bounds then is formed, however many they are."""


def product_percentiles(a: NDArray[np.float64], columns: Float[Tensor, "d k"], fraction: float) -> NDArray[np.float64]:
    """For each row of `a`, the percentile over (k, d) of `a[d] * W[k, d]`, each product rounded to float64.

    Equal to `np.quantile(row * W, fraction)`, linear interpolation, to the last bit.

    Parameters
    ----------
    a : array (N, D), float64
        Not negative. Some dozens of rows at once: a column of W stays in the cache while all of them search it.
    columns : Tensor (D, K), float32
        The columns of W, each in ascending order: see `sorted_columns`.
    fraction : float
        In [0, 1).

    Returns
    -------
    array (N,), float64

    Examples
    --------
    >>> a, weight = np.array([[1.0, 2.0]]), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> product_percentiles(a, sorted_columns(weight), 0.5), np.quantile(a * weight.numpy(), 0.5)
    (array([3.5]), np.float64(3.5))
    """
    if columns.numel() <= SMALL:
        return np.array([_simply(row, columns, fraction) for row in a])
    place = (columns.numel() - 1) * fraction
    rank = math.floor(place)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        low, high = _bounds(a, columns, rank)
        # positions in the columns that surely hold all products between the bounds, whichever way t / a was rounded
        first = _positions(low, a, columns, -1)
        end = _positions(high, a, columns, +1)
    found = np.empty(len(a))
    for i in range(len(a)):
        two = _two(a[i], columns, first[i], end[i], rank, low[i], high[i])
        # on two neighbours in rank, NumPy interpolates as it does on all
        found[i] = _simply(a[i], columns, fraction) if two is None else np.quantile(two, place - rank)
    return found


def sorted_columns(weight: Float[Tensor, "k d"]) -> Float[Tensor, "d k"]:
    """The columns of W (K, D), each in ascending order."""
    return weight.T.contiguous().sort(dim=1).values


def _simply(a: NDArray[np.float64], columns: Tensor, fraction: float) -> float:
    return float(np.quantile(a[:, None] * columns.numpy(), fraction))


def _bounds(a: NDArray[np.float64], columns: Tensor, rank: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values between which few products lie, those of `rank` and of the next rank among them."""
    low = (a * columns[:, 0].numpy()).min(1)
    high = (a * columns[:, -1].numpy()).max(1)
    below, above = np.zeros(len(a), np.int64), np.full(len(a), columns.numel())
    open_ = above - below > FEW
    guesses = _guesses(a, columns, rank)
    for step in range(STEPS):
        if not open_.any():
            break
        middle = guesses[step] if step < len(guesses) else low + (high - low) * _share(below, above, rank, step)
        middle = np.where((low < middle) & (middle < high), middle, low + (high - low) / 2)
        count = _positions(middle, a, columns, 0).sum(1)
        raised, lowered = open_ & (count <= rank), open_ & (count >= rank + 2)
        low, below = np.where(raised, middle, low), np.where(raised, count, below)
        high, above = np.where(lowered, middle, high), np.where(lowered, count, above)
        open_ = (raised | lowered) & (above - below > FEW)
    return low, high


def _guesses(a: NDArray[np.float64], columns: Tensor, rank: int) -> NDArray[np.float64]:
    """Values that are likely a little below and a little above the one of this rank: of a few products per column."""
    places = ((np.arange(PER_COLUMN) + 0.5) * columns.shape[1] / PER_COLUMN).astype(np.int64)
    few = columns.numpy()[:, places]
    expected = rank / columns.numel() * few.size
    two = [int(min(max(expected + side * ASIDE * few.size, 0), few.size - 1)) for side in (-1, 1)]
    return np.stack([np.partition((row[:, None] * few).ravel(), two)[two] for row in a], axis=1)


def _share(below: NDArray[np.int64], above: NDArray[np.int64], rank: int, step: int) -> NDArray[np.float64] | float:
    """Where between the bounds to count next: a little to one side of where a straight line has `rank`, or halfway."""
    if step % 4 >= 2:
        between = (above - below).astype(np.float64)
        aside = np.maximum(FEW / 4, 0.05 * between) * (-1 if step % 4 == 2 else 1)
        share: NDArray[np.float64] = np.clip((rank - below + aside) / np.maximum(between, 1), 0.01, 0.99)
        return share
    return 0.5


def _positions(t: NDArray[np.float64], a: NDArray[np.float64], columns: Tensor, side: int) -> NDArray[np.int64]:
    """How many entries of each column, times `a`, are up to `t` (N, D).

    About as many (side 0); at most as many, so that those before are surely up to `t` (-1); or at least as many (+1).
    """
    t = t[:, None]
    quotient = np.where(a > 0, t / a, np.where(t > 0 if side < 0 else t >= 0, np.inf, -np.inf)).astype(np.float32)
    if side:
        quotient = np.where(a > 0, np.nextafter(quotient, np.float32(side * np.inf)), quotient)
    wanted = torch.from_numpy(quotient).T.contiguous()
    return torch.searchsorted(columns, wanted, right=side >= 0).T.numpy()


def _two(
    a: NDArray[np.float64],
    columns: Tensor,
    first: NDArray[np.int64],
    end: NDArray[np.int64],
    rank: int,
    low: float,
    high: float,
) -> NDArray[np.float64] | None:
    """The products of `rank` and of the next one; None where rounding kept them out of the bounds."""
    length = end - first
    zeros = int(length[a == 0].sum())
    length = np.where(a > 0, length, 0)
    d = np.repeat(np.arange(len(a)), length)
    k = np.arange(len(d)) - np.repeat(length.cumsum() - length - first, length)
    products = np.sort(a[d] * columns.numpy()[d, k])
    negative = int(np.searchsorted(products, 0.0))
    place = rank - int(first.sum())
    total = len(products) + zeros
    if not 0 <= place < total or (place + 1 == total and rank + 1 < columns.numel()):
        return None
    two = [
        0.0 if negative <= r < negative + zeros else products[r if r < negative else r - zeros]
        for r in (place, min(place + 1, total - 1))
    ]
    return np.array(two) if two[0] >= low and two[1] <= high else None
