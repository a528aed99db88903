"""Detectors as plain data, and back."""

from __future__ import annotations

import json
from typing import Any

from oodline.detectors.base import Detector, is_member
from oodline.detectors.catalog import CATALOG, build_detector, detector_class
from oodline.errors import ArtifactError
from oodline.guard.manifest import DetectorRecord


def describe(detector: Detector) -> DetectorRecord:
    """A detector by its name in the catalog and its settings, as plain data.

    Raises
    ------
    ArtifactError
        It is not in the catalog, or a setting is not plain data.

    Examples
    --------
    >>> from oodline import Energy
    >>> describe(Energy())
    DetectorRecord(method='energy', settings={'temperature': 1.0}, left_out={})
    """
    name = type(detector).__name__
    home = f"{type(detector).__module__}:{name}"
    if CATALOG.get(detector.name) != home:
        raise ArtifactError(
            f"{name} ({home}) is not in oodline's catalog, so a file could not say how to build it again. "
            "Save its state_dict() yourself, or add it to oodline.detectors.catalog."
        )
    settings = {key: _plain(value) for key, value in detector.settings.items()}
    try:
        json.dumps(settings)
    except TypeError as error:
        raise ArtifactError(f"the settings of {name} are not plain data: {error}.") from error
    return DetectorRecord(method=detector.name, settings=settings, left_out=dict(detector.members_left_out))


def _plain(setting: Any) -> Any:
    if isinstance(setting, Detector):
        return describe(setting).model_dump(exclude_defaults=True)
    return [_plain(one) for one in setting] if is_member(setting) else setting


def rebuild(record: DetectorRecord) -> Detector:
    """The detector that a record describes, not fitted yet."""
    settings = {**detector_class(record.method).unstated, **record.settings}
    detector = build_detector(record.method, {key: _built(value) for key, value in settings.items()})
    if record.left_out:
        detector.leave_out(record.left_out)
    return detector


def _built(setting: Any) -> Any:
    if isinstance(setting, dict) and {"method", "settings"} <= set(setting) <= set(DetectorRecord.model_fields):
        return rebuild(DetectorRecord(**setting))
    return [_built(one) for one in setting] if isinstance(setting, list) else setting
