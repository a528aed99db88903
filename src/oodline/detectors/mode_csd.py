"""MODE-CSD: nearest neighbours across scales of the feature map, the decision part of MODE (IEEE TIP 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, normalize

from oodline._util.ranges import Count
from oodline.detectors.assumptions import PerClass
from oodline.detectors.base import Detector
from oodline.detectors.fitted import Fitted
from oodline.detectors.paper import Paper
from oodline.detectors.parts.nearest import kth_nearest
from oodline.errors import InputError, SettingError
from oodline.model.activations import Activations, Needs
from oodline.model.head import Head
from oodline.statistics import Reservoir, Statistic

SCALES = 6


def views(feature_map: Float[Tensor, "n k h w"]) -> Float[Tensor, "n s k"]:
    """Six normalised vectors an image: the four quarters, the whole, and the centre."""
    height, width = feature_map.shape[2:]
    rows, columns = (slice(n // 4, max(3 * n // 4, n // 4 + 1)) for n in (height, width))
    quarters = adaptive_avg_pool2d(feature_map, 2).flatten(2)
    whole = feature_map.mean((2, 3)).unsqueeze(2)
    centre = feature_map[:, :, rows, columns].mean((2, 3)).unsqueeze(2)
    return normalize(torch.cat([quarters, whole, centre], dim=2).transpose(1, 2), dim=2)


@dataclass(frozen=True)
class Views:
    """The six views of the feature map, (N, 6 K)."""

    def __call__(self, activations: Activations, groups: Int[Tensor, " n"]) -> Float[Tensor, "n k"]:
        """One row per image."""
        return views(activations.require_feature_map()).flatten(1)


class ModeCSD(Detector):
    """Cross-scale decision: the smallest squared distance to a k-th neighbour, over six views of an image, negated.

    A view is a quarter, the whole or the centre of the feature map, averaged and normalised; neighbours are all views
    of the training images. Higher = more in-distribution. Range: [-4, 0], no unit.

    Parameters
    ----------
    k : int
        Which neighbour; 10 in the authors' code.
    bank : int
        At most this many training images are kept, six vectors each, chosen by a hash of their index. The authors keep
        all.

    Raises
    ------
    SettingError
        A setting is out of range.
    InputError
        Fewer than k views were seen.
    HeadError
        The classifier has no feature map, or it must be named.

    Examples
    --------
    >>> views(torch.ones(2, 3, 4, 4)).shape
    torch.Size([2, 6, 3])
    """

    name: ClassVar = "mode-csd"
    needs: ClassVar = Needs.FEATURE_MAP
    assumes: ClassVar = (PerClass(10, "a neighbour of its class"),)
    paper: ClassVar = Paper(
        "From Global to Local: Multi-scale Out-of-Distribution Detection", "IEEE TIP 2023", "2308.10239"
    )
    tunable: ClassVar = {"k": (1, 5, 10, 20, 50)}
    neighbours: Fitted[Float[Tensor, "N K"]]

    def __init__(self, *, k: Count = 10, bank: Count = 5_000) -> None:
        super().__init__()
        if k > SCALES * bank:
            raise SettingError(f"`k` must be at most {SCALES} times `bank`, {SCALES * bank}; got {k}.")
        self.k = k
        self.bank = bank

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """A sample of the views."""
        return {"bank": Reservoir(self.bank, Views())}

    def estimate(self, head: Head, bank: Reservoir) -> None:
        """Keep every view of the sample."""
        rows = bank.rows
        found = rows.reshape(len(rows) * SCALES, -1)
        if len(found) < self.k:
            raise InputError(
                f"MODE-CSD(k={self.k}) needs at least {self.k} views, {SCALES} an image; {len(found)} were seen."
            )
        self.neighbours = found.contiguous()

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Negative squared distance of the view that fits best (N,)."""
        queries = views(activations.require_feature_map())
        points = queries.flatten(0, 1)
        nearest = self.neighbours[kth_nearest(points, self.neighbours, self.k)]
        return -(points - nearest).square().sum(1).reshape(-1, SCALES).amin(1)
