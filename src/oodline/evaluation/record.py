"""What `run.json` says of a finished run: plain data, checked by pydantic whenever it is written or read."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from oodline.preprocessing.kinds import PreprocessingRecord
from oodline.preprocessing.preprocessing import Preprocessing

FORMAT_VERSION = 1

Role = Literal["fit", "calibration", "id", "csid", "ood"]
"""What a data set was used for; `csid` is ID data under a covariate shift, which a full-spectrum table counts as ID."""

SETS = r"^\w[\w .:+-]*$"
"""What a data set may be called: its scores are in a file of that name."""

SETS_IN_WORDS = "letters, digits, spaces and . : + - _, beginning with a letter, a digit or _"

SetName = Annotated[str, StringConstraints(pattern=SETS)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ClassifierRecord(_Record):
    """The classifier: how it was named, and what it turned out to be."""

    reference: str
    """As the user wrote it, such as `timm:resnet50`."""
    weights: str | None
    head: str
    num_classes: int
    num_features: int
    fingerprint: str
    """SHA-256 of the head's weights, as the guard's file has it."""


class SetRecord(_Record):
    """One data set of the run, and its pass."""

    name: SetName
    role: Role
    group: str | None = None
    """Such as `near` or `far`."""
    spec: str
    """By which it can be opened again: a path, or a reference."""
    samples: int
    """Images that were read, without the skipped ones."""
    skipped: int = 0
    source: str | None = None
    """Where users get it."""
    label_offset: int = 0
    preprocessing: Preprocessing | None = None
    """Where it is not the classifier's."""
    seconds: float
    """Wall time of its pass, detectors included."""
    cached: bool
    """Whether the activations were on disk already, so that the network did not run."""
    sha256: str | None = None
    """Of the file of scores; None for a set that was only fitted on."""
    data_sha256: str | None = None
    """Of the images and labels of the whole set, as its source has them; None where the run kept no cache of it."""


class DetectorEntry(_Record):
    """One fitted detector, and what it cost."""

    method: str
    settings: dict[str, Any]
    """A detector that it is made of is `{"method": ..., "settings": ...}` in turn."""
    left_out: dict[str, str] = {}
    """Members that it does without, and why."""
    reason: str = ""
    """Why it has the members it has, where the fit chose them."""
    threshold: float | None = None
    """Scores below it are flagged as OOD; None where the run had no calibration set."""
    fit_seconds: float | None = None
    """Wall time of its own estimate, after the pass that all share."""
    milliseconds: float | None = None
    """Wall time of its own part of scoring, an image."""
    state_bytes: int
    """Size of its fitted tensors."""
    peak_bytes: int | None = None
    """Most memory it took, where that was measured."""


class WarningEntry(_Record):
    """What the fit warned of."""

    detector: str | None
    """Its label; None where it is about the classifier or the data."""
    message: str


class RunRecord(_Record):
    """Everything about a finished run but the scores and the fitted tensors.

    Examples
    --------
    >>> RunRecord.model_fields["metrics"].annotation
    list[dict[str, typing.Any]]
    """

    format: Literal["oodline-run"] = "oodline-run"
    format_version: int = FORMAT_VERSION
    name: str
    created: AwareDatetime
    versions: dict[str, str]
    """Of oodline, torch and python."""
    classifier: ClassifierRecord
    class_names: tuple[str, ...] | None = None
    preprocessing: PreprocessingRecord | None = None
    sets: list[SetRecord]
    detectors: dict[str, DetectorEntry]
    """By label: the name of a column of scores and of a row of the tables."""
    failures: dict[str, str] = Field(default_factory=dict)
    """Detectors that the classifier or the data could not serve, by label, with the reason."""
    missing: dict[str, str] = Field(default_factory=dict)
    """Data sets that the run went on without, by name, with the reason."""
    warnings: list[WarningEntry] = Field(default_factory=list)
    """What the fit data does not bear out; nothing of detectors whose fitted state came from the cache."""
    tpr: float
    batch_size: int
    limit: int | None = None
    seed: int = 0
    device: str = "cpu"
    seconds: float
    """Wall time of the whole run."""
    peak_bytes: int | None = None
    """Most resident memory of the process."""
    metrics: list[dict[str, Any]] = Field(default_factory=list)
    """One flat dict a detector and OOD set: `detector`, `set`, `group`, `id` (the roles that counted as ID, such as
    `id` or `id+csid`), and every field of `Metrics`."""
    guard_sha256: str = ""
    sha256: str = ""
    """Of this document without this field: it finds damage and careless edits, and is not a signature."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [s.name for s in self.sets]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two data sets are called {', '.join(twice)}")
        if not any(s.role == "id" for s in self.sets):
            raise ValueError("no data set has the role 'id'")
        if strange := [label for label in self.detectors if "/" in label]:
            raise ValueError(f"a detector is labelled {strange[0]!r}; a label has no slash")
        return self

    @property
    def scored(self) -> list[SetRecord]:
        """The sets that have a file of scores."""
        return [s for s in self.sets if s.role != "fit"]


def safe_name(text: str) -> str:
    """A name for a data set from a path or a reference.

    Examples
    --------
    >>> safe_name("torchvision:SVHN,split=test"), safe_name("ood/svhn.parquet")
    ('SVHN', 'svhn')
    """
    last = re.split(r"[/\\:]", text.split(",")[0].rstrip("/\\"))[-1]
    return re.sub(r"\.(parquet|safetensors|txt|json)$", "", last)


def timestamp(moment: datetime) -> str:
    """A moment as the tables print it: UTC, to the second.

    Examples
    --------
    >>> from datetime import UTC
    >>> timestamp(datetime(2024, 5, 1, 12, 30, 5, 99, tzinfo=UTC))
    '2024-05-01 12:30:05 UTC'
    """
    from datetime import UTC

    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
