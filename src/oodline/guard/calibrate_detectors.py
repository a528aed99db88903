"""Calibrate detectors on held-out data, for `Guard.calibrate`, `fit_guards` and `run_protocol`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from oodline.detectors.base import Detector
from oodline.errors import OodlineError, SettingError
from oodline.guard.probe import Probe, peek, take_probe
from oodline.model.classifier import Classifier
from oodline.passes.engine import Engine
from oodline.scoring.calibration import check_enough
from oodline.scoring.class_calibration import AnyCalibration, calibrate_all
from oodline.scoring.score import Scores, score_all
from oodline.scoring.seen_data import warn_of_seen_data
from oodline.scoring.split import count_samples, set_references


@dataclass(frozen=True)
class Calibrated:
    """Thresholds by detector, what proves the classifier later, and the scores that the thresholds were chosen on."""

    calibrations: dict[str, AnyCalibration]
    probe: Probe | None
    scores: Scores
    failures: dict[str, OodlineError]
    """Why other detectors were not calibrated. Empty unless `on_failure="skip"`."""


def calibrate_detectors(
    detectors: Mapping[str, Detector],
    classifier: Classifier,
    loader: Iterable[Any],
    false_alarm: float,
    by: Literal["all", "predicted"] = "all",
    *,
    keep_inputs: int = 0,
    on_failure: Literal["raise", "skip"] = "raise",
    score: Callable[[Mapping[str, Detector], Classifier, Iterable[Any]], Scores] | None = None,
    engine: Engine | None = None,
    progress: bool = False,
) -> Calibrated:
    """Give a fifth of held-out data to the detectors that compare with it, and choose thresholds on the rest.

    Where no detector compares, or a fifth would be too few, all of the data is for the thresholds; see
    `set_references`.

    Parameters
    ----------
    detectors : mapping of str to Detector
        Fitted; changed in place where they compare with held-out data.
    classifier : Classifier
        That they were fitted on.
    loader : iterable
        Batches of held-out ID data.
    false_alarm, by, keep_inputs
        As in `Guard.calibrate`.
    on_failure : {"raise", "skip"}
        Where a detector fails: raise an error, or go on without it and say why in `failures`.
    score : callable, optional
        What makes the scores, in place of a pass by `score_all`.
    engine : Engine, optional
        Who makes the pass for the thresholds.
    progress : bool
        Show progress bars.

    Raises
    ------
    SettingError, InputError
        As `Guard.calibrate`.

    Examples
    --------
    >>> from oodline import Fuse
    >>> from oodline.testing import toy_loader, toy_problem
    >>> classifier, loader = toy_problem()
    >>> held_out = [toy_loader(seed=seed)[0] for seed in (1, 2, 3)]
    >>> calibrated = calibrate_detectors({"fuse": Fuse().fit(classifier, loader)}, classifier, held_out, 0.05)
    >>> len(calibrated.calibrations["fuse"].scores)  # of 180; the others are the reference
    151
    """
    if classifier.rows is not None and by != "all":
        raise SettingError(
            f"`by` must be 'all' for a classifier with one row per place of an input; got {by!r}: an input has no "
            "predicted class of its own."
        )
    first, loader = peek(loader)
    if (count := count_samples(loader)) is not None:
        check_enough(count, false_alarm)
    failures: dict[str, OodlineError] = {}
    noted = failures if on_failure == "skip" else None
    rest = set_references(detectors, classifier, loader, false_alarm, failures=noted, progress=progress)
    score = score or partial(score_all, on_failure=on_failure, engine=engine, progress=progress)
    scores = score({name: d for name, d in detectors.items() if name not in failures}, classifier, rest)
    failures |= scores.failures
    if classifier.rows is not None:
        scores = scores.where_finite()  # inputs without a row, such as a box, are not judged
    working = {name: detector for name, detector in detectors.items() if name not in failures}
    if engine is None or engine.is_main:
        warn_of_seen_data(working.values(), scores)
    calibrations = calibrate_all(scores, classifier.head.num_classes, false_alarm, by)
    return Calibrated(calibrations, take_probe(classifier, working, first, keep_inputs), scores, failures)
