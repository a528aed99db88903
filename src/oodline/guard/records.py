"""Convert detectors to plain data, and back."""

from __future__ import annotations

import json
from typing import Any

from oodline.detectors.base import Detector, is_member
from oodline.detectors.catalog import build_detector, detector_class, is_known, is_named
from oodline.detectors.plain_name import check_name
from oodline.detectors.registry import home_of
from oodline.errors import ArtifactError
from oodline.guard.manifest import DetectorRecord


class UnregisteredError(ArtifactError):
    """A file holds a detector whose name stands for nothing in this process."""


def describe(detector: Detector) -> DetectorRecord:
    """A detector by its name and its settings, as plain data.

    Raises
    ------
    ArtifactError
        It is neither in the catalog nor registered, or a setting is not plain data.

    Examples
    --------
    >>> from oodline import Energy
    >>> describe(Energy())
    DetectorRecord(method='energy', settings={'temperature': 1.0}, left_out={}, reason='')
    """
    name = type(detector).__name__
    if not is_named(detector):
        raise ArtifactError(
            f"{name} ({home_of(type(detector))}) is not registered, so a file could not say how to build it again. "
            f"Register it first: oodline.register({name}), or --detectors-from FILE.py."
        )
    settings = {key: _plain(value) for key, value in detector.settings.items()}
    try:
        json.dumps(settings)
    except TypeError as error:
        raise ArtifactError(f"the settings of {name} are not plain data: {error}.") from error
    return DetectorRecord(
        method=detector.name, settings=settings, left_out=dict(detector.members_left_out), reason=detector.reason
    )


def _plain(setting: Any) -> Any:
    if isinstance(setting, Detector):
        return describe(setting).model_dump(exclude_defaults=True)
    return [_plain(one) for one in setting] if is_member(setting) else setting


def rebuild(record: DetectorRecord) -> Detector:
    """The detector that a record describes, not fitted yet.

    Raises
    ------
    UnregisteredError
        Its name is neither in the catalog nor registered.
    DetectorError
        No detector can have that name.
    """
    check_name(record.method, "the name of a detector")
    if not is_known(record.method):
        raise UnregisteredError(
            f"holds the detector '{record.method}', which this version of oodline does not have and nobody registered; "
            "a file may not say which code to run. Upgrade oodline, or register your own: oodline.register(Class), or "
            "--detectors-from FILE.py."
        )
    settings = {**detector_class(record.method).unstated, **record.settings}
    detector = build_detector(record.method, {key: _built(value) for key, value in settings.items()})
    detector.reason = record.reason
    if record.left_out:
        detector.leave_out(record.left_out)
    return detector


def _built(setting: Any) -> Any:
    if isinstance(setting, dict) and {"method", "settings"} <= set(setting) <= set(DetectorRecord.model_fields):
        return rebuild(DetectorRecord(**setting))
    return [_built(one) for one in setting] if isinstance(setting, list) else setting
