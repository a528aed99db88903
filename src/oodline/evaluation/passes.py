"""The passes of a benchmark: fit on one data set, score the others, whatever the number of detectors."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter

from oodline._util.warning import warn
from oodline.data import AnyLoader
from oodline.data.batch import KnownLoader
from oodline.detectors.base import Detector
from oodline.errors import AssumptionWarning, InputError, OodlineError
from oodline.evaluation.kept import keep_fitted, restore_fitted, score_or_recall
from oodline.evaluation.protocol import DataSection
from oodline.evaluation.record import Role, WarningEntry
from oodline.guard.calibrate_detectors import calibrate_detectors
from oodline.guard.probe import Probe
from oodline.model.classifier import Classifier
from oodline.passes.fit import Fittable, fit_all
from oodline.passes.training_accuracy import TrainingAccuracy
from oodline.scoring.calibration import false_alarm_of
from oodline.scoring.class_calibration import AnyCalibration
from oodline.scoring.score import Scores


@dataclass(frozen=True)
class BenchmarkSet:
    """An opened data set with what it is for."""

    name: str
    role: Role
    section: DataSection
    loader: AnyLoader

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
    probe: Probe | None = None
    scores: dict[str, Scores] = field(default_factory=dict)
    """By data set."""
    fit_seconds: dict[str, float] = field(default_factory=dict)
    warnings: list[WarningEntry] = field(default_factory=list)
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
        elif this.role == "calibration":
            outcome.scores[this.name] = _calibrate(outcome, classifier, this.loader, tpr, progress)
        else:
            scores = score_or_recall(outcome.detectors, classifier, this.loader, progress=progress)
            outcome.leave_out(scores.failures)
            outcome.scores[this.name] = scores
        cached = getattr(classifier, "computed", None) == before
        outcome.passes[this.name] = (perf_counter() - started, cached)
    outcome.calibrations = {x: c for x, c in outcome.calibrations.items() if x in outcome.detectors}
    if outcome.probe is not None:
        scores_of_inputs = {x: each for x, each in outcome.probe.scores.items() if x in outcome.detectors}
        outcome.probe = replace(outcome.probe, scores=scores_of_inputs)
    return outcome


def _calibrate(outcome: Outcome, classifier: Classifier, loader: AnyLoader, tpr: float, progress: bool) -> Scores:
    calibrated = calibrate_detectors(
        outcome.detectors,
        classifier,
        loader,
        false_alarm_of(None, tpr),
        on_failure="skip",
        score=partial(score_or_recall, progress=progress),
        progress=progress,
    )
    outcome.leave_out(calibrated.failures)
    outcome.calibrations, outcome.probe = calibrated.calibrations, calibrated.probe
    return calibrated.scores


def _fit(outcome: Outcome, classifier: Classifier, loader: KnownLoader, progress: bool) -> None:
    kept = restore_fitted(outcome.detectors, classifier, loader)
    outcome.detectors = {label: kept.get(label, d) for label, d in outcome.detectors.items()}
    # those without a state have nothing to fit, and must not make the pass compute what only their scores read
    waiting = {label: d for label, d in outcome.detectors.items() if label not in kept and d.has_state}
    if not waiting:
        return
    accuracy = TrainingAccuracy(getattr(getattr(loader, "source", None), "class_names", None))
    beside: dict[str, Fittable] = {} if classifier.lacking(accuracy.all_needs) else {accuracy.name: accuracy}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AssumptionWarning)  # they are in `outcome.warnings`
        found = fit_all({**waiting, **beside}, classifier, loader, on_failure="skip", progress=progress)
    fitted = {label: d for label, d in waiting.items() if label in found.detectors}
    outcome.leave_out({label: error for label, error in found.failures.items() if label in waiting})
    outcome.fit_seconds = {label: found.seconds[label] for label in fitted}
    if accuracy.order:
        warn(accuracy.order)
    outcome.warnings = [
        WarningEntry(detector=None, message=text) for text in (accuracy.warning, accuracy.order) if text
    ]
    outcome.warnings += [
        WarningEntry(detector=label, message=f"it may do worse than MSP here: {detector.doubts}")
        for label, detector in fitted.items()
        if detector.doubts
    ]
    keep_fitted(fitted, classifier, loader)
