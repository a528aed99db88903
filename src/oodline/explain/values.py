"""The numbers that parts and curves are taken of: a score, a logit, a probability or a p-value, as a function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from oodline.detectors.base import Detector
from oodline.errors import SettingError
from oodline.model.classifier import Classifier
from oodline.passes.fit import reads
from oodline.scoring.class_calibration import AnyCalibration

Number = Literal["score", "logit", "probability", "p_value"]


def value_of(
    number: Number,
    classifier: Classifier,
    detector: Detector | None = None,
    calibration: AnyCalibration | None = None,
    label: int | None = None,
) -> Callable[[Tensor], Tensor]:
    """A function from images (N, C, H, W) to one number each (N,), in one forward pass.

    Parameters
    ----------
    number : {"score", "logit", "probability", "p_value"}
        The detector's score, the logit or the softmax probability of a class, or the p-value of the score.
    classifier : Classifier
        Of images.
    detector : Detector, optional
        For a score and a p-value.
    calibration : Calibration or ClassCalibration, optional
        For a p-value.
    label : int, optional
        The class, for a logit and a probability.

    Raises
    ------
    SettingError
        What the number is of is missing.

    Examples
    --------
    >>> from oodline.testing.toys import toy_network
    >>> classifier, images = Classifier(toy_network()), torch.rand(5, 3, 8, 8)
    >>> value_of("logit", classifier, label=2)(images).shape
    torch.Size([5])
    """
    if number in ("logit", "probability"):
        if label is None or not 0 <= label < classifier.head.num_classes:
            raise SettingError(f"a {number} is of a class: `label` must be one of its numbers; got {label}.")
        return lambda images: _of_class(classifier(images).logits, number)[:, label]
    if detector is None or (number == "p_value" and calibration is None):
        raise SettingError(f"a {number} needs {'a detector' if detector is None else 'a calibration'}; there is none.")
    detects, settings = detector, reads([detector])

    def score(images: Tensor) -> Tensor:
        activations = classifier(images, **settings)
        with torch.no_grad():
            scores = detects.score_rows(activations).cpu()
        return (
            scores
            if number == "score" or calibration is None
            else calibration.p_value(scores, activations.predicted.cpu())
        )

    return score


def _of_class(logits: Tensor, number: str) -> Tensor:
    return logits if number == "logit" else logits.softmax(1)
