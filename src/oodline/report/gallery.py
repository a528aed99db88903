"""The images of a run that a detector finds most and least OOD, taken from where the run read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oodline._util.spec import parse_reference
from oodline.data import ImageSource, open_images
from oodline.data.class_order import in_order_of
from oodline.data.opening import SCHEMES
from oodline.errors import DataError, OodlineError, unknown_name
from oodline.evaluation.record import SetRecord
from oodline.evaluation.run import Run
from oodline.preprocessing.text import TextPreprocessing
from oodline.report.thumbnails import read_thumbnail

MOST = 600
"""Pictures of a gallery at most: about 2 MB of a page."""

CHECKED = 1000
"""Images of a set at most whose labels are compared with the run's, before its images are shown."""

SHOWN = ("id", "csid", "ood")
"""Roles of the sets whose images are shown."""


@dataclass(frozen=True)
class Picture:
    """One image of a gallery."""

    set: str
    index: int
    """Position in its data set."""
    row: int
    """Position among the scores of its data set."""
    name: str
    label: str | None
    predicted: str
    source: str
    """A data URI."""


@dataclass(frozen=True)
class Gallery:
    """Pictures, who shows which, and why some are not there.

    Parameters
    ----------
    pictures : list of Picture
        Each once, whoever shows it.
    shown : dict of str to dict of str to (list of int, list of int)
        By detector and set: positions in `pictures` of the most OOD images and of the least, in that order.
    missing : dict of str to str
        Sets whose images cannot be shown, with the reason.
    """

    pictures: list[Picture]
    shown: dict[str, dict[str, tuple[list[int], list[int]]]]
    missing: dict[str, str]


def extremes(scores: NDArray[np.float64], count: int) -> tuple[list[int], list[int]]:
    """Positions of the `count` lowest scores (most OOD), lowest first, and of the highest, highest first.

    Where there are fewer than twice as many, each is in one of the lists only.

    Examples
    --------
    >>> extremes(np.array([5.0, 1.0, 3.0]), 2)
    ([1, 2], [0])
    """
    order = np.argsort(scores, kind="stable")
    most = order[:count]
    return most.tolist(), order[len(most) :][::-1][:count].tolist()


def gather(
    run: Run, detectors: Sequence[str], *, images: int = 8, data: Mapping[str, str] | None = None, most: int = MOST
) -> Gallery:
    """Choose and read the pictures, for as many of the detectors as `most` allows, the first one in any case.

    Parameters
    ----------
    run : Run
        Whose scores are read.
    detectors : sequence of str
        Labels, the most important first.
    images : int
        So many of the most OOD and of the least OOD ones of each set; fewer where there are very many sets.
    data : mapping of str to str, optional
        Where a set is now, by name, in place of what the run's record says.
    most : int
        Pictures in all.

    Raises
    ------
    UnknownNameError
        `data` names a set that the run has not.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from oodline.testing import toy_run
    >>> with TemporaryDirectory() as folder:
    ...     gallery = gather(toy_run(f"{folder}/run"), ["energy"])
    >>> gallery.pictures, gallery.missing["origin"][:31]
    ([], 'there is no file or folder toy ')
    """
    sets = [s for s in run.record.scored if s.role in SHOWN]
    for name in data or {}:
        if name not in (s.name for s in sets):
            raise unknown_name("data set with images to show", name, [s.name for s in sets])
    if not images:
        return Gallery([], {}, {})
    opened, missing = {}, {}
    for s in sets:
        try:
            opened[s.name] = _open(run, s, (data or {}).get(s.name))
        except (OodlineError, OSError) as error:
            missing[s.name] = str(error)
    count = max(1, min(images, most // (2 * len(opened) or 1)))
    rows: dict[tuple[str, int], int] = {}
    chosen: dict[str, dict[str, tuple[list[int], list[int]]]] = {}
    for label in detectors:
        these = {name: extremes(run.scores(name)[label], count) for name in opened}
        new = {(name, row): 0 for name, sides in these.items() for side in sides for row in side}
        if chosen and len(rows | new) > most:
            break
        rows |= new
        chosen[label] = these
    pictures, skipped = _read(run, opened, sorted(rows))
    rows = {(p.set, p.row): place for place, p in enumerate(pictures)}
    shown = {
        label: {name: (_places(rows, name, sides[0]), _places(rows, name, sides[1])) for name, sides in these.items()}
        for label, these in chosen.items()
    }
    return Gallery(pictures, shown, missing | skipped)


def _places(rows: Mapping[tuple[str, int], int], name: str, side: Sequence[int]) -> list[int]:
    return [rows[name, row] for row in side if (name, row) in rows]


def _open(run: Run, this: SetRecord, spec: str | None) -> ImageSource:
    """The images of a set, where they are those of the run as far as positions and labels can tell."""
    if isinstance(run.record.preprocessing, TextPreprocessing):
        raise DataError(f"{this.name} holds texts, and only images are shown.")
    if spec is None:
        spec = this.spec
        reference = parse_reference(spec, SCHEMES)
        if reference.scheme == "hf" or reference.options.get("download"):
            raise DataError(
                f"{spec} may load from the network, which a run may not ask for. Ask for it yourself: --data "
                f"{this.name}={spec}"
            )
    source = open_images(spec)
    if this.role != "ood":  # as the run read them
        source = in_order_of(source, run.record.class_names, this.label_offset, quiet=True)
    index, labels = run.index(this.name), run.labels(this.name)
    if len(index) and int(index.max()) >= len(source):
        raise DataError(f"{spec} has {len(source)} images, the run read number {int(index.max())}: it is another set.")
    rows = [] if labels is None else np.unique(np.linspace(0, len(index) - 1, CHECKED).astype(int)).tolist()
    for row in rows:
        label = source.label(int(index[row]))
        if labels is None or label is None or label + this.label_offset != labels[row]:
            raise DataError(f"{source.name(int(index[row]))} has another label than in the run: it is another set.")
    return source


def _read(
    run: Run, opened: Mapping[str, ImageSource], rows: Sequence[tuple[str, int]]
) -> tuple[list[Picture], dict[str, str]]:
    pictures, failed = [], {}
    names = run.record.class_names
    for name, row in rows:  # ascending, so that a file is read from its beginning to its end
        source, index = opened[name], int(run.index(name)[row])
        try:
            uri = read_thumbnail(source, index)
        except DataError as error:
            failed[name] = str(error)
            continue
        pictures.append(
            Picture(
                name,
                index,
                row,
                source.name(index),
                None if (label := source.label(index)) is None else _class(label, source.class_names),
                _class(int(run.predicted(name)[row]), names),
                uri,
            )
        )
    return pictures, failed


def _class(label: int, names: Sequence[str] | None) -> str:
    return names[label] if names is not None and 0 <= label < len(names) else f"class {label}"
