"""Post-hoc out-of-distribution detection for trained PyTorch classifiers, led by LINe.

Names are imported when they are first used, so `import oodline` is quick and needs no optional package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from oodline._version import __version__
from oodline.detectors.catalog import CATALOG

if TYPE_CHECKING:
    from oodline.detectors.adascale import AdaSCALE
    from oodline.detectors.ash import ASHB, ASHP, ASHS, SCALE
    from oodline.detectors.base import Detector
    from oodline.detectors.bats import BATS
    from oodline.detectors.cadref import CADRef, CARef
    from oodline.detectors.catalog import create_detector
    from oodline.detectors.conjnorm import ConjNorm
    from oodline.detectors.ddcs import DDCS
    from oodline.detectors.default import default, default_detector
    from oodline.detectors.dice import DICE
    from oodline.detectors.energy import Energy
    from oodline.detectors.entropy import GEN, Entropy
    from oodline.detectors.experimental.fisher_gradnorm import FisherGradNorm
    from oodline.detectors.experimental.hact import HAct
    from oodline.detectors.experimental.sisom import SISOM
    from oodline.detectors.experimental.soft_line import SoftLINe
    from oodline.detectors.fdbd import FDBD
    from oodline.detectors.feature_norm import FeatureNorm, GradNorm
    from oodline.detectors.fitted import Fitted
    from oodline.detectors.fm_pls import FMPLS
    from oodline.detectors.from_function import from_function
    from oodline.detectors.fuse import Fuse, MemberLeftOutWarning
    from oodline.detectors.gmm import GMM
    from oodline.detectors.itp import ITP
    from oodline.detectors.kernel_pca import CoP, CoRP
    from oodline.detectors.kl_matching import KLMatching
    from oodline.detectors.knn import KNN
    from oodline.detectors.line import LINe
    from oodline.detectors.mahalanobis import Mahalanobis
    from oodline.detectors.max_logit import MaxLogit
    from oodline.detectors.mode_csd import ModeCSD
    from oodline.detectors.msp import MSP
    from oodline.detectors.nac import NAC
    from oodline.detectors.nap import NAP
    from oodline.detectors.nap_combined import NAPCombined
    from oodline.detectors.nci import NCI
    from oodline.detectors.neco import NECO
    from oodline.detectors.nnguide import NNGuide
    from oodline.detectors.odin import IODIN, ODIN
    from oodline.detectors.openmax import OpenMax
    from oodline.detectors.optfs import OptFS
    from oodline.detectors.paper import Paper
    from oodline.detectors.prior_normalised import PriorNormalised
    from oodline.detectors.rankfeat import RankFeat
    from oodline.detectors.react import ReAct
    from oodline.detectors.rectifier import Rectifier
    from oodline.detectors.registry import register
    from oodline.detectors.relative_mahalanobis import RelativeMahalanobis
    from oodline.detectors.she import SHE
    from oodline.detectors.temperature_scaling import TemperatureScaling
    from oodline.detectors.vim import Residual, ViM
    from oodline.detectors.vra import VRA
    from oodline.detectors.weiper import WeiPerKLD, WeiPerMSP
    from oodline.errors import FewSamplesWarning
    from oodline.evaluation.evaluate import evaluate
    from oodline.evaluation.table import Table
    from oodline.guard.explanation import Explanation
    from oodline.guard.fit_guards import FittedGuards, fit_guards
    from oodline.guard.guard import Guard
    from oodline.guard.neurons import Neurons
    from oodline.guard.verdict import Verdict
    from oodline.model.activations import Activations, Needs
    from oodline.model.classifier import Classifier
    from oodline.model.features import FeatureClassifier
    from oodline.model.fingerprint import OtherWeightsWarning
    from oodline.model.from_features import from_features
    from oodline.model.head import LayeredHead, LinearHead
    from oodline.model.zoo import load_model
    from oodline.passes.fit import fit
    from oodline.passes.fit_result import FitError, FitResult
    from oodline.passes.local import Local
    from oodline.passes.ray import Ray
    from oodline.passes.torchrun import Torchrun
    from oodline.preprocessing.preprocessing import Preprocessing
    from oodline.scoring.calibration import Calibration, ConstantScoresWarning
    from oodline.scoring.class_calibration import ClassCalibration
    from oodline.scoring.drift import DriftMonitor, DriftReport
    from oodline.scoring.false_discovery import benjamini_hochberg
    from oodline.scoring.score import Scores, score
    from oodline.scoring.seen_data import SeenDataWarning
    from oodline.scoring.split import split
    from oodline.tuning.candidates import Candidate
    from oodline.tuning.search import Tuned, tune

_HOMES = {
    "Activations": "oodline.model.activations",
    "Needs": "oodline.model.activations",
    "Classifier": "oodline.model.classifier",
    "Detector": "oodline.detectors.base",
    "FewSamplesWarning": "oodline.errors",
    "Paper": "oodline.detectors.paper",
    "create_detector": "oodline.detectors.catalog",
    "from_function": "oodline.detectors.from_function",
    "register": "oodline.detectors.registry",
    "Rectifier": "oodline.detectors.rectifier",
    "Calibration": "oodline.scoring.calibration",
    "ConstantScoresWarning": "oodline.scoring.calibration",
    "ClassCalibration": "oodline.scoring.class_calibration",
    "default": "oodline.detectors.default",
    "default_detector": "oodline.detectors.default",
    "DriftMonitor": "oodline.scoring.drift",
    "DriftReport": "oodline.scoring.drift",
    "Table": "oodline.evaluation.table",
    "Local": "oodline.passes.local",
    "Ray": "oodline.passes.ray",
    "Torchrun": "oodline.passes.torchrun",
    "evaluate": "oodline.evaluation.evaluate",
    "benjamini_hochberg": "oodline.scoring.false_discovery",
    "Explanation": "oodline.guard.explanation",
    "FitError": "oodline.passes.fit_result",
    "FitResult": "oodline.passes.fit_result",
    "Fitted": "oodline.detectors.fitted",
    "fit": "oodline.passes.fit",
    "Guard": "oodline.guard.guard",
    "MemberLeftOutWarning": "oodline.detectors.fuse",
    "FittedGuards": "oodline.guard.fit_guards",
    "fit_guards": "oodline.guard.fit_guards",
    "OtherWeightsWarning": "oodline.model.fingerprint",
    "Verdict": "oodline.guard.verdict",
    "FeatureClassifier": "oodline.model.features",
    "from_features": "oodline.model.from_features",
    "LayeredHead": "oodline.model.head",
    "LinearHead": "oodline.model.head",
    "SeenDataWarning": "oodline.scoring.seen_data",
    "Neurons": "oodline.guard.neurons",
    "Preprocessing": "oodline.preprocessing.preprocessing",
    "load_model": "oodline.model.zoo",
    "split": "oodline.scoring.split",
    "Scores": "oodline.scoring.score",
    "score": "oodline.scoring.score",
    "Candidate": "oodline.tuning.candidates",
    "Tuned": "oodline.tuning.search",
    "tune": "oodline.tuning.search",
}

_DETECTORS = {home.partition(":")[2]: home.partition(":")[0] for home in CATALOG.values()}

__all__ = [  # and every detector of the catalog
    "Activations",
    "Calibration",
    "Candidate",
    "ClassCalibration",
    "Classifier",
    "ConstantScoresWarning",
    "Detector",
    "DriftMonitor",
    "DriftReport",
    "Explanation",
    "FeatureClassifier",
    "FewSamplesWarning",
    "FitError",
    "FitResult",
    "Fitted",
    "FittedGuards",
    "Guard",
    "LayeredHead",
    "LinearHead",
    "Local",
    "MemberLeftOutWarning",
    "Needs",
    "Neurons",
    "OtherWeightsWarning",
    "Paper",
    "Preprocessing",
    "Ray",
    "Rectifier",
    "Scores",
    "SeenDataWarning",
    "Table",
    "Torchrun",
    "Tuned",
    "Verdict",
    "__version__",
    "benjamini_hochberg",
    "create_detector",
    "default",
    "default_detector",
    "evaluate",
    "fit",
    "fit_guards",
    "from_features",
    "from_function",
    "load_model",
    "register",
    "score",
    "split",
    "tune",
]
__all__ += sorted(_DETECTORS)


def __getattr__(name: str) -> Any:
    home = _DETECTORS.get(name) or _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'oodline' has no attribute '{name}'")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
