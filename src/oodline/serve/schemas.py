"""The content of responses, as pydantic models for the OpenAPI description."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from oodline.model.head_name import Task
from oodline.serve.problems import TOO_MANY_PIXELS, Problem, ProblemDocument

_ROW: dict[str, Any] = {
    "label": 3,
    "class_name": "cat",
    "score": 12.81,
    "threshold": 9.42,
    "is_ood": False,
    "p_value": 0.41,
}
_PROBLEM = Problem(TOO_MANY_PIXELS, "Its header says 90000 x 90000.", "Send an image of at most 32000000 pixels.")
_NEURON: dict[str, Any] = {
    "neuron": 17,
    "important": True,
    "expected": 1.9,
    "found": 0.2,
    "counted": 0.2,
    "activation": 0.1,
    "mean": 0.9,
    "z": -2.4,
    "samples": [{"index": 812, "activation": 3.1}],
}


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class VerdictRow(_Answer):
    """What the guard says of one image."""

    label: int = Field(description="Class with the largest logit, also where the input is flagged.")
    class_name: str | None = Field(description="Its name, where the guard knows it.")
    score: float | None = Field(
        description="The detector's score: higher = more in-distribution. Null where `rows` is 0: nothing was judged."
    )
    threshold: float = Field(description="What the score was compared with.")
    is_ood: bool = Field(description="Whether the score is below the threshold: do not trust the label.")
    p_value: float = Field(gt=0, le=1, description="How usual the score is among held-out ID images; small means OOD.")
    labels: list[int] = Field(
        default_factory=list, description="Of a multi-label classifier: labels whose probability is above one half."
    )
    label_names: list[str] | None = Field(default=None, description="Their names, where the guard knows them.")


class Judged(VerdictRow):
    """One image of a request that was judged."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"name": "cat.png", **_ROW}]})

    name: str | None = Field(description="The file's name in the form.")
    rows: int | None = Field(
        default=None, description="Of a guard of pixels, tokens or boxes: how many were judged; `label` is then -1."
    )
    flagged_share: float | None = Field(default=None, description="Share of them that is below the threshold.")
    boxes: list[dict[str, Any]] | None = Field(
        default=None, description="Of a guard of boxes: each with its place, class, score and whether it is flagged."
    )
    maps: dict[str, Any] | None = Field(
        default=None, description="Where `maps` asks for them: one map per column, at the resolution of the head."
    )


class Refused(_Answer):
    """One of several images of a request that could not be judged; the others were."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"name": "huge.png", "problem": _PROBLEM.document()}]}
    )

    name: str | None = Field(description="The file's name in the form.")
    problem: ProblemDocument


class Predictions(_Answer):
    """One entry per image, in the order in which they were sent."""

    request_id: str
    verdicts: list[Judged | Refused]


class Sample(_Answer):
    """A training image that excites a neuron."""

    index: int = Field(description="Its position in the training data.")
    activation: float
    picture: str | None = Field(
        default=None, description="A small JPEG of it as a data URI, where the guard's file keeps one."
    )
    place: int | None = Field(default=None, description="Which of its rows; null where an image is one row.")


class NeuronRow(_Answer):
    """One neuron of an explanation; contributions are to the logit of the class."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_NEURON]})

    neuron: int
    important: bool
    expected: float = Field(description="The class's mean contribution.")
    found: float = Field(description="This image's.")
    counted: float = Field(description="What the detector read of it.")
    activation: float
    mean: float | None
    z: float | None = Field(description="Standard deviations of the class that the activation is above its mean.")
    samples: list[Sample]


class Contributions(_Answer):
    """All neurons."""

    expected: list[float]
    found: list[float]
    important: list[int] = Field(description="Neurons that matter for the class.")


class ClassRow(_Answer):
    """One of the classes with the largest softmax probability."""

    label: int
    name: str | None
    probability: float = Field(ge=0, le=1, description="Softmax of the logits; not calibrated.")


class MapRows(_Answer):
    """Contributions over the places of the image as the classifier sees it, row by row from the top."""

    evidence: list[list[float]] = Field(description="What the important neurons contribute.")
    missing: list[list[float]] = Field(description="What the missing neurons lack beside their class's mean.")
    unexpected: list[list[float]] = Field(description="What the unexpected neurons contribute, for or against.")
    agreement: float = Field(description="Cosine of class map and image map; 1: the same places.")
    layer: str
    exact: bool = Field(description="Whether maps sum to contributions exactly, or to first order.")


class Pictures(_Answer):
    """The maps laid over the image, as data URIs of PNG files; null where there is nothing to show."""

    evidence: str | None
    missing: str | None
    unexpected: str | None


class ExplanationRow(VerdictRow):
    """The verdict on one image, and what speaks for and against it."""

    request_id: str
    predicted_class: int = Field(description="The class whose contributions are shown.")
    predicted_class_name: str | None
    expected_total: float = Field(description="What its important neurons contribute on average.")
    found_total: float = Field(description="What they contribute here.")
    missing: list[NeuronRow] = Field(description="Important neurons whose contribution is missing.")
    unexpected: list[NeuronRow] = Field(description="Unimportant neurons that contribute more than usual.")
    contributions: Contributions
    members: dict[str, float] = Field(
        description="P-values of the detectors that the guard's is made of, the smallest first; else empty."
    )
    classes: list[ClassRow] = Field(description="Those of the largest probability, the largest first.")
    model: str
    detector: str = Field(description="The detector that decides.")
    explained_by: str = Field(description="Whose neurons are shown: the detector, a member of it, or `neurons`.")
    sentences: list[str] = Field(description="What is known of this verdict, and what to do next.")
    maps: MapRows | None = Field(description="Null where the network keeps no places.")
    pictures: Pictures | None


class Promise(_Answer):
    """What the calibration promises of in-distribution images."""

    false_alarm: float = Field(description="At most this share of ID images is flagged.")
    by: Literal["all", "predicted"] = Field(description="On average over all of them, or for each predicted class.")
    held_out: int = Field(description="Held-out ID images that it rests on.")
    sentence: str


class ScoreHistogram(_Answer):
    """Held-out ID scores, with the threshold."""

    edges: list[float] = Field(description="Ends of the bins in ascending order: one more than there are counts.")
    counts: list[int]
    threshold: float


class DetectorInfo(_Answer):
    """The detector that decides."""

    name: str
    settings: dict[str, Any]
    paper: str | None = Field(description="Title and venue; null where none is known.")


class Limits(_Answer):
    """What a request may be."""

    max_body: int = Field(description="Bytes.")
    max_images: int
    max_pixels: int
    formats: list[str]


class TextLimits(_Answer):
    """What a request of texts may be."""

    max_body: int = Field(description="Bytes.")
    max_texts: int
    max_characters: int = Field(description="Of one text; of both where it is a pair.")
    formats: list[str]


class Info(_Answer):
    """What this service is."""

    version: str
    detector: DetectorInfo
    promise: Promise
    task: Task = Field(description="Whether each input has one of the classes, or any number of them as labels.")
    classes: int
    class_names: list[str] | None
    explains: bool = Field(description="Whether /v1/explain answers.")
    histogram: ScoreHistogram
    limits: Limits | TextLimits


class Health(_Answer):
    """That it lives, or is ready."""

    status: Literal["alive", "ready"]
