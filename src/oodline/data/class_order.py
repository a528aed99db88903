"""Check that a data set's classes are in the order of the logits, and reorder its labels by class name."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Generic, TypeVar

from oodline._util.digests import combine
from oodline._util.warning import warn
from oodline.data.sources import Source
from oodline.errors import DataError

Sample = TypeVar("Sample")

_SYNSET = re.compile(r"n\d{8}")
_NUMBERED = re.compile(r"(?:label|class)[ _-]?\d+", re.IGNORECASE)
"""Names that say no more than the position, as transformers writes them where a model has no names."""


@dataclass(frozen=True)
class ClassOrder:
    """How classes of a data set stand to those of a classifier.

    Parameters
    ----------
    positions : tuple of int, optional
        The classifier's class of every class of the data; None where names do not tell.
    warning : str
        What differs; empty where nothing does.
    """

    positions: tuple[int, ...] | None = None
    warning: str = ""


def compare_classes(data: Sequence[str] | None, model: Sequence[str] | None) -> ClassOrder:
    """Match the classes of a data set to those of a classifier by name.

    Case, spaces, hyphens and the like do not count, and of a list of synonyms the first one is enough. ImageNet's
    WordNet numbers are known where timm is installed.

    Parameters
    ----------
    data : sequence of str, optional
        Names in the order of the labels.
    model : sequence of str, optional
        Names in the order of the logits.

    Returns
    -------
    ClassOrder
        Positions where all names of the data are the classifier's, each once. A warning where the two differ.

    Examples
    --------
    >>> compare_classes(["cat", "polar_bear"], ["Polar bear", "cat"])
    ClassOrder(positions=(1, 0), warning='')
    >>> print(compare_classes(["cat", "dog"], ["cat", "emu"]).warning)
    the class names of the data and of the classifier differ: 1 of 2 of the data's are not among the classifier's
    ('dog'), 1 of 2 of the classifier's not among the data's ('emu'). Labels count as positions, as the data has them.
    """
    if not data or not model or all(_NUMBERED.fullmatch(name) for name in model):
        return ClassOrder()
    known: Sequence[str] = model
    if all(_SYNSET.fullmatch(name) for name in data) and not all(_SYNSET.fullmatch(name) for name in model):
        if len(data) == len(model) == 1000 and list(data) == sorted(data):
            return ClassOrder(tuple(range(1000)))  # the order of ILSVRC 2012
        known = _synsets(len(model)) or model
    if list(data) == list(known):
        return ClassOrder(tuple(range(len(data))))
    # the strictest first: where 'c' and 'c++' are two classes, what `_plain` leaves out tells them apart
    for plain in (str, _folded, _plain, lambda name: _plain(name.split(",")[0])):
        ours, theirs = [plain(name) for name in data], [plain(name) for name in known]
        if len(set(ours)) == len(ours) and len(set(theirs)) == len(theirs) and set(ours) <= set(theirs):
            place = {name: i for i, name in enumerate(theirs)}
            absent = [name for name, own in zip(model, theirs, strict=True) if own not in set(ours)]
            return ClassOrder(tuple(place[name] for name in ours), _absent(absent, len(model)))
    return ClassOrder(None, _difference(data, known))


def in_order_of(
    source: Source[Sample], class_names: Sequence[str] | None, label_offset: int = 0, *, quiet: bool = False
) -> Source[Sample]:
    """A source whose labels are in the order of these names, where names tell; warns where they differ.

    Parameters
    ----------
    source : Source
        Images or texts, and labels.
    class_names : sequence of str, optional
        Of the classifier, in the order of its logits.
    label_offset : int
        What is added to labels later on: a user who says it decides, and nothing is matched.
    quiet : bool
        Do not warn.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from PIL import Image
    >>> from oodline.data import open_images
    >>> with TemporaryDirectory() as folder:
    ...     for name in ("cat", "dog"):
    ...         Path(folder, name).mkdir()
    ...         Image.new("L", (8, 8)).save(f"{folder}/{name}/0.png")
    ...     source = in_order_of(open_images(folder), ["dog", "cat"])
    ...     [(source.name(i), source.label(i)) for i in range(2)]
    [('cat/0.png', 1), ('dog/0.png', 0)]
    """
    if label_offset:
        return source
    order = compare_classes(source.class_names, class_names)
    if order.warning and not quiet:
        warn(order.warning)
    if order.positions is None or class_names is None:
        return source
    return Relabelled(source, order.positions, class_names)


class Relabelled(Generic[Sample]):
    """A source whose classes were brought into the order of a classifier's.

    Parameters
    ----------
    source : Source
        Images or texts, and labels.
    positions : sequence of int
        New label of every label.
    class_names : sequence of str
        Names in the new order.
    """

    order_is_known = True

    def __init__(self, source: Source[Sample], positions: Sequence[int], class_names: Sequence[str]) -> None:
        self.source, self.positions = source, tuple(positions)
        self.class_names: tuple[str, ...] | None = tuple(class_names)

    def __len__(self) -> int:
        return len(self.source)

    def name(self, i: int) -> str:
        """As the source calls it."""
        return self.source.name(i)

    def label(self, i: int) -> int | None:
        """Class of the classifier."""
        label = self.source.label(i)
        if label is not None and label >= len(self.positions):
            raise DataError(
                f"the label of {self.name(i)} is {label}, but the data names only {len(self.positions)} classes."
            )
        return None if label is None else self.positions[label]

    def read(self, i: int) -> Sample:
        """As the source reads it."""
        return self.source.read(i)

    def fingerprint(self) -> str:
        """Of the source's content and, where they changed, the labels."""
        same = self.positions == tuple(range(len(self.positions)))
        return self.source.fingerprint() if same else combine([self.source.fingerprint(), self.positions])


def doubtful_order(source: object, num_classes: int, label_offset: int = 0) -> str:
    """What is odd about the classes of labelled data for a classifier with this number of classes; empty if nothing.

    Parameters
    ----------
    source : object
        Anything that may have `class_names`.
    num_classes : int
        Number of logits.
    label_offset : int
        What is added to labels.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> print(doubtful_order(SimpleNamespace(class_names=("1", "10", "2")), 3))
    the data's classes are in alphabetical, not in natural order (class 1 is '10', class 2 is '2'). If the classifier
    was trained in natural order, its labels are wrong: then name the data as FOLDER,order=natural.
    """
    names: Sequence[str] | None = getattr(source, "class_names", None)
    if not names:
        return ""
    if len(names) + label_offset != num_classes:
        added = f", and {label_offset} is added to labels," if label_offset else ""
        return (
            f"the data has {len(names)} classes ({_listed(names)}){added} and the classifier {num_classes}. Labels "
            "count as positions of logits: check that class 0 of the data is class 0 of the classifier, and so on."
        )
    natural = natural_order(names)
    if getattr(source, "order_is_known", False) or list(names) != sorted(names) or list(names) == natural:
        return ""
    if not _are_numbered(names):
        return ""
    first = next(i for i in count() if names[i] != natural[i])
    return (
        f"the data's classes are in alphabetical, not in natural order (class {first} is '{names[first]}', class "
        f"{first + 1} is '{names[first + 1]}'). If the classifier was trained in natural order, its labels are wrong: "
        "then name the data as FOLDER,order=natural."
    )


def natural_order(names: Iterable[str]) -> list[str]:
    """Sort names so that numbers in them count as numbers.

    Examples
    --------
    >>> natural_order(["10", "9", "a10", "a9"])
    ['9', '10', 'a9', 'a10']
    """
    return sorted(names, key=lambda name: ([_token(part) for part in re.findall(r"\d+|\D", name)], name))


def _token(part: str) -> tuple[int, int]:
    """Numbers stand among characters where digits do."""
    return (ord("0"), int(part)) if part.isdecimal() else (ord(part), 0)


def _are_numbered(names: Sequence[str]) -> bool:
    """Whether names that begin alike up to a number stand in another order than their numbers."""
    alike: dict[str, list[str]] = {}
    for name in names:
        if number := re.match(r"(\D*)\d+", name):
            alike.setdefault(number[1], []).append(name)
    return any(these != natural_order(these) for these in alike.values())


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold()


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", " ", _folded(name)).strip()


def _synsets(size: int) -> list[str] | None:
    if size != 1000:
        return None
    try:
        from timm.data import ImageNetInfo
    except ImportError:
        return None
    return list(ImageNetInfo("imagenet-1k").label_names())


def _absent(absent: Sequence[str], total: int) -> str:
    if not absent:
        return ""
    return (
        f"{len(absent)} of the classifier's {total} classes are not among the data's ({_listed(absent)}). Labels were "
        "matched by name."
    )


def _difference(data: Sequence[str], model: Sequence[str]) -> str:
    ours, theirs = {_plain(name): name for name in data}, {_plain(name): name for name in model}
    extra = [name for plain, name in ours.items() if plain not in theirs]
    absent = [name for plain, name in theirs.items() if plain not in ours]
    parts = []
    if extra:
        parts.append(f"{len(extra)} of {len(data)} of the data's are not among the classifier's ({_listed(extra)})")
    if absent:
        parts.append(f"{len(absent)} of {len(model)} of the classifier's not among the data's ({_listed(absent)})")
    place = {_plain(name): i for i, name in enumerate(model)}
    moved = [(i, name) for i, name in enumerate(data) if place.get(_plain(name), i) != i]
    if moved:
        i, name = moved[0]
        parts.append(
            f"{len(moved)} stand at other positions ('{name}' is {i} in the data, {place[_plain(name)]} there)"
        )
    differ = ", ".join(parts) or "some stand there several times"
    return (
        f"the class names of the data and of the classifier differ: {differ}. Labels count as positions, as the data "
        "has them."
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names[:3]) + (", ..." if len(names) > 3 else "")
