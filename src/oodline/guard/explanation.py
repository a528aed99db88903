"""Explain a verdict: the neurons that are missing or unexpected for the predicted class."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from oodline.detectors.evidence import Evidence
from oodline.errors import SettingError
from oodline.guard.neurons import Neurons


@dataclass(frozen=True)
class TopSample:
    """A training sample that excites a neuron: its position in the training data, and the activation."""

    index: int
    activation: float


@dataclass(frozen=True)
class Neuron:
    """One neuron of an explanation.

    Parameters
    ----------
    neuron : int
        Which of the D features.
    important : bool
        Whether it matters for the class.
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
        sigma = "" if self.z is None else f" ({self.z:+.1f} sigma)"
        images = ", ".join(str(sample.index) for sample in self.samples)
        shown = f", most active on training images {images}" if images else ""
        return f"neuron {self.neuron}: {self.found:.3f} found, {self.expected:.3f} expected{sigma}{shown}"

    def to_dict(self) -> dict[str, Any]:
        """A plain dict, ready for JSON."""
        return {**asdict(self), "samples": [asdict(sample) for sample in self.samples]}


@dataclass(frozen=True, eq=False)
class Explanation:
    """One input's verdict, and what speaks for and against it.

    Parameters
    ----------
    verdict : dict
        Label, score, threshold, p-value and whether it is flagged, as `Verdict.rows` gives them.
    predicted_class : int
        The class whose contributions are shown: the label, unless the detector routes by clipped features and they
        give another one.
    predicted_class_name : str, optional
        Its name.
    expected, found : Tensor (D,)
        Contributions of all neurons to the logit of the class: the class's mean, and this input's.
    important : Tensor (D,), bool
        Neurons that matter for the class.
    missing : tuple of Neuron
        Important neurons that speak for the class and give less than half of what they usually do, first the largest
        lack.
    unexpected : tuple of Neuron
        Unimportant neurons that contribute more than they are used to, for the class or against it, first the largest
        excess.
    members : dict of str to float
        Of a detector made of detectors: each member's p-value, first the smallest, of the one that raised the alarm.
        Empty for others.

    Examples
    --------
    >>> import oodline as ol
    >>> from oodline.testing import toy_loader, toy_problem
    >>> classifier, loader = toy_problem()
    >>> detector = ol.LINe(p_a=0.5, p_w=0.5, clip=5.0).fit(classifier, loader)
    >>> guard = ol.Guard(classifier, detector).calibrate(toy_loader(seed=1))
    >>> [explanation] = guard.explain(torch.zeros(1, 4), top=3)
    >>> explanation.verdict["is_ood"], len(explanation.missing)
    (True, 3)
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

    @property
    def expected_total(self) -> float:
        """Sum of what the important neurons contribute to the class on average, without the bias."""
        return float(self.expected[self.important].sum())

    @property
    def found_total(self) -> float:
        """Sum of what they contribute to this input."""
        return float(self.found[self.important].sum())

    def __str__(self) -> str:
        """The verdict and both lists of neurons, in lines."""
        verdict = self.verdict
        name = verdict["class_name"] or f"class {verdict['label']}"
        decision = "flagged as OOD" if verdict["is_ood"] else "accepted"
        lines = [
            f"{name}: {decision} (score {verdict['score']:.4g}, threshold {verdict['threshold']:.4g}, "
            f"p-value {verdict['p_value']:.3g})"
        ]
        if self.members:
            lines.append("p-values of its members: " + ", ".join(f"{k} {p:.2g}" for k, p in self.members.items()))
        named = self.predicted_class_name or f"class {self.predicted_class}"
        lines.append(
            f"important neurons of {named}: {self.found_total:.2f} found of {self.expected_total:.2f} expected"
        )
        for title, neurons in (("expected and missing", self.missing), ("unexpected and found", self.unexpected)):
            lines += [f"{title}:" if neurons else f"{title}: none", *(f"  {neuron}" for neuron in neurons)]
        return "\n".join(lines)

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
                "important": torch.nonzero(self.important).flatten().tolist(),
            },
        }

    def to_json(self) -> str:
        """The row as a JSON document."""
        return json.dumps(self.to_dict(), allow_nan=False)


def explanations(
    verdicts: Sequence[dict[str, Any]],
    evidence: Evidence,
    features: Float[Tensor, "n d"],
    neurons: Neurons | None = None,
    class_names: Sequence[str] | None = None,
    top: int = 8,
    members: Mapping[str, Float[Tensor, " n"]] | None = None,
) -> list[Explanation]:
    """Explain N inputs.

    Parameters
    ----------
    verdicts : sequence of dict
        Rows of the verdict.
    evidence : Evidence
        Of the same inputs.
    features : Tensor (N, D)
        Their penultimate features.
    neurons : Neurons, optional
        For z-scores and training samples.
    class_names : sequence of str, optional
        In the order of the logits.
    top : int
        Missing and unexpected neurons to list, at most.
    members : mapping of str to Tensor (N,), optional
        P-values by member of a detector made of detectors.

    Raises
    ------
    SettingError
        `top` is below 1.
    """
    if top < 1:
        raise SettingError(f"`top` must be at least 1; got {top}.")
    explained = []
    for i, verdict in enumerate(verdicts):
        predicted_class = int(evidence.predicted_class[i])
        one = _One(
            predicted_class=predicted_class,
            expected=evidence.expected[i].cpu(),
            found=evidence.found[i].cpu(),
            counted=evidence.counted[i].cpu(),
            activation=features[i].cpu(),
            important=evidence.important[i].cpu(),
            neurons=neurons,
        )
        missed = one.important & (one.expected > 0) & (one.found < one.expected / 2)
        lack = torch.where(missed, one.expected - one.found, -torch.inf)
        excess = torch.where(one.important, -torch.inf, one.found.abs() - one.expected.abs())
        explained.append(
            Explanation(
                verdict=verdict,
                predicted_class=predicted_class,
                predicted_class_name=class_names[predicted_class] if class_names else None,
                expected=one.expected,
                found=one.found,
                important=one.important,
                missing=one.largest(lack, top),
                unexpected=one.largest(excess, top),
                members=dict(sorted(((k, float(p[i])) for k, p in (members or {}).items()), key=lambda kp: kp[1])),
            )
        )
    return explained


@dataclass(frozen=True, eq=False)
class _One:
    predicted_class: int
    expected: Tensor
    found: Tensor
    counted: Tensor
    activation: Tensor
    important: Tensor
    neurons: Neurons | None

    def largest(self, measure: Tensor, top: int) -> tuple[Neuron, ...]:
        order = measure.argsort(stable=True, descending=True)[:top]
        return tuple(self.neuron(int(d)) for d in order if measure[d] > 0)

    def neuron(self, d: int) -> Neuron:
        mean = z = None
        samples: tuple[TopSample, ...] = ()
        if self.neurons is not None:
            mean, spread = (
                float(self.neurons.mean[self.predicted_class, d]),
                float(self.neurons.spread[self.predicted_class, d]),
            )
            z = (float(self.activation[d]) - mean) / spread if spread > 0 else None
            pairs = zip(self.neurons.top_index[:, d].tolist(), self.neurons.top_values[:, d].tolist(), strict=True)
            samples = tuple(TopSample(index, value) for index, value in pairs)
        return Neuron(
            neuron=d,
            important=bool(self.important[d]),
            expected=float(self.expected[d]),
            found=float(self.found[d]),
            counted=float(self.counted[d]),
            activation=float(self.activation[d]),
            mean=mean,
            z=z,
            samples=samples,
        )
