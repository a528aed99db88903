"""The passes of a benchmark: fit on one data set, score the others, whatever the number of detectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from oodline.data import ImageLoader, TensorLoader
from oodline.detectors.base import Detector
from oodline.errors import InputError, OodlineError
from oodline.evaluation.cache import KnownLoader
from oodline.evaluation.kept import keep_fitted, restore_fitted, score_or_recall
from oodline.evaluation.protocol import SetPart
from oodline.evaluation.record import Role
from oodline.model.activations import Needs
from oodline.model.classifier import Classifier
from oodline.model.head import Head
from oodline.passes.fit import fit
from oodline.scoring.calibration import calibrate, false_alarm_of
from oodline.scoring.class_calibration import AnyCalibration
from oodline.scoring.score import Scores, unsupported

PROBED = 4
"""Images on which is tried whether the classifier can serve a detector that needs more than features."""


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
    passed: Classifier,
    sets: list[BenchmarkSet],
    *,
    tpr: float = 0.95,
    progress: bool = False,
) -> Outcome:
    """Fit on the first set, then score the others; `passed` is the classifier itself or a cached one.

    A detector that the classifier cannot serve, or that fails, is left out with its reason; the others go on.
    """
    outcome = Outcome(detectors)
    for this in sets:
        before, started = getattr(passed, "computed", -1), perf_counter()
        if this.role == "fit":
            few = this.loader.over([this.loader.rows[:PROBED]])
            outcome.leave_out(unsupported(outcome.detectors, classifier, few))
            _fit(outcome, passed, this.loader, progress)
        else:
            found, failures = score_or_recall(outcome.detectors, passed, this.loader, progress=progress)
            outcome.leave_out(failures)
            outcome.scores[this.name] = found
        if this.role == "calibration":
            outcome.calibrations = {
                label: calibrate(scores, false_alarm_of(None, tpr)) for label, scores in found.scores.items()
            }
        cached = getattr(passed, "computed", None) == before
        outcome.passes[this.name] = (perf_counter() - started, cached)
    outcome.calibrations = {x: c for x, c in outcome.calibrations.items() if x in outcome.detectors}
    return outcome


class _Estimate:
    """A detector for `fit`: how long its own estimate takes after the pass, and why it failed if it did."""

    def __init__(self, detector: Detector) -> None:
        self.name, self.detector, self.seconds = detector.name, detector, 0.0
        self.failure: OodlineError | None = None

    @property
    def all_needs(self) -> Needs:
        return self.detector.all_needs

    @property
    def all_layers(self) -> tuple[str, ...]:
        return self.detector.all_layers

    def _requests(self, head: Head) -> dict[str, Any]:
        return self.detector._requests(head)

    def _settle(self, statistics: Mapping[str, Any], head: Head) -> None:
        started = perf_counter()
        try:
            self.detector._settle(statistics, head)
        except OodlineError as error:
            self.failure = error
        self.seconds = perf_counter() - started


def _fit(outcome: Outcome, passed: Classifier, loader: KnownLoader, progress: bool) -> None:
    kept = restore_fitted(outcome.detectors, passed, loader)
    outcome.detectors = {label: kept.get(label, d) for label, d in outcome.detectors.items()}
    # those without a state have nothing to fit, and must not make the pass compute what only their scores read
    waiting = {label: d for label, d in outcome.detectors.items() if label not in kept and d.has_state}
    estimates = {label: _Estimate(d) for label, d in waiting.items()}
    if estimates:
        fit(estimates, passed, loader, progress=progress)  # type: ignore[arg-type]  # `name` is its own
    outcome.leave_out({label: e.failure for label, e in estimates.items() if e.failure is not None})
    outcome.fit_seconds = {label: e.seconds for label, e in estimates.items()}
    keep_fitted({label: d for label, d in waiting.items() if label in outcome.detectors}, passed, loader)
