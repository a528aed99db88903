"""Rectifiers: methods that change features or weights and leave the score to another detector."""

from __future__ import annotations

import abc

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from oodline.detectors.base import Detector
from oodline.detectors.energy import Energy
from oodline.errors import SettingError
from oodline.model.activations import Activations, Needs


class Rectifier(Detector):
    """Base of the detectors that clip, prune, scale or mask, and then score by `scorer`.

    How activations are rectified and how the result is scored are independent: `ReAct(scorer=DICE(scorer=MSP()))`
    clips, then masks the head, then takes the softmax. Members are fitted on the activations as the classifier gives
    them, all in the same pass.

    Parameters
    ----------
    scorer : Detector, optional
        What scores the rectified activations; `Energy()`, as in the papers, by default.

    Examples
    --------
    >>> from oodline import ASHS, MSP
    >>> ASHS(scorer=MSP()).scorer.name
    'msp'
    """

    scorer: Detector

    def __init__(self, scorer: Detector | None = None) -> None:
        super().__init__()
        self.scorer = scorer if scorer is not None else Energy()
        self.is_log = self.scorer.is_log
        self.is_log_probability = self.scorer.is_log_probability

    @abc.abstractmethod
    def rectify(self, activations: Activations) -> Activations:
        """Activations with changed features, logits or both."""

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Score of the rectified activations (N,)."""
        scores: Tensor = self.scorer(self.rectify(activations))
        return scores


def check_scorer_reads_logits(rectifier: Rectifier) -> None:
    """Raise `SettingError` where the scorer would compute logits anew, without the weights that were masked."""
    if rectifier.scorer.all_needs != Needs.LOGITS:
        raise SettingError(
            f"{type(rectifier).__name__} masks weights, so its scorer must read the logits that are left and nothing "
            f"else; {type(rectifier.scorer).__name__} reads more. Try energy, msp or max-logit."
        )


def percentile(values: NDArray[np.float64], fraction: float) -> float:
    """The percentile that the papers' code takes: linear interpolation, over all entries."""
    return float(np.quantile(values, fraction))
