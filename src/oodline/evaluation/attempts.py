"""Scoring by many detectors of which some may fail: the others go on, and each failure keeps its reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from oodline.detectors.base import Detector
from oodline.errors import InputError, OodlineError
from oodline.model.activations import Activations, Needs
from oodline.model.classifier import Classifier
from oodline.scoring.score import Scores, score_all


class _Attempt(Detector):
    """A detector that gives zeros from the batch on in which it failed, and remembers why."""

    name: ClassVar = "attempt"
    needs: ClassVar = Needs.LOGITS

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector
        self.failure: OodlineError | None = None

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """The scores of the detector (N,), zeros once it has failed."""
        if self.failure is None:
            try:
                scores: Tensor = self.detector(activations)
                if bad := int((~torch.isfinite(scores)).sum()):
                    raise InputError(
                        f"it gave NaN or infinite scores for {bad} of {len(scores)} samples of the batch that begins "
                        f"with sample {int(activations.index[0])} of the data set."
                    )
                return scores
            except OodlineError as error:
                self.failure = error
        return torch.zeros(len(activations))


def score_each(
    detectors: Mapping[str, Detector], classifier: Classifier, loader: Iterable[Any], *, progress: bool = False
) -> tuple[Scores, dict[str, OodlineError]]:
    """As `score_all`, but a detector that fails, or gives NaN, is left out of the scores, and its error returned.

    What fails for all of them, such as an image that cannot be read, is raised.

    Examples
    --------
    >>> from oodline import ODIN, Energy
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> inputs = {"input": loader[0][0]}  # a mapping, as for a text classifier: nothing to differentiate by
    >>> scores, failures = score_each({"energy": Energy(), "odin": ODIN()}, classifier, [inputs])
    >>> list(scores.scores), list(failures)
    (['energy'], ['odin'])
    """
    attempts = {label: _Attempt(detector) for label, detector in detectors.items()}
    found = score_all(attempts, classifier, loader, progress=progress)
    failures = {label: a.failure for label, a in attempts.items() if a.failure is not None}
    kept = {label: values for label, values in found.scores.items() if label not in failures}
    return replace(found, scores=kept), failures
