"""Find the part of a guard that can explain verdicts: the detector, one of its members, or `Neurons`."""

from __future__ import annotations

from collections.abc import Iterator

from oodline.detectors.base import Detector
from oodline.detectors.catalog import CATALOG, detector_class
from oodline.detectors.evidence import Explains, HasMemberPValues
from oodline.detectors.rectifier import Rectifier
from oodline.errors import SettingError
from oodline.guard.neurons import Neurons


def explainer_of(detector: Detector, neurons: Neurons | None) -> Explains | None:
    """The first that keeps contributions by class: the detector, a member in it, or the neurons; None if none does."""
    return next((one for one in _in(detector) if isinstance(one, Explains)), neurons)


def members_of(detector: Detector) -> HasMemberPValues | None:
    """What gives a p-value per member: the detector, or the first inside it that does."""
    return next((one for one in _in(detector) if isinstance(one, HasMemberPValues)), None)


def name_of(explainer: Explains, detector: Detector) -> str:
    """How the explainer is called among the p-values of the detector's members; else by its own name."""
    made_of = members_of(detector)
    members: list[tuple[str, Detector]] = made_of.members if isinstance(made_of, Detector) else []
    named = [name for name, member in members if isinstance(member, Explains) and member is explainer]
    if named:
        return named[0]
    return str(getattr(explainer, "name", type(explainer).__name__))


def _in(detector: Detector) -> Iterator[Detector]:
    yield detector
    if not isinstance(detector, Rectifier):  # whose scorer reads other features than the input has
        for _, member in detector.members:
            yield from _in(member)


def require_explainer(detector: Detector, neurons: Neurons | None) -> Explains:
    """As `explainer_of`; raises `SettingError`, which names those that explain, where there is none."""
    explainer = explainer_of(detector, neurons)
    if explainer is None:
        known = ", ".join(name for name in CATALOG if issubclass(detector_class(name), Explains))
        raise SettingError(
            f"'{detector.name}' cannot explain a verdict by neurons; these detectors can: {known}. Or fit "
            "`Neurons` in the same pass, and pass them to the guard: fit([detector, neurons], ...), "
            "Guard(classifier, detector, neurons=neurons). On the command line: --detector NAME of another one in "
            "the file, or oodline fit --neurons 5."
        )
    return explainer
