"""ReAct: clip unusually large activations (Sun, Guo and Li, NeurIPS 2021, Eq. 2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from oodline.activations import Activations, Needs
from oodline.detectors.base import Detector, Paper
from oodline.detectors.rectifier import Rectifier
from oodline.errors import SettingError
from oodline.head import Head
from oodline.statistics import Quantiles, Statistic


class ReAct(Rectifier):
    """Features clipped from above at a quantile of all ID activations: `z = W min(f, c) + b`, scored by energy.

    Higher = more in-distribution; units of the logits.

    Parameters
    ----------
    quantile : float
        In [0, 1]; the fraction of all training activations (every feature of every sample) below the clipping value c.
        The paper's 0.9.
    scorer : Detector, optional
        Scores the clipped activations; energy by default.

    Notes
    -----
    The quantile comes from a mergeable count with a relative error of at most 0.05 %
    (`oodline.statistics.quantiles.RELATIVE_ERROR`).

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> react = ReAct().fit(classifier, loader)
    >>> bool((react.rectify(classifier(loader[0][0])).features <= react.clip).all())
    True
    """

    name: ClassVar = "react"
    needs: ClassVar = Needs.FEATURES | Needs.HEAD
    paper: ClassVar = Paper(
        "ReAct: Out-of-distribution Detection With Rectified Activations", "NeurIPS 2021", "2111.12797"
    )
    fitted_buffers: ClassVar = ("clip",)
    clip: Tensor

    def __init__(self, *, quantile: float = 0.9, scorer: Detector | None = None) -> None:
        super().__init__(scorer)
        if not 0 <= quantile <= 1:
            raise SettingError(f"ReAct needs a quantile in [0, 1]; {quantile} is not.")
        self.quantile = quantile

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """Quantiles of all features."""
        return {"activations": Quantiles()}

    def estimate(self, statistics: Mapping[str, Any], head: Head) -> None:
        """Read the clipping value off the quantiles."""
        self.clip = torch.tensor(statistics["activations"].quantile(self.quantile))

    def rectify(self, activations: Activations) -> Activations:
        """Clip the features and recompute the logits."""
        features = activations.features.minimum(self.clip)
        return activations.replace(features=features, logits=activations.head(features))
