"""Find the image and label columns of a table, and convert its labels to class numbers."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import UnidentifiedImageError
from pyarrow import types

from oodline._util.warning import warn
from oodline.errors import DataError

IMAGES = (
    "image",
    "img",
    "images",
    "image_bytes",
    "img_bytes",
    "picture",
    "photo",
    "jpg",
    "jpeg",
    "png",
    "webp",
    "bytes",
)
"""What columns of images are usually called; the first one wins."""

LABELS = ("label", "labels", "fine_label", "class", "class_label", "class_id", "label_id", "target", "category", "cls")
"""What columns of labels are usually called; the first one wins."""

LARGEST = 2**31 - 1

NO_LABEL = ("", "nan")
"""Text that says, among class numbers, that a row has no label; so does a number below 0."""

WHOLE = re.compile(r"[+-]?[0-9]{1,20}(\.0*)?")
"""A whole number, also as a table of floating-point numbers is written."""


@dataclass(frozen=True)
class Labels:
    """Labels of the rows of one file.

    Parameters
    ----------
    values : ndarray (N,) of int32
        Positions in `names`, or class numbers where there are none; -1 for no label.
    names : tuple of str, optional
        Names of the classes.
    """

    values: NDArray[np.int32]
    names: tuple[str, ...] | None = None


def find_column(
    columns: Collection[str],
    wanted: str | None,
    usual: Sequence[str],
    likely: Sequence[str],
    where: str,
    taken: str | None = None,
) -> str | None:
    """The column that holds the images, or the labels.

    Parameters
    ----------
    columns : collection of str
        All there are.
    wanted : str, optional
        The one that the user names.
    usual : sequence of str
        Usual names, `IMAGES` or `LABELS`.
    likely : sequence of str
        Those that by their type, or by what the file says of them, hold what is looked for.
    where : str
        The file, for messages.
    taken : str, optional
        The column that holds something else.

    Returns
    -------
    str or None
        None where no column is usual or likely.

    Raises
    ------
    DataError
        There is no column of that name, or several are as likely as each other.

    Examples
    --------
    >>> find_column(["img", "fine_label", "coarse_label"], None, LABELS, [], "a.parquet")
    'fine_label'
    """
    listed, kind = ", ".join(columns), usual[0]
    if wanted is not None:
        if wanted in columns:
            return wanted
        raise DataError(f"{where} has no column '{wanted}'; its columns are {listed}.")
    if kind in columns:
        return kind
    if len(likely) == 1:
        return likely[0]
    fitting = [column for column in columns if column.lower() in usual and column != taken] or list(likely)
    if len(fitting) > 1:
        raise DataError(
            f"{where} has several columns that may be the {kind}: {', '.join(fitting)}. Name one after the data: "
            f"DATA,{kind}={fitting[0]}."
        )
    return fitting[0] if fitting else None


def check_columns(columns: Sequence[str], where: str) -> None:
    """Raise `DataError` where two columns have the same name: which of them is meant cannot be said.

    >>> check_columns(["text", "label"], "a.csv")
    """
    if twice := [name for name in columns if columns.count(name) > 1]:
        raise DataError(
            f"{where} names the column {twice[0]!r} twice; its columns are {', '.join(columns)}. Rename one of them."
        )


def image_content(value: Any, folder: Path) -> bytes | Path:
    """Bytes of an image, or its file, as a row holds them: bytes, a path, or `{bytes, path}`.

    Raises
    ------
    UnidentifiedImageError
        It is none of these.

    Examples
    --------
    >>> image_content({"bytes": None, "path": "a.png"}, Path("images"))
    PosixPath('images/a.png')
    """
    if isinstance(value, Mapping):
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if isinstance(value, bytes):
        return value
    if isinstance(value, str) and value:
        return folder / value
    raise UnidentifiedImageError(f"the row holds {type(value).__name__}, not the bytes of an image or its path")


def holds_images(kind: pa.DataType) -> bool:
    """Whether a column of this type may hold encoded images: bytes, or `{bytes, path}`.

    Examples
    --------
    >>> holds_images(pa.large_binary()), holds_images(pa.int64())
    (True, False)
    """
    if types.is_struct(kind):
        return any(field.name == "bytes" for field in kind)
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def class_numbers(column: pa.ChunkedArray, names: tuple[str, ...] | None, where: str) -> Labels:
    """Labels as class numbers, whatever type they have: integers of any size, booleans, whole floats, or text.

    Text that is one of `names` is its position there. Other text is class numbers where all of it is whole numbers, and
    else names; spaces around it do not count. 01 and 1.0 are the number 1, of which a warning tells. Names are classes
    in alphabetical order. No label is null, NaN, empty text, or a number below 0.

    Raises
    ------
    DataError
        Other types, fractions that are not text, numbers above 2**31 - 1, or text that is not one of `names`.

    Examples
    --------
    >>> class_numbers(pa.chunked_array([["dog", None, "cat"]]), None, "column 'label'")
    Labels(values=array([ 1, -1,  0], dtype=int32), names=('cat', 'dog'))
    """
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return _from_text(column.cast(pa.large_string()), names, where)
    if types.is_boolean(kind):
        column = column.cast(pa.int8())
    elif types.is_floating(kind):
        column = pc.if_else(pc.is_nan(column), None, column)
    elif not (types.is_integer(kind) or types.is_decimal(kind) or types.is_null(kind)):
        raise DataError(f"{where} holds {kind}; class numbers or names are needed.")
    try:
        values = column.cast(pa.int64()).fill_null(-1).to_numpy()
    except pa.ArrowInvalid as error:
        raise DataError(f"{where} must hold class numbers: {error}.") from error
    return Labels(_small(values, where), names)


def join_labels(parts: Sequence[Labels]) -> Labels:
    """Labels of several files as those of one: where their names differ, by name.

    Examples
    --------
    >>> one, two = Labels(np.array([0], np.int32), ("cat", "dog")), Labels(np.array([0], np.int32), ("dog",))
    >>> join_labels([one, two])
    Labels(values=array([0, 1], dtype=int32), names=('cat', 'dog'))
    """
    named = [part.names for part in parts if part.names]
    if not named:
        return Labels(np.concatenate([part.values for part in parts]))
    if any(part.names is None and len(part.values) and part.values.max() >= 0 for part in parts):
        raise DataError(
            f"labels are class names in some files ({', '.join(map(repr, named[0][:3]))}, ...) and class numbers in "
            "others, so that one class may have two numbers. Write all of them in one way."
        )
    if all(these == named[0] for these in named):
        return Labels(np.concatenate([part.values for part in parts]), named[0])
    if twice := [name for these in named for name in these if these.count(name) > 1]:
        raise DataError(f"files have different class names, and one names {twice[0]!r} twice. Name each class once.")
    names = tuple(dict.fromkeys(name for these in named for name in these))
    if all(these == tuple(sorted(these)) for these in named):
        names = tuple(sorted(names))
    place = {name: i for i, name in enumerate(names)}
    values = []
    for part in parts:
        if part.names and part.names != names[: len(part.names)]:
            moved = np.array([*(place[name] for name in part.names), -1], np.int32)
            if len(part.values) and part.values.max() >= len(part.names):
                raise DataError(f"a label is {part.values.max()}, but there are only {len(part.names)} class names.")
            values.append(moved[part.values])
        else:
            values.append(part.values)
    return Labels(np.concatenate(values), names)


def _from_text(column: pa.ChunkedArray, names: tuple[str, ...] | None, where: str) -> Labels:
    encoded = column.combine_chunks().dictionary_encode()
    texts = [str(text) for text in encoded.dictionary.to_pylist()]
    index = encoded.indices.fill_null(len(texts)).to_numpy(zero_copy_only=False)
    if names is not None:
        place = {name: i for i, name in enumerate(names)}
        if unknown := [text for text in texts if text not in place]:
            raise DataError(f"{where} holds {unknown[0]!r}, which is none of the file's {len(names)} class names.")
        values = [place[text] for text in texts]
    else:
        texts = [text.strip() for text in texts]
        numbers = _as_numbers(texts, where)
        if numbers is None:
            names = tuple(sorted(set(texts) - {""}))
            place = {"": -1, **{name: i for i, name in enumerate(names)}}
            numbers = [place[text] for text in texts]
        values = numbers
    return Labels(_small(np.array([*values, -1], np.object_), where)[index], names)


def _as_numbers(texts: Sequence[str], where: str) -> list[int] | None:
    """Class numbers, where all that is written there is whole numbers, as 3, 03 or 3.0; -1 for no label."""
    written = [text for text in texts if text.lower() not in NO_LABEL]
    if not written or not all(WHOLE.fullmatch(text) for text in written):
        return None
    if unlike := [text for text in written if str(_number(text)) != text]:
        warn(f"{where} holds whole numbers alone, so {unlike[0]!r} is read as class number {_number(unlike[0])}.")
    return [-1 if text.lower() in NO_LABEL else _number(text) for text in texts]


def _number(text: str) -> int:
    return int(text.partition(".")[0])


def _small(values: NDArray[Any], where: str) -> NDArray[np.int32]:
    if len(values) and values.max() > LARGEST:
        raise DataError(f"{where} holds {values.max()}; class numbers go up to {LARGEST}.")
    return np.where(values < 0, -1, values).astype(np.int32)  # 4 bytes per image, for data sets of a billion
