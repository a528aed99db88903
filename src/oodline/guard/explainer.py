"""Which part of a guard says what speaks for a class: a detector, a member of it, or `Neurons`."""

from __future__ import annotations

from oodline.detectors.base import Detector
from oodline.detectors.catalog import CATALOG, detector_class
from oodline.detectors.evidence import Explains, HasMemberPValues
from oodline.errors import SettingError
from oodline.guard.neurons import Neurons


def explainer_of(detector: Detector, neurons: Neurons | None) -> Explains | None:
    """The detector, its first member that keeps contributions by class, or the neurons; None where none does."""
    made_of = detector.members if isinstance(detector, HasMemberPValues) else []
    able = [d for d in (detector, *(member for _, member in made_of)) if isinstance(d, Explains)]
    return able[0] if able else neurons


def require_explainer(detector: Detector, neurons: Neurons | None) -> Explains:
    """As `explainer_of`; raises `SettingError`, which names those that explain, where there is none."""
    explainer = explainer_of(detector, neurons)
    if explainer is None:
        known = ", ".join(name for name in CATALOG if issubclass(detector_class(name), Explains))
        raise SettingError(
            f"'{detector.name}' does not say what speaks for a class; these detectors do: {known}. Or fit "
            "Neurons in the same pass, and give them to the guard: fit([detector, neurons], ...), "
            "Guard(classifier, detector, neurons=neurons)."
        )
    return explainer
