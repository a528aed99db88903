"""Parquet files of images in the Hugging Face layout, read one row group at a time."""

from __future__ import annotations

import glob
import json
import os
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pyarrow import ArrowException, parquet, types

from oodline._util.digests import combine, file_digest
from oodline.data.columns import (
    IMAGES,
    LABELS,
    Labels,
    check_columns,
    class_numbers,
    find_column,
    holds_images,
    image_content,
    join_labels,
)
from oodline.data.decoding import decode, image_error
from oodline.errors import DataError

LARGE = 2**28
"""Bytes of images in a row group above which it is read in runs of `RUN` rows, and not as a whole."""

RUN = 64


class ParquetImages:
    """Parquet files with a column of images, as `{bytes, path}`, bytes or paths, and perhaps a column of labels.

    Only the row group that was read last is in memory, whatever the size of the files; of a very large one only some
    rows. A path counts from the folder of its Parquet file.

    Parameters
    ----------
    path : str or Path
        A file, a folder of them, or a pattern such as `train-*.parquet`.
    image : str, optional
        Name of the column of images; if omitted it is found by its name (`image`, `img`, ...) or type.
    label : str, optional
        Name of the column of labels, found likewise (`label`, `labels`, `fine_label`, ...); "" for no labels. Labels
        are class numbers or names, and -1 or null where there is none.

    Raises
    ------
    DataError
        No such file, a file that is not Parquet or is damaged, no such column, several that may be meant, or labels
        that are not classes.
    """

    def __init__(self, path: str | Path, image: str | None = None, label: str | None = None) -> None:
        self.files = parquet_files(path)
        self._asked = (image, label)
        self.groups: list[tuple[int, int, int]] = []  # first row of the whole, file, row group
        self._length = 0
        self._cached = ParquetRows()
        self._columns: list[tuple[str, str | None]] = []
        parts = []
        for number, file in enumerate(self.files):
            try:
                with parquet.ParquetFile(file) as opened:
                    parts.append(self._open(opened, number, file))
            except (ArrowException, OSError) as error:
                raise DataError(f"{file} is not a Parquet file, or is damaged: {error}. Copy it again.") from error
        if self._length == 0:
            raise DataError(f"{path} holds no row.")
        joined = join_labels(parts)
        self.labels, self.class_names = joined.values, joined.names
        self._starts = np.concatenate([[0], np.cumsum([len(part.values) for part in parts])])

    def __len__(self) -> int:
        return self._length

    def name(self, i: int) -> str:
        """File and row."""
        _, number, _ = self._group_of(i)
        return f"{Path(self.files[number]).name}#{i - self._starts[number]}"

    def label(self, i: int) -> int | None:
        """Value of the label column."""
        label = int(self.labels[i])
        return None if label < 0 else label

    def read(self, i: int) -> Image.Image:
        """Decode the image of the row."""
        start, number, group = self._group_of(i)
        try:
            value = self._cached.row(self.files[number], group, self._columns[number][0], i - start)
            content = image_content(value, Path(self.files[number]).parent)
        except Exception as error:
            raise image_error(self.name(i), error) from error
        return decode(content, self.name(i))

    def fingerprint(self) -> str:
        """Of the bytes of the files in their order, of image files that they name, and of which columns are read."""
        named = [file_digest(path) for path in self._named_files()]
        return combine([*map(str, self._columns), *map(file_digest, self.files), *named])

    def __getstate__(self) -> dict[str, Any]:
        # a loader's workers each read their own row groups: the cache would only be sent to be thrown away
        return {**self.__dict__, "_cached": ParquetRows()}

    def _open(self, opened: parquet.ParquetFile, number: int, file: str) -> Labels:
        schema, features = opened.schema_arrow, hugging_face_features(opened.schema_arrow.metadata)
        image, label = self._asked
        columns = schema.names
        check_columns(columns, file)
        likely = [c for c in columns if features.get(c, {}).get("_type") == "Image"]
        likely = likely or [c for c in columns if holds_images(schema.field(c).type)]
        column = find_column(columns, image, IMAGES, likely, file)
        if column is None:
            raise DataError(
                f"{file} has no column 'image'; its columns are {', '.join(columns)}. Name the one of the images after "
                f"the data: {Path(file).name},image=COLUMN."
            )
        labels = None
        if label != "":
            likely = [c for c in columns if features.get(c, {}).get("_type") == "ClassLabel"]
            labels = find_column(columns, label, LABELS, likely, file, column)
        self._columns.append((column, labels))
        for group in range(opened.num_row_groups):
            self.groups.append((self._length, number, group))
            self._length += opened.metadata.row_group(group).num_rows
        if labels is None:
            return Labels(np.full(opened.metadata.num_rows, -1, np.int32))
        names = features.get(labels, {}).get("names")
        return class_numbers(
            opened.read([labels]).column(0),
            tuple(map(str, names)) if isinstance(names, list) else None,
            f"column '{labels}' of {file}",
        )

    def _named_files(self) -> Iterator[Path]:
        for _, number, group in self.groups:
            file, (image, _) = self.files[number], self._columns[number]
            if _embedded(file, group, image):
                continue
            for run in _runs(file, group, image):
                for value in run:
                    try:
                        content = image_content(value.as_py(), Path(file).parent)
                    except OSError:
                        continue  # a row without image
                    if isinstance(content, Path):
                        yield content

    def _group_of(self, i: int) -> tuple[int, int, int]:
        return self.groups[bisect_right(self.groups, i, key=lambda g: g[0]) - 1]


class ParquetRows:
    """The rows of a column that were read last: of a row group, or of a part of a very large one."""

    def __init__(self) -> None:
        self._place: tuple[object, ...] | None = None
        self._first = 0
        self._run: Any = None
        self._runs: Iterator[Any] = iter(())

    def row(self, file: str, group: int, column: str, i: int) -> Any:
        """Value of row `i` of a row group."""
        place = (os.getpid(), file, group, column)
        if self._place != place or i < self._first:
            self._place = self._run = None  # the old group goes before the new one comes
            self._first, self._runs = 0, _runs(file, group, column)
            self._run = next(self._runs)
            self._place = place
        while i >= self._first + len(self._run):
            self._first += len(self._run)
            self._run = next(self._runs)
        return self._run[i - self._first].as_py()


def _runs(file: str, group: int, column: str) -> Iterator[Any]:
    with parquet.ParquetFile(file, buffer_size=2**20) as opened:
        if sum(leaf.total_uncompressed_size for leaf in _leaves(opened, group, column)) <= LARGE:
            yield opened.read_row_group(group, columns=[column]).column(0)
            return
        for batch in opened.iter_batches(RUN, row_groups=[group], columns=[column]):
            yield batch.column(0)


def _leaves(opened: parquet.ParquetFile, group: int, column: str) -> list[Any]:
    found = opened.metadata.row_group(group)
    leaves = [found.column(k) for k in range(found.num_columns)]
    return [leaf for leaf in leaves if leaf.path_in_schema.partition(".")[0] == column]


def _embedded(file: str, group: int, column: str) -> bool:
    """Whether every row holds the bytes of its image, as far as the file's own statistics tell."""
    with parquet.ParquetFile(file) as opened:
        kind = opened.schema_arrow.field(column).type
        if not types.is_struct(kind):
            return holds_images(kind)
        bytes_of = [leaf for leaf in _leaves(opened, group, column) if leaf.path_in_schema == f"{column}.bytes"]
        return all(leaf.statistics is not None and leaf.statistics.null_count == 0 for leaf in bytes_of)


def parquet_files(path: str | Path) -> list[str]:
    """The files of a folder or a pattern, or the one file.

    Raises
    ------
    DataError
        There is none.
    """
    if Path(path).is_dir():
        files = sorted(str(p) for p in Path(path).glob("*.parquet"))
    else:
        # Path.glob takes no pattern with folders of its own before it
        files = [str(path)] if Path(path).is_file() else sorted(glob.glob(str(path)))  # noqa: PTH207
    if not files:
        raise DataError(f"there is no Parquet file {path}. Check the path or the pattern.")
    return files


def hugging_face_features(metadata: dict[bytes, bytes] | None) -> dict[str, dict[str, Any]]:
    """What the package `datasets` writes of every column."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}
