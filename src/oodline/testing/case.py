"""A detector that is held to the contract, and what the rules do with it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from oodline.data.batch import Batch
from oodline.detectors.base import Detector
from oodline.model.activations import Activations
from oodline.model.classifier import Classifier
from oodline.passes.fit import reads
from oodline.statistics import Statistic
from oodline.testing.problem import IMAGES, batches, make_classifier, without_evidence


class Case:
    """How to make a detector, and one that is fitted, made once.

    Parameters
    ----------
    make : callable
        Gives a new detector that is not fitted.
    """

    def __init__(self, make: Callable[[], Detector]) -> None:
        self.make = make

    @cached_property
    def _fitted(self) -> tuple[Detector, Classifier]:
        classifier = make_classifier()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.make().fit(classifier, batches()), classifier

    def fitted(self) -> tuple[Detector, Classifier]:
        """A copy of the detector that was fitted when it was first asked for, and a copy of its classifier."""
        return copy.deepcopy(self._fitted)


def read(detector: Detector, classifier: Classifier, images: Tensor = IMAGES) -> Activations:
    """Run the classifier for what the detector reads."""
    return classifier(images, **reads([detector]))


def requested(detector: Detector, classifier: Classifier) -> dict[str, Statistic]:
    """The empty statistics that the detector asks for, once it has seen the classifier."""
    detector.use_classifier(classifier)
    return detector._requests(classifier.head)


def filled(detector: Detector, classifier: Classifier, loader: Iterable[Batch]) -> dict[str, Statistic]:
    """Fill the statistics that the detector asks for, without settling it."""
    statistics = requested(detector, classifier)
    for activations, labels in classifier.stream(loader, **reads([detector])):
        for statistic in statistics.values():
            statistic.update(activations, labels)
    return statistics


def require(holds: bool, broken: str) -> None:
    """Raise `AssertionError` with a sentence where something does not hold."""
    if not holds:
        raise AssertionError(broken)


def same_scores(one: Tensor, other: Tensor, cases: tuple[str, str], remedy: str, tolerance: float = 1e-5) -> None:
    """Raise `AssertionError`, with the sample that differs most, where scores are not equal up to rounding."""
    if torch.allclose(one, other, rtol=tolerance, atol=tolerance):
        return
    worst = int((one - other).abs().nan_to_num(torch.inf).argmax())
    raise AssertionError(
        f"sample {worst} scores {float(one[worst]):.6g} {cases[0]}, and {float(other[worst]):.6g} {cases[1]}. {remedy}"
    )


def same_detector(one: Detector, other: Detector, classifier: Classifier, cases: tuple[str, str], remedy: str) -> None:
    """Compare by scores, since equal detectors may differ in state: eigenvectors have no sign of their own."""
    for images in (IMAGES, without_evidence()):
        same_scores(one(read(one, classifier, images)), other(read(other, classifier, images)), cases, remedy)


def auroc(positive: Tensor, negative: Tensor) -> float:
    """The probability that a positive sample scores higher than a negative one; ties count half."""
    difference = positive[:, None] - negative
    return float((difference > 0).double().mean() + 0.5 * (difference == 0).double().mean())


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that can be compared: a member becomes its name and settings."""

    def compared(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(compared(one) for one in value)
        return (value.name, plain(value.settings)) if isinstance(value, Detector) else value

    return {key: compared(value) for key, value in settings.items()}
