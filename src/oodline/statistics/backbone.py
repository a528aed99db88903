"""What a network's features are like, measured in the pass that fits detectors: which methods suit it depends on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch

from oodline.model.head import Head, LinearHead
from oodline.model.no_head import NoHead
from oodline.statistics.base import Statistic
from oodline.statistics.facts import Facts
from oodline.statistics.reservoir import Reservoir

SAMPLE = 300
"""Training samples of which the effective rank is taken."""

SIGNED = 0.01
"""Share of negative features above which features count as signed."""


@dataclass(frozen=True)
class Backbone:
    """What the features of a classifier were like on the data that detectors were fitted on.

    Parameters
    ----------
    features, classes, samples : int
        D, C (0 where there is no head) and N.
    per_class : float
        Median number of samples of a class, by prediction.
    zeros, negatives : float
        Shares of the features that are exactly zero, and below zero, in [0, 1].
    norm_spread : float
        Standard deviation of |f| over its mean.
    effective_rank : float
        `(sum l)^2 / sum l^2` over the eigenvalues l of the features' covariance, of at most 300 samples: how many
        directions carry the variance; at most 299.
    head : {"linear", "layers", "none"}
        Kind of head.

    Examples
    --------
    >>> import oodline as ol
    >>> from oodline.testing import toy_problem
    >>> backbone = ol.fit(ol.LINe(), *toy_problem()).backbone
    >>> backbone.kind, backbone.features, backbone.classes, backbone.per_class
    ('rectified', 16, 3, 20.0)
    """

    features: int
    classes: int
    samples: int
    per_class: float
    zeros: float
    negatives: float
    norm_spread: float
    effective_rank: float
    head: Literal["linear", "layers", "none"]

    @staticmethod
    def statistics() -> dict[str, Statistic]:
        """Empty statistics, which a pass fills, for `of`."""
        return {"facts": Facts(), "trial": Reservoir(SAMPLE)}

    @classmethod
    def of(cls, statistics: Mapping[Any, Statistic], head: Head) -> Self | None:
        """From the filled statistics; None where nothing was seen."""
        facts, trial = statistics.get("facts"), statistics.get("trial")
        if not isinstance(facts, Facts) or not isinstance(trial, Reservoir) or facts.empty or trial.empty:
            return None
        none = isinstance(head, NoHead)
        return cls(
            features=trial.rows.shape[1],
            classes=0 if none else head.num_classes,
            samples=facts.samples,
            per_class=float(facts.count.double().quantile(0.5)),
            zeros=facts.zeros,
            negatives=facts.negatives,
            norm_spread=facts.norm_spread,
            effective_rank=effective_rank(trial.rows),
            head="none" if none else "linear" if isinstance(head, LinearHead) else "layers",
        )

    @property
    def kind(self) -> Literal["rectified", "signed"]:
        """Whether features lie behind a ReLU or its like, or have either sign."""
        return "rectified" if self.negatives <= SIGNED else "signed"

    @property
    def few(self) -> bool:
        """Whether there are fewer samples than a covariance of the features needs, two for each."""
        return self.samples < 2 * self.features

    @property
    def summary(self) -> str:
        """All of it in one sentence."""
        share = f"{self.zeros:.0%} zero" if self.kind == "rectified" else f"{self.negatives:.0%} negative"
        heads = {"linear": "a linear head", "layers": "a head of several layers", "none": "no head"}
        classes = (
            f" of {self.classes} classes, each predicted of {self.per_class:g} samples (median)" if self.classes else ""
        )
        return (
            f"{self.features} {self.kind} features ({share}), effective rank {self.effective_rank:.0f}, length varies "
            f"by {self.norm_spread:.0%}; {heads[self.head]}{classes}"
        )


def effective_rank(features: torch.Tensor) -> float:
    """Participation ratio of the eigenvalues of the covariance of (N, D) features; 0 where they do not vary.

    Examples
    --------
    >>> effective_rank(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
    2.0
    """
    centred = features.double() - features.double().mean(0)
    gram = centred @ centred.T if len(centred) < centred.shape[1] else centred.T @ centred
    total = float(gram.diagonal().sum())
    return total**2 / float(gram.square().sum()) if total > 0 else 0.0
