"""Distance to the k-th nearest training sample (Sun et al., ICML 2022, Eq. 3), on normalised penultimate features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from oodline.activations import Activations, Needs
from oodline.detectors.base import Detector, Paper, Preset
from oodline.errors import InputError, SettingError
from oodline.head import Head
from oodline.statistics import Reservoir, Statistic


class KNN(Detector):
    """Negative distance to the k-th nearest neighbour: `-|| f/|f| - f_(k)/|f_(k)| ||`. Higher = more in-distribution.

    Range: [-2, 0], no unit.

    Parameters
    ----------
    k : int
        Which neighbour; the paper takes 50 on CIFAR-10, 200 on CIFAR-100 and 1000 on ImageNet.
    bank : int
        At most this many training samples are kept, chosen by a hash of their index (see `Reservoir`).

    Raises
    ------
    SettingError
        `k` is below 1 or above `bank`.
    InputError
        Fewer than `k` samples were seen.

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
    paper: ClassVar = Paper("Out-of-Distribution Detection with Deep Nearest Neighbors", "ICML 2022", "2204.06507")
    presets: ClassVar = {
        "cifar10": Preset({"k": 50}, "the paper's CIFAR-10 experiments"),
        "cifar100": Preset({"k": 200}, "the paper's CIFAR-100 experiments"),
        "imagenet": Preset({"k": 1000}, "the paper's ImageNet experiments"),
    }
    tunable: ClassVar = {"k": (1, 5, 10, 20, 50, 100, 200)}
    fitted_buffers: ClassVar = ("neighbours",)
    neighbours: Tensor

    def __init__(self, *, k: int = 50, bank: int = 50_000) -> None:
        super().__init__()
        if not 1 <= k <= bank:
            raise SettingError(f"KNN needs 1 <= k <= bank; k={k}, bank={bank}.")
        self.k = k
        self.bank = bank

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """A sample of the features."""
        return {"bank": Reservoir(self.bank)}

    def estimate(self, statistics: Mapping[str, Any], head: Head) -> None:
        """Normalise the bank."""
        rows: Tensor = statistics["bank"].rows
        if len(rows) < self.k:
            raise InputError(f"KNN(k={self.k}) needs at least {self.k} training samples; {len(rows)} were seen.")
        self.neighbours = normalize(rows.double()).to(rows.dtype)

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Negative distance to the k-th neighbour (N,)."""
        points = normalize(activations.features)
        # on the sphere the nearest are those with the largest product; the distance itself is taken without the
        # cancellation of 2 - 2 ab
        kth = (points @ self.neighbours.T).topk(self.k, dim=1).indices[:, -1]
        distances: Tensor = torch.linalg.vector_norm(points - self.neighbours[kth], dim=1)
        return -distances
