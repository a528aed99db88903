"""Post-hoc out-of-distribution detection for trained PyTorch classifiers, led by LINe.

Names are imported when they are first used, so `import oodline` is quick and needs no optional package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from oodline._version import __version__

if TYPE_CHECKING:
    from oodline.activations import Activations, Needs
    from oodline.calibration import Calibration
    from oodline.classifier import Classifier
    from oodline.detectors.ash import ASHS
    from oodline.detectors.base import Detector, FewSamplesWarning, Paper
    from oodline.detectors.catalog import create_detector
    from oodline.detectors.dice import DICE
    from oodline.detectors.energy import Energy
    from oodline.detectors.kl_matching import KLMatching
    from oodline.detectors.knn import KNN
    from oodline.detectors.line import LINe
    from oodline.detectors.mahalanobis import Mahalanobis
    from oodline.detectors.max_logit import MaxLogit
    from oodline.detectors.msp import MSP
    from oodline.detectors.react import ReAct
    from oodline.detectors.rectifier import Rectifier
    from oodline.evaluation.evaluate import Table, evaluate
    from oodline.fitting import FitError, fit
    from oodline.guard import Guard, Verdict
    from oodline.head import LayeredHead, LinearHead
    from oodline.scoring import Scores, score

_HOMES = {
    "Activations": "activations",
    "Needs": "activations",
    "Classifier": "classifier",
    "ASHS": "detectors.ash",
    "Detector": "detectors.base",
    "FewSamplesWarning": "detectors.base",
    "Paper": "detectors.base",
    "create_detector": "detectors.catalog",
    "DICE": "detectors.dice",
    "Energy": "detectors.energy",
    "KLMatching": "detectors.kl_matching",
    "KNN": "detectors.knn",
    "LINe": "detectors.line",
    "Mahalanobis": "detectors.mahalanobis",
    "MaxLogit": "detectors.max_logit",
    "MSP": "detectors.msp",
    "ReAct": "detectors.react",
    "Rectifier": "detectors.rectifier",
    "Calibration": "calibration",
    "Table": "evaluation.evaluate",
    "evaluate": "evaluation.evaluate",
    "FitError": "fitting",
    "fit": "fitting",
    "Guard": "guard",
    "Verdict": "guard",
    "LayeredHead": "head",
    "LinearHead": "head",
    "Scores": "scoring",
    "score": "scoring",
}

__all__ = [
    "ASHS",
    "DICE",
    "KNN",
    "MSP",
    "Activations",
    "Calibration",
    "Classifier",
    "Detector",
    "Energy",
    "FewSamplesWarning",
    "FitError",
    "Guard",
    "KLMatching",
    "LINe",
    "LayeredHead",
    "LinearHead",
    "Mahalanobis",
    "MaxLogit",
    "Needs",
    "Paper",
    "ReAct",
    "Rectifier",
    "Scores",
    "Table",
    "Verdict",
    "__version__",
    "create_detector",
    "evaluate",
    "fit",
    "score",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'oodline' has no attribute '{name}'")
    return getattr(importlib.import_module(f"oodline.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
