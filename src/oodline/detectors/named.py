"""One detector, several, or a mapping of them, as objects or by name: what functions take, and the names they get."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from oodline._util.ranges import Refused
from oodline._util.validation import shown
from oodline.detectors.base import Detector
from oodline.detectors.catalog import create_detector
from oodline.errors import SettingError
from oodline.passes.fit import Fittable


class OneOrSeveral:
    """What an annotation says of an argument that is detectors, so that `checked` makes those given by name.

    Parameters
    ----------
    kind : type
        What each must be, beside having the `name` and `_requests` of `oodline.passes.fit.Fittable`.
    """

    replaces_type = True
    argument_remedy = Detector.argument_remedy

    def __init__(self, kind: type = object) -> None:
        self.kind = kind

    def accept(self, value: Any) -> Any:
        """One, a mapping or a list, with a detector in place of each name such as "line,p_a=0.5"."""
        if isinstance(value, Mapping):
            return {name: self._one(each) for name, each in value.items()}
        if isinstance(value, str) or _is_detector(value):
            return self._one(value)
        if isinstance(value, Iterable):
            return [self._one(each) for each in value]
        raise Refused

    def words(self, kind: str) -> str:
        """One sentence for all of them."""
        return "a detector, several, or a mapping from names to detectors"

    def _one(self, value: Any) -> Any:
        made = create_detector(value) if isinstance(value, str) else value
        if not _is_detector(made) or not isinstance(made, self.kind):
            raise _not_a_detector(made)
        return made


Detectors = Annotated[
    Detector | str | Mapping[str, Detector | str] | Iterable[Detector | str],
    OneOrSeveral(Detector),
]
"""One, several, or several by a name of one's choice; each an object, or a name with settings."""

Fittables = Annotated[
    Fittable | str | Mapping[str, Fittable | str] | Iterable[Fittable | str],
    OneOrSeveral(),
]
"""As `Detectors`, or whatever else is fitted in the same pass, such as `Neurons`."""


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
            names = Counter(detector.name if _is_detector(detector) else repr(detector) for detector in listed)
            several = [f"{many} that share {name!r}" for name, many in names.items() if many > 1]
            raise SettingError(
                f"`detectors` must have different names; got {', '.join(several)}. "
                "Pass a mapping: {'line p=.1': LINe(...), 'line p=.9': LINe(...)}."
            )
    else:
        named = {"": detectors}
    for name, detector in named.items():
        if not _is_detector(detector):
            raise _not_a_detector(detector)
        if not isinstance(name, str):
            raise SettingError(f"the names of `detectors` must be strings; got {shown(name)}.")
    if not named:
        raise SettingError("`detectors` must have at least one detector; got none.")
    return named


def _is_detector(value: Any) -> bool:
    return hasattr(value, "_requests") and hasattr(value, "name") and not isinstance(value, type)


def _not_a_detector(value: Any) -> SettingError:
    wanted = OneOrSeveral().words("")
    return SettingError(f"`detectors` must be {wanted}; got {shown(value)}. {OneOrSeveral.argument_remedy}")
