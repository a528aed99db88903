"""Parquet files in the Hugging Face layout, one row group in memory at a time."""

from __future__ import annotations

import glob
import io
import json
from bisect import bisect_right
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pyarrow import ArrowException, parquet, types

from oodline.data.digests import combine, file_digest
from oodline.errors import DataError


class ParquetImages:
    """Parquet files in the Hugging Face layout: a column of `{bytes, path}` and a column of integer labels.

    Only the row group that was read last is in memory, whatever the size of the files.

    Parameters
    ----------
    path : str or Path
        A file, a folder of them, or a pattern such as `train-*.parquet`.
    image, label : str
        Names of the columns; a missing label column means no labels, and so does a label of -1.

    Raises
    ------
    DataError
        No such file, a file that is not Parquet or is damaged, or no such column.
    """

    def __init__(self, path: str | Path, image: str = "image", label: str = "label") -> None:
        self.files = _parquet_files(path)
        self.image, self.label_column = image, label
        self.groups: list[tuple[int, int, int]] = []  # first row of the whole, file, row group
        labels: list[NDArray[np.int32]] = []
        self.class_names: tuple[str, ...] | None = None
        self._length = 0
        self._cached: tuple[int, Any] = (-1, None)
        for number, file in enumerate(self.files):
            try:
                opened = parquet.ParquetFile(file)
                columns = opened.schema_arrow.names
                if image not in columns:
                    raise DataError(f"{file} has no column '{image}'; its columns are {', '.join(columns)}.")
                if number == 0:
                    self.class_names = _class_names(opened.schema_arrow.metadata, label)
                for group in range(opened.num_row_groups):
                    self.groups.append((self._length, number, group))
                    self._length += opened.metadata.row_group(group).num_rows
                if label in columns and not types.is_integer(opened.schema_arrow.field(label).type):
                    kind = opened.schema_arrow.field(label).type
                    raise DataError(f"column '{label}' of {file} holds {kind}; class numbers are needed.")
                count = opened.metadata.num_rows
                if label in columns:
                    found = opened.read([label]).column(0).fill_null(-1).to_numpy()
                    labels.append(np.where(found < 0, -1, found).astype(np.int32))
                else:
                    labels.append(np.full(count, -1, np.int32))
            except (ArrowException, OSError) as error:
                raise DataError(f"{file} is not a Parquet file, or is damaged: {error}. Copy it again.") from error
        if self._length == 0:
            raise DataError(f"{path} holds no row.")
        self.labels = np.concatenate(labels)  # 4 bytes an image, for data sets of a billion
        self._starts = np.concatenate([[0], np.cumsum([len(part) for part in labels])])

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
        """Decode the bytes of the row."""
        start, number, group = self._group_of(i)
        if self._cached[0] != start:
            self._cached = (-1, None)  # the old group goes before the new one comes
            column = parquet.ParquetFile(self.files[number]).read_row_group(group, columns=[self.image]).column(0)
            self._cached = (start, column)
        value = self._cached[1][i - start].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise UnidentifiedImageError(f"the row holds {type(content).__name__}, not the bytes of an image")
        return Image.open(io.BytesIO(content))

    def fingerprint(self) -> str:
        """Of the bytes of the files in their order, and of which columns are read."""
        return combine([self.image, self.label_column, *map(file_digest, self.files)])

    def __getstate__(self) -> dict[str, Any]:
        # a loader's workers each read their own row groups: the cache would only be sent to be thrown away
        return {**self.__dict__, "_cached": (-1, None)}

    def _group_of(self, i: int) -> tuple[int, int, int]:
        return self.groups[bisect_right(self.groups, i, key=lambda g: g[0]) - 1]


def _parquet_files(path: str | Path) -> list[str]:
    if Path(path).is_dir():
        files = sorted(str(p) for p in Path(path).glob("*.parquet"))
    else:
        # Path.glob takes no pattern with folders of its own before it
        files = [str(path)] if Path(path).is_file() else sorted(glob.glob(str(path)))  # noqa: PTH207
    if not files:
        raise DataError(f"there is no Parquet file {path}. Check the path or the pattern.")
    return files


def _class_names(metadata: dict[bytes, bytes] | None, label: str) -> tuple[str, ...] | None:
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features[label]["names"])
    except (KeyError, TypeError, ValueError):
        return None
