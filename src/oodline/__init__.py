"""Post-hoc out-of-distribution detection for trained PyTorch classifiers, led by LINe.

Names are imported when they are first used, so `import oodline` is quick and needs no optional package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from oodline._version import __version__
from oodline.detectors.catalog import CATALOG

if TYPE_CHECKING:
    from oodline.activations import Activations, Needs
    from oodline.calibration import Calibration, ConstantScoresWarning
    from oodline.class_calibration import ClassCalibration
    from oodline.classifier import Classifier
    from oodline.defaults import default
    from oodline.detectors.adascale import AdaSCALE
    from oodline.detectors.ash import ASHB, ASHP, ASHS, SCALE
    from oodline.detectors.base import Detector, FewSamplesWarning, Paper
    from oodline.detectors.bats import BATS
    from oodline.detectors.cadref import CADRef, CARef
    from oodline.detectors.catalog import create_detector
    from oodline.detectors.conjnorm import ConjNorm
    from oodline.detectors.ddcs import DDCS
    from oodline.detectors.dice import DICE
    from oodline.detectors.energy import Energy
    from oodline.detectors.entropy import GEN, Entropy
    from oodline.detectors.experimental.fisher_gradnorm import FisherGradNorm
    from oodline.detectors.experimental.hact import HAct
    from oodline.detectors.experimental.sisom import SISOM
    from oodline.detectors.experimental.soft_line import SoftLINe
    from oodline.detectors.fdbd import FDBD
    from oodline.detectors.feature_norm import FeatureNorm, GradNorm
    from oodline.detectors.fm_pls import FMPLS
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
    from oodline.detectors.prior_normalised import PriorNormalised
    from oodline.detectors.rankfeat import RankFeat
    from oodline.detectors.react import ReAct
    from oodline.detectors.rectifier import Rectifier
    from oodline.detectors.relative_mahalanobis import RelativeMahalanobis
    from oodline.detectors.she import SHE
    from oodline.detectors.temperature_scaling import TemperatureScaling
    from oodline.detectors.vim import Residual, ViM
    from oodline.detectors.vra import VRA
    from oodline.detectors.weiper import WeiPerKLD, WeiPerMSP
    from oodline.drift import DriftMonitor, DriftReport
    from oodline.engines.local import Local
    from oodline.engines.ray import Ray
    from oodline.engines.torchrun import Torchrun
    from oodline.evaluation.evaluate import evaluate
    from oodline.evaluation.table import Table
    from oodline.explanation import Explanation
    from oodline.false_discovery import benjamini_hochberg
    from oodline.fitting import FitError, fit
    from oodline.guard import Guard
    from oodline.guarding.fingerprint import OtherWeightsWarning
    from oodline.guarding.fit_guards import FittedGuards, fit_guards
    from oodline.guarding.verdict import Verdict
    from oodline.head import LayeredHead, LinearHead
    from oodline.held_out import SeenDataWarning
    from oodline.model.features import FeatureClassifier
    from oodline.model.from_features import from_features
    from oodline.model.preprocessing import Preprocessing
    from oodline.neurons import Neurons
    from oodline.parts import split
    from oodline.scoring import Scores, score
    from oodline.tuning.candidates import Candidate
    from oodline.tuning.search import Tuned, tune
    from oodline.zoo import load_model

_HOMES = {
    "Activations": "oodline.activations",
    "Needs": "oodline.activations",
    "Classifier": "oodline.classifier",
    "Detector": "oodline.detectors.base",
    "FewSamplesWarning": "oodline.detectors.base",
    "Paper": "oodline.detectors.base",
    "create_detector": "oodline.detectors.catalog",
    "Rectifier": "oodline.detectors.rectifier",
    "Calibration": "oodline.calibration",
    "ConstantScoresWarning": "oodline.calibration",
    "ClassCalibration": "oodline.class_calibration",
    "default": "oodline.defaults",
    "DriftMonitor": "oodline.drift",
    "DriftReport": "oodline.drift",
    "Table": "oodline.evaluation.table",
    "Local": "oodline.engines.local",
    "Ray": "oodline.engines.ray",
    "Torchrun": "oodline.engines.torchrun",
    "evaluate": "oodline.evaluation.evaluate",
    "benjamini_hochberg": "oodline.false_discovery",
    "Explanation": "oodline.explanation",
    "FitError": "oodline.fitting",
    "fit": "oodline.fitting",
    "Guard": "oodline.guard",
    "MemberLeftOutWarning": "oodline.detectors.fuse",
    "FittedGuards": "oodline.guarding.fit_guards",
    "fit_guards": "oodline.guarding.fit_guards",
    "OtherWeightsWarning": "oodline.guarding.fingerprint",
    "Verdict": "oodline.guarding.verdict",
    "FeatureClassifier": "oodline.model.features",
    "from_features": "oodline.model.from_features",
    "LayeredHead": "oodline.head",
    "LinearHead": "oodline.head",
    "SeenDataWarning": "oodline.held_out",
    "Neurons": "oodline.neurons",
    "Preprocessing": "oodline.model.preprocessing",
    "load_model": "oodline.zoo",
    "split": "oodline.parts",
    "Scores": "oodline.scoring",
    "score": "oodline.scoring",
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
    "evaluate",
    "fit",
    "fit_guards",
    "from_features",
    "load_model",
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
