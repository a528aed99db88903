"""Convert one detector, several, or a mapping of them to a mapping from names to detectors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from oodline._util.ranges import Refused
from oodline._util.validation import shown
from oodline.errors import SettingError


class OneOrSeveral:
    """What a function asks for that takes detectors and gives them names; see `oodline._util.arguments`."""

    replaces_type = True
    argument_remedy = "A detector is an object such as LINe(); create_detector('line') makes one of a name."

    def accept(self, value: Any) -> Any:
        """The value as it is, unless it cannot hold detectors; each of them is looked at by `name_detectors`."""
        if not _is_detector(value) and (isinstance(value, str) or not isinstance(value, Iterable)):
            raise Refused
        return value

    def words(self, kind: str) -> str:
        """One sentence for all of them."""
        return "a detector, several, or a mapping from names to detectors"


def name_detectors(detectors: Any) -> dict[str, Any]:
    """Detectors by name: the keys of a mapping, otherwise each detector's own name.

    Parameters
    ----------
    detectors : detector, iterable of detectors, or mapping of str to detector
        Anything with the `name` and `_requests` of `oodline.passes.fit.Fittable`.

    Raises
    ------
    SettingError
        There is none, two share a name, or one is something else.

    Examples
    --------
    >>> from oodline import MSP, Energy
    >>> list(name_detectors(MSP())), list(name_detectors(d() for d in (MSP, Energy)))
    (['msp'], ['msp', 'energy'])
    >>> list(name_detectors({"a": MSP(), "b": MSP()}))
    ['a', 'b']
    """
    if isinstance(detectors, Mapping):
        named = dict(detectors)
    elif _is_detector(detectors):
        named = {detectors.name: detectors}
    elif isinstance(detectors, Iterable) and not isinstance(detectors, str):
        listed = list({id(detector): detector for detector in detectors}.values())  # one given twice is one
        named = {detector.name if _is_detector(detector) else repr(detector): detector for detector in listed}
        if len(named) < len(listed):
            raise SettingError(
                f"`detectors` must have different names; got {len(listed)} that share {', '.join(map(repr, named))}. "
                "Pass a mapping: {'line p=.1': LINe(...), 'line p=.9': LINe(...)}."
            )
    else:
        named = {"": detectors}
    for name, detector in named.items():
        if not _is_detector(detector):
            raise SettingError(
                f"`detectors` must be {OneOrSeveral().words('')}; got {shown(detector)}. {OneOrSeveral.argument_remedy}"
            )
        if not isinstance(name, str):
            raise SettingError(f"the names of `detectors` must be strings; got {shown(name)}.")
    if not named:
        raise SettingError("`detectors` must have at least one detector; got none.")
    return named


def _is_detector(value: Any) -> bool:
    return hasattr(value, "_requests") and hasattr(value, "name") and not isinstance(value, type)
