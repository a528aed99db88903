"""Post-hoc out-of-distribution detection for trained PyTorch classifiers, led by LINe.

Names are imported when they are first used, so `import oodline` is quick and needs no optional package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from oodline._version import __version__
from oodline.detectors.catalog import CATALOG

if TYPE_CHECKING:  # the same names for type checkers; a test compares
    import oodline.metrics as metrics
    import oodline.training as training
    from oodline.detectors.adascale import AdaSCALE as AdaSCALE
    from oodline.detectors.ash import ASHB as ASHB
    from oodline.detectors.ash import ASHP as ASHP
    from oodline.detectors.ash import ASHS as ASHS
    from oodline.detectors.ash import SCALE as SCALE
    from oodline.detectors.band_energy import BandEnergy as BandEnergy
    from oodline.detectors.base import Detector as Detector
    from oodline.detectors.bats import BATS as BATS
    from oodline.detectors.cadref import CADRef as CADRef
    from oodline.detectors.cadref import CARef as CARef
    from oodline.detectors.catalog import create_detector as create_detector
    from oodline.detectors.conjnorm import ConjNorm as ConjNorm
    from oodline.detectors.ddcs import DDCS as DDCS
    from oodline.detectors.default import default as default
    from oodline.detectors.default import default_detector as default_detector
    from oodline.detectors.description import MethodDescription as MethodDescription
    from oodline.detectors.description import describe_method as describe_method
    from oodline.detectors.dice import DICE as DICE
    from oodline.detectors.energy import Energy as Energy
    from oodline.detectors.entropy import GEN as GEN
    from oodline.detectors.entropy import Entropy as Entropy
    from oodline.detectors.experimental.fisher_gradnorm import FisherGradNorm as FisherGradNorm
    from oodline.detectors.experimental.hact import HAct as HAct
    from oodline.detectors.experimental.sisom import SISOM as SISOM
    from oodline.detectors.experimental.soft_line import SoftLINe as SoftLINe
    from oodline.detectors.fdbd import FDBD as FDBD
    from oodline.detectors.feature_norm import FeatureNorm as FeatureNorm
    from oodline.detectors.feature_norm import GradNorm as GradNorm
    from oodline.detectors.fit import fit as fit
    from oodline.detectors.fitted import Fitted as Fitted
    from oodline.detectors.fm_pls import FMPLS as FMPLS
    from oodline.detectors.from_function import from_function as from_function
    from oodline.detectors.fuse import Fuse as Fuse
    from oodline.detectors.fuse import MemberLeftOutWarning as MemberLeftOutWarning
    from oodline.detectors.gmm import GMM as GMM
    from oodline.detectors.gram import Gram as Gram
    from oodline.detectors.itp import ITP as ITP
    from oodline.detectors.joint_energy import JointEnergy as JointEnergy
    from oodline.detectors.kernel_pca import CoP as CoP
    from oodline.detectors.kernel_pca import CoRP as CoRP
    from oodline.detectors.kl_matching import KLMatching as KLMatching
    from oodline.detectors.knn import KNN as KNN
    from oodline.detectors.layered_mahalanobis import LayeredMahalanobis as LayeredMahalanobis
    from oodline.detectors.line import LINe as LINe
    from oodline.detectors.lts import LTS as LTS
    from oodline.detectors.mahalanobis import Mahalanobis as Mahalanobis
    from oodline.detectors.map_agreement import MapAgreement as MapAgreement
    from oodline.detectors.max_logit import MaxLogit as MaxLogit
    from oodline.detectors.mcm import MCM as MCM
    from oodline.detectors.mode_csd import ModeCSD as ModeCSD
    from oodline.detectors.msp import MSP as MSP
    from oodline.detectors.nac import NAC as NAC
    from oodline.detectors.nap import NAP as NAP
    from oodline.detectors.nap_combined import NAPCombined as NAPCombined
    from oodline.detectors.nci import NCI as NCI
    from oodline.detectors.neco import NECO as NECO
    from oodline.detectors.neglabel import NegLabel as NegLabel
    from oodline.detectors.nll import NLL as NLL
    from oodline.detectors.nnguide import NNGuide as NNGuide
    from oodline.detectors.odin import IODIN as IODIN
    from oodline.detectors.odin import ODIN as ODIN
    from oodline.detectors.openmax import OpenMax as OpenMax
    from oodline.detectors.optfs import OptFS as OptFS
    from oodline.detectors.ora import ORA as ORA
    from oodline.detectors.paper import Paper as Paper
    from oodline.detectors.prior_normalised import PriorNormalised as PriorNormalised
    from oodline.detectors.pro import PRO as PRO
    from oodline.detectors.rankfeat import RankFeat as RankFeat
    from oodline.detectors.ras import RAS as RAS
    from oodline.detectors.react import ReAct as ReAct
    from oodline.detectors.rectifier import Rectifier as Rectifier
    from oodline.detectors.registry import register as register
    from oodline.detectors.relation import Relation as Relation
    from oodline.detectors.relative_mahalanobis import RelativeMahalanobis as RelativeMahalanobis
    from oodline.detectors.she import SHE as SHE
    from oodline.detectors.temperature_scaling import TemperatureScaling as TemperatureScaling
    from oodline.detectors.vim import Residual as Residual
    from oodline.detectors.vim import ViM as ViM
    from oodline.detectors.vra import VRA as VRA
    from oodline.detectors.weiper import WeiPerKLD as WeiPerKLD
    from oodline.detectors.weiper import WeiPerMSP as WeiPerMSP
    from oodline.errors import FewSamplesWarning as FewSamplesWarning
    from oodline.errors import PreprocessingWarning as PreprocessingWarning
    from oodline.evaluation.evaluate import evaluate as evaluate
    from oodline.evaluation.evaluate_rows import evaluate_rows as evaluate_rows
    from oodline.evaluation.table import Table as Table
    from oodline.guard.answer_stream import AnswerStream as AnswerStream
    from oodline.guard.diagnosis import Diagnosis as Diagnosis
    from oodline.guard.doctor import doctor as doctor
    from oodline.guard.explanation import Explanation as Explanation
    from oodline.guard.fit_guards import FittedGuards as FittedGuards
    from oodline.guard.fit_guards import fit_guards as fit_guards
    from oodline.guard.guard import Guard as Guard
    from oodline.guard.neurons import Neurons as Neurons
    from oodline.guard.probe import UnsteadyClassifierWarning as UnsteadyClassifierWarning
    from oodline.guard.row_verdict import RowVerdict as RowVerdict
    from oodline.guard.verdict import Verdict as Verdict
    from oodline.integrations.sklearn import OODDetector as OODDetector
    from oodline.model.activations import Activations as Activations
    from oodline.model.activations import Needs as Needs
    from oodline.model.classifier import Classifier as Classifier
    from oodline.model.features import FeatureClassifier as FeatureClassifier
    from oodline.model.fingerprint import OtherWeightsWarning as OtherWeightsWarning
    from oodline.model.from_features import from_features as from_features
    from oodline.model.head import LayeredHead as LayeredHead
    from oodline.model.head import LinearHead as LinearHead
    from oodline.model.no_head import NoHead as NoHead
    from oodline.model.rows.box_classifier import BoxClassifier as BoxClassifier
    from oodline.model.rows.boxes import Boxes as Boxes
    from oodline.model.rows.boxes import FoundBoxes as FoundBoxes
    from oodline.model.rows.per_input import Lowest as Lowest
    from oodline.model.rows.per_input import LowestMean as LowestMean
    from oodline.model.rows.per_input import Mean as Mean
    from oodline.model.rows.pixels import Pixels as Pixels
    from oodline.model.rows.places import Places as Places
    from oodline.model.rows.row_classifier import RowClassifier as RowClassifier
    from oodline.model.rows.tokens import Tokens as Tokens
    from oodline.model.zero_shot import TextHead as TextHead
    from oodline.model.zero_shot import ZeroShot as ZeroShot
    from oodline.model.zoo import load_model as load_model
    from oodline.passes.fit_result import FitError as FitError
    from oodline.passes.fit_result import FitResult as FitResult
    from oodline.passes.local import Local as Local
    from oodline.passes.ray import Ray as Ray
    from oodline.passes.torchrun import Torchrun as Torchrun
    from oodline.preprocessing.preprocessing import Preprocessing as Preprocessing
    from oodline.preprocessing.text import TextPreprocessing as TextPreprocessing
    from oodline.scoring.answers import AnswerMonitor as AnswerMonitor
    from oodline.scoring.calibration import Calibration as Calibration
    from oodline.scoring.calibration import ConstantScoresWarning as ConstantScoresWarning
    from oodline.scoring.class_calibration import ClassCalibration as ClassCalibration
    from oodline.scoring.drift import DriftMonitor as DriftMonitor
    from oodline.scoring.drift import DriftReport as DriftReport
    from oodline.scoring.false_discovery import benjamini_hochberg as benjamini_hochberg
    from oodline.scoring.label_errors import LabelErrors as LabelErrors
    from oodline.scoring.label_errors import find_label_errors as find_label_errors
    from oodline.scoring.precision_change import PrecisionChange as PrecisionChange
    from oodline.scoring.precision_change import precision_change as precision_change
    from oodline.scoring.score import Scores as Scores
    from oodline.scoring.score import score as score
    from oodline.scoring.seen_data import SeenDataWarning as SeenDataWarning
    from oodline.scoring.split import split as split
    from oodline.training.finetune import finetune as finetune
    from oodline.tuning.candidates import Candidate as Candidate
    from oodline.tuning.search import Tuned as Tuned
    from oodline.tuning.search import tune as tune

_HOMES = {
    "Activations": "oodline.model.activations",
    "Needs": "oodline.model.activations",
    "Classifier": "oodline.model.classifier",
    "Detector": "oodline.detectors.base",
    "FewSamplesWarning": "oodline.errors",
    "PreprocessingWarning": "oodline.errors",
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
    "MethodDescription": "oodline.detectors.description",
    "describe_method": "oodline.detectors.description",
    "AnswerMonitor": "oodline.scoring.answers",
    "AnswerStream": "oodline.guard.answer_stream",
    "DriftMonitor": "oodline.scoring.drift",
    "DriftReport": "oodline.scoring.drift",
    "Table": "oodline.evaluation.table",
    "Local": "oodline.passes.local",
    "Ray": "oodline.passes.ray",
    "Torchrun": "oodline.passes.torchrun",
    "evaluate": "oodline.evaluation.evaluate",
    "evaluate_rows": "oodline.evaluation.evaluate_rows",
    "benjamini_hochberg": "oodline.scoring.false_discovery",
    "LabelErrors": "oodline.scoring.label_errors",
    "find_label_errors": "oodline.scoring.label_errors",
    "Diagnosis": "oodline.guard.diagnosis",
    "doctor": "oodline.guard.doctor",
    "Explanation": "oodline.guard.explanation",
    "FitError": "oodline.passes.fit_result",
    "FitResult": "oodline.passes.fit_result",
    "Fitted": "oodline.detectors.fitted",
    "fit": "oodline.detectors.fit",
    "Guard": "oodline.guard.guard",
    "MemberLeftOutWarning": "oodline.detectors.fuse",
    "FittedGuards": "oodline.guard.fit_guards",
    "fit_guards": "oodline.guard.fit_guards",
    "OtherWeightsWarning": "oodline.model.fingerprint",
    "UnsteadyClassifierWarning": "oodline.guard.probe",
    "Verdict": "oodline.guard.verdict",
    "FeatureClassifier": "oodline.model.features",
    "from_features": "oodline.model.from_features",
    "LayeredHead": "oodline.model.head",
    "LinearHead": "oodline.model.head",
    "SeenDataWarning": "oodline.scoring.seen_data",
    "Neurons": "oodline.guard.neurons",
    "PrecisionChange": "oodline.scoring.precision_change",
    "precision_change": "oodline.scoring.precision_change",
    "Preprocessing": "oodline.preprocessing.preprocessing",
    "TextPreprocessing": "oodline.preprocessing.text",
    "TextHead": "oodline.model.zero_shot",
    "ZeroShot": "oodline.model.zero_shot",
    "load_model": "oodline.model.zoo",
    "split": "oodline.scoring.split",
    "BoxClassifier": "oodline.model.rows.box_classifier",
    "Boxes": "oodline.model.rows.boxes",
    "FoundBoxes": "oodline.model.rows.boxes",
    "NoHead": "oodline.model.no_head",
    "Lowest": "oodline.model.rows.per_input",
    "LowestMean": "oodline.model.rows.per_input",
    "Mean": "oodline.model.rows.per_input",
    "Pixels": "oodline.model.rows.pixels",
    "Places": "oodline.model.rows.places",
    "RowClassifier": "oodline.model.rows.row_classifier",
    "Tokens": "oodline.model.rows.tokens",
    "RowVerdict": "oodline.guard.row_verdict",
    "Scores": "oodline.scoring.score",
    "score": "oodline.scoring.score",
    "finetune": "oodline.training.finetune",
    "Candidate": "oodline.tuning.candidates",
    "Tuned": "oodline.tuning.search",
    "tune": "oodline.tuning.search",
}

_OPTIONAL = {"OODDetector": "oodline.integrations.sklearn"}
"""Names that need an extra, which `from oodline import *` must do without."""

_MODULES = ("explain", "metrics", "training")
"""Modules that are there without an import of their own."""

_DETECTORS = {home.partition(":")[2]: home.partition(":")[0] for home in CATALOG.values()}

__all__ = ["__version__", *sorted(_HOMES), *sorted(_DETECTORS)]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"oodline.{name}")
    home = _DETECTORS.get(name) or _HOMES.get(name) or _OPTIONAL.get(name)
    if home is None:
        raise AttributeError(f"module 'oodline' has no attribute '{name}'")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
