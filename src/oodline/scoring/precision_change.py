"""How much logits, classes and scores change where a network runs in half precision."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from oodline._util.checked import checked
from oodline.data.batch import Inputs
from oodline.detectors.named import Detectors, name_detectors
from oodline.model.classifier import Classifier
from oodline.passes.fit import reads
from oodline.scoring.score import check_fitted_on


@dataclass(frozen=True)
class Change:
    """Largest difference from float32 on some samples, and the range of the values there."""

    largest: float
    range: float

    @classmethod
    def between(cls, here: Tensor, there: Tensor) -> Change:
        """Of two tensors of one shape, the second in float32."""
        return cls(float((here - there).abs().max()), float(there.max() - there.min()))

    def __str__(self) -> str:
        return f"{self.largest:.2g} (their range is {self.range:.3g})"


@dataclass(frozen=True)
class PrecisionChange:
    """What `precision_change` measured.

    Parameters
    ----------
    dtype : str
        What the network computes in.
    samples, classes : int
        How many samples were compared, and for how many of them the predicted class is another one.
    logits : Change
        Of the logits.
    scores : dict of str to Change
        Of the scores, by detector.

    Examples
    --------
    >>> str(PrecisionChange("bfloat16", 8, 0, Change(0.01, 4.0), {}))
    'in bfloat16: on 8 samples logits differ from those in float32 by up to 0.01 (their range is 4), 0 classes change'
    """

    dtype: str
    samples: int
    classes: int
    logits: Change
    scores: dict[str, Change]

    def to_dict(self) -> dict[str, Any]:
        """Plain values by name."""
        return asdict(self)

    def __str__(self) -> str:
        scores = "".join(f"; scores of {name} by up to {change}" for name, change in self.scores.items())
        return (
            f"in {self.dtype}: on {self.samples} samples logits differ from those in float32 by up to {self.logits}, "
            f"{self.classes} classes change{scores}"
        )


@checked
def precision_change(classifier: Classifier, inputs: Inputs, detectors: Detectors | None = None) -> PrecisionChange:
    """Compare a classifier that runs in half precision with itself in float32.

    Parameters
    ----------
    classifier : Classifier
        Such as `Classifier(model, dtype="bfloat16")`.
    inputs : Tensor, NumPy array or mapping
        Some samples, as the model takes them.
    detectors : Detector, name, iterable of them, or mapping from names to them, optional
        Fitted, whose scores are compared too.

    Examples
    --------
    >>> import oodline as ol
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> half = ol.Classifier(classifier.model, dtype="bfloat16")
    >>> change = precision_change(half, loader[0][0], {"energy": ol.Energy()})
    >>> 0 < change.logits.largest < 0.05 * change.logits.range, 0 < change.scores["energy"].largest < 1
    (True, True)
    """
    named = {} if detectors is None else name_detectors(detectors)
    check_fitted_on(named, classifier)
    exact = copy.copy(classifier)  # the same model, and what is known of its head
    exact.dtype, exact._passes = "float32", None
    needs = reads(named.values())
    here, there = classifier(inputs, **needs), exact(inputs, **needs)
    with torch.no_grad():
        scores = {name: Change.between(detector(here), detector(there)) for name, detector in named.items()}
    return PrecisionChange(
        classifier.dtype,
        len(here),
        int((here.logits.argmax(1) != there.logits.argmax(1)).sum()),
        Change.between(here.logits, there.logits),
        scores,
    )
