"""The JSON document in a guard file: records of plain data, validated as they are read."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from oodline.guard.probe import InputRecord
from oodline.model.precision import Dtype
from oodline.preprocessing.kinds import PreprocessingRecord

FORMAT_VERSION = 6
"""2: calibrations promise a false-alarm rate, overall or by predicted class, where 1 aimed at a TPR; neurons.
3: the fingerprint of all weights, a probe, and members that a detector does without; all of them may be missing.
4: what the network's features were like, and why members were chosen; both may be missing.
5: how an input has several rows; it may be missing; and the preprocessing may be that of texts.
6: what the network computed in; it may be missing."""


MAX_SIZE = 10**6
"""Classes, and features, of a head at most: a number in a file must not decide how much memory is asked for."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSource(_Record):
    """Which classifier it was fitted on, as the command line named it."""

    reference: str
    weights: str | None = None
    head: str | None = None


class FitInfo(_Record):
    """How it was fitted."""

    data: str
    samples: int
    calibration_data: str | None = None


class DetectorRecord(_Record):
    """A detector by its name in the catalog and its settings; a member is a record in turn."""

    method: str
    settings: dict[str, Any]
    left_out: dict[str, str] = {}
    """Members that it does without, and why."""
    reason: str = Field("", max_length=300, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")
    """Why it has the members it has, where the fit chose them."""


class BackboneRecord(_Record):
    """What the features were like; see `oodline.statistics.Backbone`."""

    features: int = Field(ge=1)
    classes: int = Field(ge=0)
    samples: int = Field(ge=1)
    per_class: FiniteFloat = Field(ge=0)
    zeros: FiniteFloat = Field(ge=0, le=1)
    negatives: FiniteFloat = Field(ge=0, le=1)
    norm_spread: FiniteFloat = Field(ge=0)
    effective_rank: FiniteFloat = Field(ge=0)
    head: Literal["linear", "layers", "none"]


class CalibrationRecord(_Record):
    """The threshold and the rate it promises; the scores, and their classes where `by` says so, are tensors."""

    false_alarm: float = Field(gt=0, lt=1)
    threshold: FiniteFloat
    by: Literal["all", "predicted"] = "all"


class HeadRecord(_Record):
    """The head it was fitted on."""

    num_classes: int = Field(ge=1, le=MAX_SIZE)
    num_features: int = Field(ge=1, le=MAX_SIZE)
    fingerprint: str
    name: str = ""
    """What the classifier calls it; see `Classifier.head_name`."""


class WeightsRecord(_Record):
    """The classifier's weights; see `Fingerprint`."""

    tensors: dict[str, str]
    unsaved: dict[str, str] = {}
    precision: str = ""
    used_with_others: str | None = None
    """Why it was used with a classifier of other weights, where somebody asked for that."""


class Manifest(_Record):
    """The JSON document in the metadata."""

    format: Literal["oodline"] = "oodline"
    format_version: int = FORMAT_VERSION
    oodline_version: str
    torch_version: str
    detectors: dict[str, DetectorRecord]
    calibrations: dict[str, CalibrationRecord]
    head: HeadRecord
    class_names: tuple[str, ...] | None
    preprocessing: PreprocessingRecord | None
    rows: str | None = None
    """How an input has several rows, as on the command line; none: one row per input."""
    dtype: Dtype | None = None
    """What the network computed in while detectors were fitted and calibrated."""
    model: ModelSource | None
    fit: FitInfo | None
    neurons: bool = False
    backbone: BackboneRecord | None = None
    weights: WeightsRecord | None = None
    probe: dict[str, InputRecord] | None = None
    """What the stored inputs are like, by argument; logits and scores are tensors, and inputs that were kept."""
    sha256: str = ""
