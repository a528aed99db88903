"""Explain a verdict: the neurons that are missing or unexpected for the predicted class, and where in the image."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from oodline.guard.sentences import sentences_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image


@dataclass(frozen=True)
class TopSample:
    """A training sample that excites a neuron.

    Parameters
    ----------
    index : int
        Its position in the training data.
    activation : float
        Of the neuron.
    picture : str, optional
        A small picture of it as a data URI, where `Neurons.keep_pictures` kept one.
    place : int, optional
        Which of its rows, for a classifier with several rows per input.
    """

    index: int
    activation: float
    picture: str | None = None
    place: int | None = None

    def __str__(self) -> str:
        return str(self.index) if self.place is None else f"{self.index} (place {self.place})"


@dataclass(frozen=True)
class Neuron:
    """One neuron of an explanation.

    Parameters
    ----------
    neuron : int
        Which of the D features.
    important : bool
        Whether it is one of the few that make 80 % of what speaks for the class.
    expected, found, counted : float
        Its contribution to the logit of the class: the class's mean, this input's, and what the detector read of it.
    activation : float
        The feature itself.
    mean, z : float, optional
        The class's mean activation, and how many of its standard deviations the activation is above it; where
        `Neurons` were fitted, and the class varies.
    samples : tuple of TopSample
        The training samples that excite it the most, first the most; where `Neurons` were fitted.
    """

    neuron: int
    important: bool
    expected: float
    found: float
    counted: float
    activation: float
    mean: float | None = None
    z: float | None = None
    samples: tuple[TopSample, ...] = ()

    def __str__(self) -> str:
        """Contribution expected and found, the distance in standard deviations, and training images."""
        sigma = "" if self.z is None else f" ({self.z:+.1f} standard deviations)"
        images = ", ".join(map(str, self.samples))
        shown = f", most active on training images {images}" if images else ""
        return f"neuron {self.neuron}: {self.found:.3f} found, {self.expected:.3f} expected{sigma}{shown}"

    def to_dict(self) -> dict[str, Any]:
        """A plain dict, ready for JSON."""
        return {**asdict(self), "samples": [asdict(sample) for sample in self.samples]}


@dataclass(frozen=True)
class ClassProbability:
    """One of the classes with the largest softmax probability."""

    label: int
    name: str | None
    probability: float


@dataclass(frozen=True, eq=False)
class Maps:
    """Where in the image contributions come from, over the places of a layer; see `oodline.explain.maps`.

    Parameters
    ----------
    evidence : Tensor (H, W)
        What the important neurons contribute to the class at each place.
    missing : Tensor (H, W)
        What the missing neurons lack at each place, beside their class's mean spread evenly over the image; 0 where
        they give as much or more.
    unexpected : Tensor (H, W)
        What the unexpected neurons contribute at each place, for the class or against it.
    agreement : float
        Cosine of class map and image map, in [-1, 1]; see `MapAgreement`. Low: the evidence is not where that of the
        class usually is.
    layer : str
        The layer whose places they are.
    exact : bool
        Whether maps sum to contributions exactly, or to first order (activation times gradient).
    """

    evidence: Float[Tensor, "h w"]
    missing: Float[Tensor, "h w"]
    unexpected: Float[Tensor, "h w"]
    agreement: float
    layer: str
    exact: bool

    def to_dict(self) -> dict[str, Any]:
        """A plain dict, ready for JSON."""
        return {
            name: value.tolist() if isinstance(value, Tensor) else value
            for name, value in ((name, getattr(self, name)) for name in self.__dataclass_fields__)
        }


@dataclass(frozen=True, eq=False)
class Explanation:
    """One input's verdict, and what speaks for and against it.

    Parameters
    ----------
    verdict : dict
        Label, score, threshold, p-value and whether it is flagged, as `Verdict.rows` gives them. Of one of several
        rows of an input also which: `place`, `at` (row and column of a map) and `grid`, or `box`; and `input`, the
        verdict on all of its rows together.
    predicted_class : int
        The class whose contributions are shown: the label, unless the detector routes by clipped features and they
        give another one.
    predicted_class_name : str, optional
        Its name.
    expected, found : Tensor (D,)
        Contributions of all neurons to the logit of the class: the class's mean, and this input's.
    important : Tensor (D,), bool
        The few neurons that make 80 % of what speaks for the class on average.
    missing : tuple of Neuron
        Important neurons that give less than usual, first the most surprising: more than 1 standard deviation of the
        class less, where `Neurons` were fitted; else less than half.
    unexpected : tuple of Neuron
        Other neurons that contribute more than they are used to, for the class or against it, first the largest
        excess; more than 1 standard deviation more, where `Neurons` were fitted.
    members : dict of str to float
        Of a detector made of detectors: each member's p-value, first the smallest, of the one that raised the alarm.
        Empty for others.
    classes : tuple of ClassProbability
        Classes with the largest softmax probability, which is not a calibrated one.
    model, detector, explained_by : str
        The classifier; the detector that decided; and whose neurons are shown, which may be a member or "neurons".
    maps : Maps, optional
        Where in the image, for inputs that are images.
    pixels : Tensor (H, W, 3), uint8, optional
        The image as the classifier sees it; not part of the JSON.
    held_out : Tensor (n,), optional
        Scores of the calibration; not part of the JSON.

    Examples
    --------
    >>> import torch
    >>> import oodline as ol
    >>> from oodline.testing import toy_loader, toy_problem
    >>> classifier, loader = toy_problem()
    >>> detector = ol.LINe(p_a=0.5, p_w=0.5, clip=5.0).fit(classifier, loader)
    >>> guard = ol.Guard(classifier, detector).calibrate(toy_loader(seed=1))
    >>> [explanation] = guard.explain(torch.zeros(1, 4), top=2)
    >>> explanation.verdict["is_ood"], len(explanation.missing)
    (True, 2)
    """

    verdict: dict[str, Any]
    predicted_class: int
    predicted_class_name: str | None
    expected: Float[Tensor, " d"]
    found: Float[Tensor, " d"]
    important: Bool[Tensor, " d"]
    missing: tuple[Neuron, ...]
    unexpected: tuple[Neuron, ...]
    members: dict[str, float] = field(default_factory=dict)
    classes: tuple[ClassProbability, ...] = ()
    model: str = ""
    detector: str = ""
    explained_by: str = ""
    maps: Maps | None = None
    pixels: UInt8[Tensor, "h w c"] | None = None
    held_out: Float[Tensor, " n"] | None = None

    @property
    def expected_total(self) -> float:
        """Sum of what the important neurons contribute to the class on average, without the bias."""
        return float(self.expected[self.important].sum())

    @property
    def found_total(self) -> float:
        """Sum of what they contribute to this input."""
        return float(self.found[self.important].sum())

    @property
    def sentences(self) -> list[str]:
        """What is known of this verdict, in sentences, and what to do next."""
        return sentences_of(self)

    def __str__(self) -> str:
        """The sentences and both lists of neurons, in lines."""
        lines = self.sentences
        for title, neurons in (("expected and missing", self.missing), ("unexpected and found", self.unexpected)):
            lines += [f"{title}:" if neurons else f"{title}: none", *(f"  {neuron}" for neuron in neurons)]
        return "\n".join(lines)

    def plot(self, *, image: Image.Image | None = None, sample: Callable[[int], Image.Image] | None = None) -> Figure:
        """A figure: the image with its maps, the score among the held-out ones, and both lists of neurons.

        Parameters
        ----------
        image : PIL image, optional
            The input before its preprocessing, in place of the one that the classifier sees.
        sample : callable, optional
            From a position in the training data to the image there, to show those that excite a neuron most. If
            omitted, the small pictures that the guard keeps.

        Raises
        ------
        MissingExtraError
            matplotlib is not installed.
        """
        from oodline.guard.explanation_figure import draw_explanation

        return draw_explanation(self, image=image, sample=sample)

    def to_dict(self) -> dict[str, Any]:
        """A plain dict, ready for JSON."""
        return {
            **self.verdict,
            "predicted_class": self.predicted_class,
            "predicted_class_name": self.predicted_class_name,
            "expected_total": self.expected_total,
            "found_total": self.found_total,
            "members": self.members,
            "missing": [neuron.to_dict() for neuron in self.missing],
            "unexpected": [neuron.to_dict() for neuron in self.unexpected],
            "contributions": {
                "expected": self.expected.tolist(),
                "found": self.found.tolist(),
                "important": self.important.nonzero().flatten().tolist(),
            },
            "classes": [asdict(one) for one in self.classes],
            "model": self.model,
            "detector": self.detector,
            "explained_by": self.explained_by,
            "sentences": self.sentences,
            "maps": None if self.maps is None else self.maps.to_dict(),
        }

    def to_json(self) -> str:
        """The row as a JSON document."""
        return json.dumps(self.to_dict(), allow_nan=False)
