"""The numbers that parts and curves are taken of: a score, a logit, a probability or a p-value, as a function."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from oodline._util.checked import checked
from oodline.detectors.base import Detector
from oodline.errors import InputError, SettingError
from oodline.explain.numbers import Value
from oodline.model.activations import Activations
from oodline.model.classifier import Classifier
from oodline.model.rows.per_input import Drawn
from oodline.passes.fit import reads
from oodline.scoring.class_calibration import AnyCalibration

Number = Literal["score", "logit", "probability", "p_value"]


@checked
def value_of(
    number: Number,
    classifier: Classifier,
    detector: Detector | None = None,
    calibration: AnyCalibration | None = None,
    label: int | None = None,
    place: int | None = None,
) -> Value:
    """A function from images (N, C, H, W) to one number each (N,), in one forward pass.

    Of a classifier with several rows per input, such as one per pixel, it is the number of one place; without a place
    the score, or the p-value, by which an input is judged.

    Parameters
    ----------
    number : {"score", "logit", "probability", "p_value"}
        The detector's score, the logit or the probability of a class, or the p-value of the score. Probabilities are
        those of a softmax, and of a multi-label classifier those of a sigmoid.
    classifier : Classifier
        Of images.
    detector : Detector, optional
        For a score and a p-value.
    calibration : Calibration or ClassCalibration, optional
        For a p-value.
    label : int, optional
        The class, for a logit and a probability.
    place : int, optional
        Which row of each input, for a classifier of rows: position in its flattened map, or in its text.

    Raises
    ------
    SettingError
        What the number is of is missing, or has no such number.

    Examples
    --------
    >>> from oodline.testing.toys import toy_network
    >>> classifier, images = Classifier(toy_network()), torch.rand(5, 3, 8, 8)
    >>> value_of("logit", classifier, label=2)(images).shape
    torch.Size([5])
    """
    of_class = number in ("logit", "probability")
    _check_place(number, classifier, place)
    if of_class and (label is None or not 0 <= label < classifier.head.num_classes):
        raise SettingError(f"a {number} is of a class: `label` must be one of its numbers; got {label}.")
    if not of_class and (detector is None or (number == "p_value" and calibration is None)):
        raise SettingError(f"a {number} needs {'a detector' if detector is None else 'a calibration'}; there is none.")
    settings = reads([] if of_class or detector is None else [detector])

    def value(images: Tensor) -> Tensor:
        activations = classifier(images, **settings)
        if place is not None:
            activations = _at(activations, place)
        if of_class:
            found = activations.logits if number == "logit" else probabilities(activations)
            return found[:, label]
        assert detector is not None  # it was asked for
        with torch.no_grad():
            scores = detector.score_rows(activations).cpu()
        predicted = None if classifier.rows is not None else activations.predicted.cpu()
        if place is None:
            scores = activations.judged(scores.double())  # as a verdict is made, to the last bit
        return scores if number == "score" or calibration is None else calibration.p_value(scores, predicted)

    return value


def probabilities(activations: Activations) -> Tensor:
    """Probabilities of the classes (N, C): a softmax, or a sigmoid each where a sample may have several labels.

    Examples
    --------
    >>> from oodline.testing import activations_of
    >>> probabilities(activations_of(torch.zeros(1, 4)))
    tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """
    logits = activations.logits
    return logits.sigmoid() if activations.head.task == "multilabel" else logits.softmax(1)


def _check_place(number: str, classifier: Classifier, place: int | None) -> None:
    rows = classifier.rows
    if rows is None and place is not None:
        raise SettingError("`place` is for a classifier with several rows per input; this one has one. Leave it out.")
    if rows is None or place is not None:
        return
    if number in ("logit", "probability"):
        raise SettingError(
            f"a {number} is of one row, and this classifier has {rows.name}. Say which: place=NUMBER; or explain the "
            "score of the input."
        )
    if isinstance(rows.per_input, Drawn):
        raise SettingError(
            f"a classifier of {rows.name} promises of one row, drawn by chance, so the input has no {number} of its "
            "own to explain."
        )


def _at(activations: Activations, place: int) -> Activations:
    """The row of each input at one place."""
    chosen = activations.place == place
    if int(chosen.sum()) != len(activations.samples):
        raise InputError(
            f"{int(chosen.sum())} of {len(activations.samples)} inputs have a row at place {place}, and all must. "
            "Choose a place within the map that has a row in every image."
        )
    return activations.take(chosen)
