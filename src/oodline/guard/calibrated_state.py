"""Detect that classifier or detector changed after calibration, which makes the threshold invalid."""

from __future__ import annotations

from oodline.detectors.base import Detector
from oodline.errors import MismatchError
from oodline.guard.probe import Probe
from oodline.model.changes import Behaviour, Snapshot
from oodline.model.classifier import Classifier


class CalibratedState:
    """Snapshots of both.

    Parameters
    ----------
    classifier, detector
        As the guard holds them now.
    volatile : set of str
        Tensors of the classifier that each pass changes.

    Examples
    --------
    >>> from oodline import Energy
    >>> from oodline.testing import toy_problem
    >>> classifier, detector = toy_problem()[0], Energy()
    >>> state = CalibratedState(classifier, detector)
    >>> detector.temperature = 2.0
    >>> state.check(classifier, detector)
    Traceback (most recent call last):
    oodline.errors.MismatchError: the detector changed after the guard was calibrated: ...
    """

    def __init__(self, classifier: Classifier, detector: Detector, volatile: frozenset[str] = frozenset()) -> None:
        self.classifier = Snapshot(classifier.model, volatile=volatile)
        self.detector = Snapshot(detector, settings=True)
        self._behaviour = Behaviour(classifier.model)

    def check(self, classifier: Classifier, detector: Detector, probe: Probe | None = None) -> None:
        """Raise `MismatchError` where one of them changed since, or is another one.

        Another class, attribute or hook of the classifier counts where the probe then has other logits.
        """
        for what, module, before in (
            ("classifier", classifier.model, self.classifier),
            ("detector", detector, self.detector),
        ):
            if difference := "it is another one" if before.module is not module else before.change():
                shared = " Where another guard was calibrated with it since, give each guard a copy.deepcopy of it."
                raise MismatchError(
                    f"the {what} changed after the guard was calibrated: {difference}. Fit the detector again where "
                    "the classifier is another one, and call guard.calibrate(held_out_loader) again."
                    + (shared if what == "detector" else "")
                )
        if probe is not None and (changed := self._behaviour.changed()):
            now = Behaviour(classifier.model)
            if difference := probe.difference(classifier, {}, {}):
                raise MismatchError(
                    f"the classifier changed after the guard was calibrated: {self._behaviour.describe(changed)}, and "
                    f"{difference}. Undo the change, or call guard.calibrate(held_out_loader) again."
                )
            # the trial may write values of its own, such as a count of calls: these are not watched any more
            self._behaviour = Behaviour(classifier.model, self._behaviour.volatile | now.changed())
