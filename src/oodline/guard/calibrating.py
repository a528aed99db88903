"""Calibrate detectors on held-out data, for `Guard.calibrate`, `fit_guards` and `oodline fit`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from oodline.detectors.base import Detector
from oodline.guard.probe import Probe, peek, take_probe
from oodline.model.classifier import Classifier
from oodline.passes.engine import Engine
from oodline.scoring.calibration import check_enough
from oodline.scoring.class_calibration import AnyCalibration, calibrate_all
from oodline.scoring.score import score_all
from oodline.scoring.seen_data import warn_of_seen_data
from oodline.scoring.split import count_samples, set_references


@dataclass(frozen=True)
class Calibrated:
    """Thresholds by detector, and what proves the classifier later."""

    calibrations: dict[str, AnyCalibration]
    probe: Probe | None


def calibrate_detectors(
    detectors: Mapping[str, Detector],
    classifier: Classifier,
    loader: Iterable[Any],
    false_alarm: float,
    by: Literal["all", "predicted"] = "all",
    *,
    keep_inputs: int = 0,
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
    >>> found = calibrate_detectors({"fuse": Fuse().fit(classifier, loader)}, classifier, held_out, 0.05)
    >>> len(found.calibrations["fuse"].scores)  # of 180; the others are the reference
    151
    """
    first, loader = peek(loader)
    if (count := count_samples(loader)) is not None:
        check_enough(count, false_alarm)
    rest = set_references(detectors.values(), classifier, loader, false_alarm, progress=progress)
    found = score_all(detectors, classifier, rest, engine=engine, progress=progress)
    if engine is None or engine.is_main:
        warn_of_seen_data(detectors.values(), found)
    calibrations = calibrate_all(found, classifier.head.num_classes, false_alarm, by)
    return Calibrated(calibrations, take_probe(classifier, detectors, first, keep_inputs))
