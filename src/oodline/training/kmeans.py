"""k-means in torch: Lloyd's algorithm after k-means++, the best of several starts."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from oodline._util.checked import checked
from oodline._util.ranges import Count
from oodline.errors import InputError

ROWS = 4096
"""Rows whose distances are held at once."""


@checked
def kmeans(points: Tensor, clusters: Count, *, starts: Count = 3, iterations: Count = 50) -> Int[Tensor, " n"]:
    """Cluster of each point (N,), from 0.

    Parameters
    ----------
    points : Tensor (N, D)
        What to cluster, by Euclidean distance.
    clusters : int
        How many, at most N.
    starts : int
        Runs from different first centres, of which the one with the smallest sum of squared distances counts.
    iterations : int
        At most, in each run; it ends before where no point changes its cluster.

    Raises
    ------
    InputError
        There are fewer points than clusters.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> found = kmeans(torch.tensor([[0.0], [9.0], [0.1], [9.1]]), 2)
    >>> bool(found[0] == found[2]), bool(found[1] == found[3]), bool(found[0] == found[1])
    (True, True, False)
    """
    if points.ndim != 2 or len(points) < clusters:
        raise InputError(f"{clusters} clusters need as many points, (N, D); got shape {tuple(points.shape)}.")
    points = points.detach().float()
    best, best_cost = torch.zeros(len(points), dtype=torch.int64, device=points.device), torch.inf
    for _ in range(starts):
        centres = _first_centres(points, clusters)
        assigned, squares = _nearest(points, centres)
        for _ in range(iterations):
            centres = _means(points, assigned, squares, clusters)
            before, (assigned, squares) = assigned, _nearest(points, centres)
            if torch.equal(before, assigned):
                break
        if (cost := float(squares.sum())) < best_cost:
            best, best_cost = assigned, cost
    return best


def _first_centres(points: Float[Tensor, "n d"], clusters: int) -> Float[Tensor, "k d"]:
    # k-means++: each next centre with a probability that grows with its squared distance from those before
    chosen = [int(torch.randint(len(points), (1,)))]
    squares = (points - points[chosen[0]]).square().sum(1)
    for _ in range(clusters - 1):
        weights = squares if bool(squares.sum() > 0) else torch.ones_like(squares)
        chosen.append(int(torch.multinomial(weights.cpu(), 1)))
        squares = torch.minimum(squares, (points - points[chosen[-1]]).square().sum(1))
    return points[chosen]


def _nearest(points: Float[Tensor, "n d"], centres: Float[Tensor, "k d"]) -> tuple[Tensor, Tensor]:
    found = [torch.cdist(rows, centres).min(1) for rows in torch.split(points, ROWS)]
    return torch.cat([f.indices for f in found]), torch.cat([f.values for f in found]).square()


def _means(points: Float[Tensor, "n d"], assigned: Tensor, squares: Tensor, clusters: int) -> Float[Tensor, "k d"]:
    count = torch.bincount(assigned, minlength=clusters)
    sums = points.new_zeros(clusters, points.shape[1]).index_add_(0, assigned, points)
    centres = sums / count.clamp(min=1).unsqueeze(1)
    if empty := int((count == 0).sum()):  # an empty cluster takes over one of the points that fit worst
        centres[count == 0] = points[squares.topk(empty).indices]
    return centres
