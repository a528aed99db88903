"""Make explanations: choose the neurons to show, and find where in the image they look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from oodline.data.batch import Inputs, as_tensors
from oodline.detectors.evidence import Evidence, few_important, require_linear
from oodline.detectors.map_agreement import cosine, top_weights
from oodline.errors import HeadError, InputError, SettingError
from oodline.explain.maps import place_maps
from oodline.explain.values import probabilities
from oodline.guard.explanation import ClassProbability, Explanation, Maps, Neuron, TopSample
from oodline.guard.neurons import Neurons
from oodline.model.activations import Activations
from oodline.model.classifier import Classifier
from oodline.model.rows.places import MOST_PLACES
from oodline.preprocessing.preprocessing import Preprocessing

SURPRISING = 1.0
"""Standard deviations of its class that a neuron is away from its mean, at least, to be shown."""

LEAST = 0.01
"""Excess of an unexpected neuron, at least, as a share of what the important ones usually contribute together."""

CLASSES = 3
"""Classes to name, those of the largest probability."""

MAP_NEURONS = 5
"""Neurons of the class map and of the image map whose agreement is stated."""


def explanations(
    verdicts: Sequence[dict[str, Any]],
    evidence: Evidence,
    activations: Activations,
    neurons: Neurons | None = None,
    class_names: Sequence[str] | None = None,
    top: int = 8,
    members: Mapping[str, Float[Tensor, " n"]] | None = None,
    **about: Any,
) -> list[Explanation]:
    """Explain N inputs.

    Parameters
    ----------
    verdicts : sequence of dict
        Rows of the verdict.
    evidence : Evidence
        Of the same inputs.
    activations : Activations
        Of the same inputs.
    neurons : Neurons, optional
        For z-scores and training samples.
    class_names : sequence of str, optional
        In the order of the logits.
    top : int
        Missing and unexpected neurons to list, at most.
    members : mapping of str to Tensor (N,), optional
        P-values by member of a detector made of detectors.
    about : optional
        Fields that are the same for all: `model`, `detector`, `explained_by`, `held_out`.

    Raises
    ------
    SettingError
        `top` is below 1.
    """
    if top < 1:
        raise SettingError(f"`top` must be at least 1; got {top}.")
    few, weight = few_important(evidence), require_linear(activations.head).weight
    likely = probabilities(activations).topk(min(CLASSES, activations.logits.shape[1]), dim=1)
    explained = []
    for i, verdict in enumerate(verdicts):
        predicted_class = int(evidence.predicted_class[i])
        one = _One(
            of_rows="place" in verdict,
            predicted_class=predicted_class,
            expected=evidence.expected[i].cpu(),
            found=evidence.found[i].cpu(),
            counted=evidence.counted[i].cpu(),
            activation=activations.features[i].cpu(),
            weight=weight[predicted_class].cpu(),
            important=few[i].cpu(),
            neurons=neurons,
        )
        labels, shares = likely.indices[i].tolist(), likely.values[i].tolist()
        explained.append(
            Explanation(
                verdict=verdict,
                predicted_class=predicted_class,
                predicted_class_name=class_names[predicted_class] if class_names else None,
                expected=one.expected,
                found=one.found,
                important=one.important,
                missing=one.missing(top),
                unexpected=one.unexpected(top),
                members=dict(sorted(((k, float(p[i])) for k, p in (members or {}).items()), key=lambda kp: kp[1])),
                classes=tuple(
                    ClassProbability(c, class_names[c] if class_names else None, share)
                    for c, share in zip(labels, shares, strict=True)
                ),
                **about,
            )
        )
    return explained


def with_maps(
    explained: list[Explanation],
    classifier: Classifier,
    inputs: Inputs,
    activations: Activations,
    preprocessing: Preprocessing | None,
) -> list[Explanation]:
    """The same with maps, by one or two forward passes; as they are where inputs are no images, or have no places."""
    images = as_tensors(inputs)
    if not isinstance(images, Tensor) or images.ndim != 4:
        return explained
    features = activations.features
    weight = require_linear(activations.head).weight[torch.tensor([e.predicted_class for e in explained])]
    chosen = torch.zeros(3, *features.shape, device=features.device)
    for i, one in enumerate(explained):
        chosen[0, i, one.important.to(features.device)] = 1
        chosen[1, i, [n.neuron for n in one.missing]] = 1
        for neuron in one.unexpected:  # its size counts, whether it speaks for the class or against it
            chosen[2, i, neuron.neuron] = 1 if neuron.found >= 0 else -1
    expected = torch.stack([e.expected for e in explained]).to(features)
    own = [top_weights(expected, MAP_NEURONS), top_weights(weight * features, MAP_NEURONS)]
    try:
        found = place_maps(classifier, images, torch.cat([chosen * weight, torch.stack(own)]))
    except (InputError, HeadError):  # of vectors shaped as images, say
        return explained
    values = found.values.detach().float().cpu()
    agreement = cosine(values[3].flatten(1), values[4].flatten(1))
    pixels = shown_pixels(images, preprocessing)
    explained_with = []
    for i, one in enumerate(explained):
        usual = sum(n.expected for n in one.missing) / values[1, i].numel()
        maps = Maps(
            evidence=values[0, i],
            missing=(usual - values[1, i]).clamp(min=0),
            unexpected=values[2, i],
            agreement=float(agreement[i]),
            layer=found.start.module,
            exact=found.exact,
        )
        explained_with.append(replace(one, maps=maps, pixels=pixels[i]))
    return explained_with


def with_pixels(explained: list[Explanation], inputs: Inputs, preprocessing: Preprocessing | None) -> list[Explanation]:
    """The same with the image, where inputs are images, so that a figure can show the place in it."""
    images = as_tensors(inputs)
    if not isinstance(images, Tensor) or images.ndim != 4:
        return explained
    return [
        replace(one, pixels=shown) for one, shown in zip(explained, shown_pixels(images, preprocessing), strict=True)
    ]


def shown_pixels(images: Float[Tensor, "n c h w"], preprocessing: Preprocessing | None) -> UInt8[Tensor, "n h w 3"]:
    """Images as a person sees them (N, H, W, 3): by the preprocessing, or from their least to their largest value.

    Examples
    --------
    >>> shown_pixels(torch.tensor([[[[0.0, 1.0]]]]), None)[0, 0].tolist()
    [[0, 0, 0], [255, 255, 255]]
    """
    images = images.detach().float().cpu()
    if preprocessing is not None and len(preprocessing.mean) == images.shape[1]:
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (preprocessing.mean, preprocessing.std))
        images = images * std + mean
        if preprocessing.mode == "BGR":
            images = images.flip(1)
    else:
        low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
        images = (images - low) / (high - low).clamp(min=1e-12)
    colours = images if images.shape[1] == 3 else images.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    return (colours.clamp(0, 1) * 255).round().byte().movedim(1, -1)


@dataclass(frozen=True, eq=False)
class _One:
    of_rows: bool
    predicted_class: int
    expected: Tensor
    found: Tensor
    counted: Tensor
    activation: Tensor
    weight: Tensor
    important: Tensor
    neurons: Neurons | None

    def missing(self, top: int) -> tuple[Neuron, ...]:
        if self.neurons is None:
            less = self.important & (self.found < self.expected / 2)
            return self._largest(torch.where(less, self.expected - self.found, -torch.inf), top)
        less = self.important & (self._surprise < -SURPRISING)
        return self._largest(torch.where(less, -self._surprise, -torch.inf), top)

    def unexpected(self, top: int) -> tuple[Neuron, ...]:
        excess = self.found.abs() - self.expected.abs()
        tiny = excess <= LEAST * self.expected[self.important].sum()
        excess = torch.where(self.important | tiny, -torch.inf, excess)
        if self.neurons is not None:
            excess = torch.where(self._surprise.abs() > SURPRISING, excess, -torch.inf)
        return self._largest(excess, top)

    @property
    def _surprise(self) -> Tensor:
        """How many standard deviations of the class the contribution is above its mean (D,)."""
        assert self.neurons is not None
        spread = self.weight.abs() * self.neurons.spread[self.predicted_class].cpu()
        more = self.found - self.weight * self.neurons.mean[self.predicted_class].cpu()
        differs = torch.where(more.abs() > 1e-6 * self.found.abs(), more.sign() * torch.inf, 0.0)
        return torch.where(spread > 0, more / spread, differs.nan_to_num(0.0, torch.inf, -torch.inf))

    def _largest(self, measure: Tensor, top: int) -> tuple[Neuron, ...]:
        order = measure.argsort(stable=True, descending=True)[:top]
        return tuple(self._neuron(int(d)) for d in order if measure[d] > 0)

    def _sample(self, index: int, activation: float) -> TopSample:
        if self.of_rows:  # whose numbers are of an input and of a place in it
            sample, place = divmod(index, MOST_PLACES)
            return TopSample(sample, activation, place=place)
        kept = None if self.neurons is None else self.neurons.pictures
        return TopSample(index, activation, None if kept is None else kept.uri(index))

    def _neuron(self, d: int) -> Neuron:
        mean = z = None
        samples: tuple[TopSample, ...] = ()
        if self.neurons is not None:
            mean, spread = (
                float(self.neurons.mean[self.predicted_class, d]),
                float(self.neurons.spread[self.predicted_class, d]),
            )
            z = (float(self.activation[d]) - mean) / spread if spread > 0 else None
            pairs = zip(self.neurons.top_index[:, d].tolist(), self.neurons.top_values[:, d].tolist(), strict=True)
            samples = tuple(self._sample(index, value) for index, value in pairs)
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
