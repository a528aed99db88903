"""Create the detectors that `--detector` names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oodline.detectors.catalog import create_detector, detector_names
from oodline.errors import SettingError

if TYPE_CHECKING:
    from oodline.detectors.base import Detector


def create_all(references: list[str]) -> dict[str, Detector]:
    """Build detectors by name; `all` stands for those that were not named, own ones too, with default settings.

    Raises
    ------
    SettingError
        A method is named twice.

    Examples
    --------
    >>> list(create_all(["react,clip=95%", "energy"]))
    ['react', 'energy']
    """
    found: dict[str, Detector] = {}
    for reference in references:
        if reference == "all":
            continue
        detector = create_detector(reference)
        if detector.name in found:
            raise SettingError(f"'{detector.name}' is named twice; one file holds each method once.")
        found[detector.name] = detector
    if "all" in references:
        found |= {name: create_detector(name) for name in detector_names() if name not in found}
    return found
