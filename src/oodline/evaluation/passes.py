"""The passes of a benchmark: fit on one data set, score the others, whatever the number of detectors."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter

from oodline.data import ImageLoader, TensorLoader
from oodline.data.batch import KnownLoader
from oodline.detectors.base import Detector
from oodline.errors import AssumptionWarning, InputError, OodlineError
from oodline.evaluation.kept import keep_fitted, restore_fitted, score_or_recall
from oodline.evaluation.protocol import SetPart
from oodline.evaluation.record import Role
from oodline.model.classifier import Classifier
from oodline.passes.fit import fit
from oodline.scoring.calibration import false_alarm_of
from oodline.scoring.class_calibration import AnyCalibration, calibrate_all
from oodline.scoring.score import Scores


@dataclass(frozen=True)
class BenchmarkSet:
    """An opened data set with what it is for."""

    name: str
    role: Role
    part: SetPart
    loader: ImageLoader | TensorLoader

    @property
    def samples(self) -> int:
        """Samples that were read in the last pass."""
        return self.loader.num_samples - len(self.loader.skipped)


@dataclass
class Outcome:
    """What the passes gave, as far as they have come; labels are those of the detectors."""

    detectors: dict[str, Detector]
    failures: dict[str, str] = field(default_factory=dict)
    calibrations: dict[str, AnyCalibration] = field(default_factory=dict)
    scores: dict[str, Scores] = field(default_factory=dict)
    """By data set."""
    fit_seconds: dict[str, float] = field(default_factory=dict)
    passes: dict[str, tuple[float, bool]] = field(default_factory=dict)
    """Seconds, and whether the network did not run, by data set."""

    def leave_out(self, failures: Mapping[str, OodlineError]) -> None:
        """Go on without some detectors.

        Raises
        ------
        InputError
            There is none left.
        """
        self.failures |= {label: str(error) for label, error in failures.items()}
        self.detectors = {label: d for label, d in self.detectors.items() if label not in self.failures}
        if not self.detectors:
            reasons = "\n".join(f"  {label}: {reason}" for label, reason in self.failures.items())
            raise InputError(f"no detector is left:\n{reasons}")


def measure(
    detectors: dict[str, Detector],
    classifier: Classifier,
    sets: list[BenchmarkSet],
    *,
    tpr: float = 0.95,
    progress: bool = False,
) -> Outcome:
    """Fit on the first set, then score the others; a `CachedClassifier` is not run over what is on disk.

    A detector that the classifier cannot serve, or that fails, is left out with its reason; the others go on.
    """
    outcome = Outcome(detectors)
    for this in sets:
        before, started = getattr(classifier, "computed", -1), perf_counter()
        if this.role == "fit":
            _fit(outcome, classifier, this.loader, progress)
        else:
            found = score_or_recall(outcome.detectors, classifier, this.loader, progress=progress)
            outcome.leave_out(found.failures)
            outcome.scores[this.name] = found
        if this.role == "calibration":
            outcome.calibrations = calibrate_all(found, classifier.head.num_classes, false_alarm_of(None, tpr))
        cached = getattr(classifier, "computed", None) == before
        outcome.passes[this.name] = (perf_counter() - started, cached)
    outcome.calibrations = {x: c for x, c in outcome.calibrations.items() if x in outcome.detectors}
    return outcome


def _fit(outcome: Outcome, classifier: Classifier, loader: KnownLoader, progress: bool) -> None:
    kept = restore_fitted(outcome.detectors, classifier, loader)
    outcome.detectors = {label: kept.get(label, d) for label, d in outcome.detectors.items()}
    # those without a state have nothing to fit, and must not make the pass compute what only their scores read
    waiting = {label: d for label, d in outcome.detectors.items() if label not in kept and d.has_state}
    if not waiting:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AssumptionWarning)  # the table shows what became of it
        found = fit(waiting, classifier, loader, on_failure="skip", progress=progress)
    outcome.leave_out(found.failures)
    outcome.fit_seconds = found.seconds
    keep_fitted(found.detectors, classifier, loader)
