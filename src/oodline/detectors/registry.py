"""Own detectors under a name: registered in this process, or by the entry points of an installed package.

Whoever runs the process, or installs a package, decides which code a name stands for; a file that oodline reads never
does. A guard's file that names a detector which is not registered is refused.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, overload

from oodline._util.code import import_code
from oodline._util.warning import warn
from oodline.detectors.plain_name import PLAIN, check_name
from oodline.errors import DetectorError

if TYPE_CHECKING:
    from oodline.detectors.base import Detector

GROUP = "oodline.detectors"
"""The group of entry points: `my-score = "package.module:MyScore"`."""

RESERVED = "all"
"""What the command line calls all detectors."""

_REGISTERED: dict[str, Any] = {}
"""Where each is, as "package.module:Class", or the class itself."""

AnyDetector = TypeVar("AnyDetector", bound="type[Detector] | Detector")


@overload
def register(detector: str, home: str) -> None: ...


@overload
def register(detector: AnyDetector) -> AnyDetector: ...


def register(detector: Any, home: str | None = None) -> Any:
    """Give an own detector a name that everything knows: `create_detector`, every command, and files of guards.

    A class is registered under its own `name`, for this process; also as a decorator. A class that is given as text is
    imported when its name is first used. Registered again, such as by a cell of a notebook that runs twice, the new
    class takes the place of the old one. A package registers its detectors wherever it is installed by entry points of
    the group `oodline.detectors`: `my-score = "package.module:MyScore"`.

    Parameters
    ----------
    detector : type of Detector, Detector, or str
        A class; a detector made by `from_function`; or the name of the one that `home` says.
    home : str, optional
        "package.module:Class", where `detector` is a name.

    Returns
    -------
    type of Detector or Detector
        What was given, unchanged; None for a name.

    Raises
    ------
    DetectorError
        It is not a detector, a setting has no default, or the name is not plain or stands for another detector.

    Examples
    --------
    >>> import oodline as ol
    >>> @ol.register
    ... class LargestFeature(ol.Detector):
    ...     name = "largest-feature"
    ...     needs = ol.Needs.FEATURES
    ...
    ...     def score(self, activations):
    ...         return activations.features.amax(1)
    >>> ol.create_detector("largest-feature")
    LargestFeature()
    """
    if isinstance(detector, str):
        module, colon, attribute = (home or "").partition(":")
        if not colon or not all(part.isidentifier() for part in (*module.split("."), *attribute.split("."))):
            raise DetectorError(
                f"the home of '{detector}' must be written 'package.module:Class', or the class itself be registered; "
                f"got {home!r}."
            )
        _add(detector, home)
        return None
    if home is not None:
        raise DetectorError(f"`home` must be left out where a class is given, which has its own; got {home!r}.")
    cls = as_class(detector)
    _add(cls.name, cls)
    return detector


def _add(name: str, home: Any) -> None:
    from oodline.detectors.catalog import CATALOG

    check_name(name)
    if name in CATALOG or name == RESERVED:
        raise DetectorError(f"`name` must not be one that oodline uses itself; got '{name}'. Choose another.")
    known = _REGISTERED.get(name)
    if known is not None and home_of(known) != home_of(home):
        raise DetectorError(
            f"`name` must stand for one detector; got '{name}' for {home_of(home)}, and it stands for "
            f"{home_of(known)}. Choose another."
        )
    _REGISTERED[name] = home


def home_of(detector: Any) -> str:
    """Where a class is, as text; text stays as it is.

    Examples
    --------
    >>> from oodline import Energy
    >>> home_of(Energy)
    'oodline.detectors.energy:Energy'
    """
    return detector if isinstance(detector, str) else f"{detector.__module__}:{detector.__qualname__}"


def as_class(thing: Any) -> type[Detector]:
    """The class of detectors that something is, or is one of.

    Raises
    ------
    DetectorError
        It is neither, or a setting has no default.
    """
    from oodline.detectors.base import Detector
    from oodline.detectors.declaration import check_defaults

    cls = type(thing) if isinstance(thing, Detector) else thing
    if not isinstance(cls, type) or not issubclass(cls, Detector) or inspect.isabstract(cls):
        remedy = " Make it one: from_function(fn, name=..., needs=...)." if inspect.isfunction(thing) else ""
        raise DetectorError(
            f"`detector` must be a subclass of oodline.Detector with its own `score`; got {thing!r}.{remedy}"
        )
    check_defaults(cls)
    return cls


@contextmanager
def registered_for_now(cls: type[Detector]) -> Iterator[None]:
    """Let a class have its name for as long as the context lasts.

    Raises
    ------
    DetectorError
        As `register`.
    """
    from oodline.detectors.catalog import CATALOG

    before = dict(_REGISTERED)
    if CATALOG.get(cls.name) != home_of(cls):
        register(cls)
    try:
        yield
    finally:
        _REGISTERED.clear()
        _REGISTERED.update(before)


def registered_names() -> list[str]:
    """Names of own detectors: those of this process first, then those of installed packages."""
    return [*_REGISTERED, *(name for name in installed() if name not in _REGISTERED)]


def registered_class(name: str) -> type[Detector] | None:
    """The class that was registered under a name, imported now; None where there is none.

    Raises
    ------
    DetectorError
        It cannot be imported, or is not a detector of that name.
    """
    home = _REGISTERED[name] if name in _REGISTERED else installed().get(name)
    if home is None:
        return None
    thing = home
    if isinstance(home, str):
        module, _, attribute = home.partition(":")
        try:
            thing = functools.reduce(getattr, attribute.split("."), importlib.import_module(module))
        except Exception as error:
            raise DetectorError(
                f"the detector '{name}' is registered as {home}, which cannot be imported: {type(error).__name__}: "
                f"{error}."
            ) from error
    cls = as_class(thing)
    if cls.name != name:
        raise DetectorError(
            f"`{cls.__name__}.name` must be the name it is registered under, '{name}'; got {cls.name!r}."
        )
    return cls


def installed() -> dict[str, str]:
    """Where the detectors of installed packages are, by name; nothing is imported.

    Warns
    -----
    UserWarning
        A name is not plain, or taken; it is left out.
    """
    return _installed(tuple(sys.path))


@functools.cache
def _installed(_path: tuple[str, ...]) -> dict[str, str]:
    from importlib.metadata import entry_points

    from oodline.detectors.catalog import CATALOG

    found: dict[str, str] = {}
    for point in entry_points(group=GROUP):
        taken = point.name in CATALOG or point.name == RESERVED or found.get(point.name, point.value) != point.value
        if taken or not PLAIN.fullmatch(point.name):
            package = point.dist.name if point.dist is not None else "a package"
            why = "the name is taken" if taken else "a name is lowercase letters, digits and hyphens"
            warn(f"the detector '{point.name}' of {package} is left out: {why}.")
            continue
        found[point.name] = point.value
    return found


def register_from(home: str) -> list[str]:
    """Run a Python file, or import a module, and register every detector that it defines.

    Parameters
    ----------
    home : str
        A path that ends in .py, or a module's name.

    Returns
    -------
    list of str
        The names.

    Raises
    ------
    DetectorError
        It cannot be imported, or defines no detector.
    """
    from oodline.detectors.base import Detector
    from oodline.detectors.catalog import CATALOG

    before = set(_REGISTERED)
    module = import_code(home, DetectorError)
    inside = (module.__name__, f"{module.__name__}.")
    names = [name for name in _REGISTERED if name not in before]
    for thing in list(vars(module).values()):
        made = isinstance(thing, Detector)
        cls = type(thing) if made else thing
        if not isinstance(cls, type) or not issubclass(cls, Detector) or inspect.isabstract(cls):
            continue
        # a function that was made a detector may come from elsewhere, and a class that was imported is not meant
        here = made or cls.__module__ == inside[0] or cls.__module__.startswith(inside[1])
        if here and CATALOG.get(cls.name) != home_of(cls):
            register(cls)
            names.append(cls.name)
    if not names:
        raise DetectorError(f"{home} defines no subclass of oodline.Detector. Check --detectors-from.")
    return list(dict.fromkeys(names))
