"""Rows by name and settings: `pixels,region=0.02`, as on the command line and in guard files."""

from __future__ import annotations

from dataclasses import fields

from oodline._util.spec import Reference, parse_reference
from oodline.errors import SettingError, unknown_name
from oodline.model.rows.boxes import Boxes
from oodline.model.rows.pixels import Pixels
from oodline.model.rows.placed import PlacedRows
from oodline.model.rows.tokens import Tokens

KINDS: dict[str, type[PlacedRows]] = {kind.name: kind for kind in (Pixels, Tokens, Boxes)}


def rows_of(text: str) -> PlacedRows:
    """The rows that a reference names.

    Raises
    ------
    UnknownNameError
        There is no such kind.
    SettingError
        It has no such setting, or not of that value.

    Examples
    --------
    >>> rows_of("pixels,region=0.02").region
    0.02
    """
    reference = parse_reference(text)
    if reference.name not in KINDS:
        raise unknown_name("kind of rows", reference.name, KINDS)
    kind = KINDS[reference.name]
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    if strange := [name for name in reference.options if name not in known]:
        raise SettingError(f"{reference.name} has no setting '{strange[0]}'; it has {', '.join(known)}.")
    return kind(**reference.options)


def kind_of(rows: PlacedRows | str) -> str:
    """The name of a kind of rows, or of what a reference names.

    Examples
    --------
    >>> kind_of(Pixels()), kind_of("pixels,region=0.02")
    ('pixels', 'pixels')
    """
    return (rows_of(rows) if isinstance(rows, str) else rows).name


def reference_of(rows: PlacedRows) -> str:
    """The reference that names these rows.

    Examples
    --------
    >>> reference_of(Pixels(region=0.02))
    'pixels,region=0.02,fit_share=0.05,ignore=255'
    """
    options = {field.name: getattr(rows, field.name) for field in fields(rows)}  # type: ignore[arg-type]
    return str(Reference(None, rows.name, options))
