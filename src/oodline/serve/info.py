"""The content of /v1/info and /v1/histogram: detector, false-alarm rate, limits, held-out scores."""

from __future__ import annotations

from typing import Any

import numpy as np

from oodline._version import __version__
from oodline.guard.guard import Guard
from oodline.scoring.class_calibration import AnyCalibration, ClassCalibration

BINS = 40


def describe_guard(guard: Guard, calibration: AnyCalibration, limits: dict[str, Any], unit: str) -> dict[str, Any]:
    """The document of /v1/info, of a service of images or texts."""
    by = "predicted" if isinstance(calibration, ClassCalibration) else "all"
    rate, n = calibration.false_alarm, len(calibration.scores)
    whom = f"in-distribution {unit}" + (" of each predicted class" if by == "predicted" else "")
    paper = guard.detector.paper
    return {
        "version": __version__,
        "detector": {
            "name": guard.detector.name,
            "settings": {k: v if _is_plain(v) else repr(v) for k, v in guard.detector.settings.items()},
            "paper": None if paper is None else f"{paper.title} ({paper.venue})",
        },
        "promise": {
            "false_alarm": rate,
            "by": by,
            "held_out": n,
            "sentence": f"At most {100 * rate:.3g} % of {whom} are flagged, as long as they come from where the {n:,} "
            f"held-out {unit} came from.",
        },
        "task": guard.classifier.task,
        "classes": guard.classifier.head.num_classes,
        "class_names": None if guard.class_names is None else list(guard.class_names),
        "explains": explains(guard),
        "histogram": histogram(calibration),
        "limits": limits,
    }


def explains(guard: Guard) -> bool:
    """Whether /v1/explain answers; of a guard of pixels it does not, whose verdict has maps."""
    return guard.explains and guard.classifier.rows is None


def histogram(calibration: AnyCalibration, label: int | None = None) -> dict[str, Any]:
    """The held-out scores that an image predicted as `label` is compared with; all of them if it is omitted.

    Examples
    --------
    >>> import torch
    >>> from oodline.scoring.calibration import calibrate
    >>> histogram(calibrate(torch.arange(100.0)))["counts"][:3]
    [3, 2, 3]
    """
    these: AnyCalibration = calibration
    if label is not None and isinstance(calibration, ClassCalibration):
        these = calibration.classes[label]
    counts, edges = np.histogram(these.scores.numpy(), BINS)
    return {"edges": edges.tolist(), "counts": counts.tolist(), "threshold": these.threshold}


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
