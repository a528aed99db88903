"""Rows of CSV, JSON lines, JSON and Parquet files by position, with one pass when they are opened.

Of CSV and JSON lines only where each row begins is kept in memory, of Parquet the row group that was read last; a JSON
document is held as a whole.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from pyarrow import ArrowException, parquet

from oodline._util.json_text import parse_json
from oodline.data.columns import check_columns
from oodline.data.line_tables import DELIMITERS, Column, CsvTable, JsonLines, OneFile, as_arrow, as_record
from oodline.data.parquet import ParquetRows, hugging_face_features, parquet_files
from oodline.errors import DataError

SUFFIXES = (*DELIMITERS, ".jsonl", ".ndjson", ".json", ".parquet")
"""Endings of files of texts."""


class Table(Protocol):
    """Rows with named columns."""

    files: list[str]
    columns: list[str]

    def __len__(self) -> int: ...

    def name(self, i: int) -> str:
        """What to call row `i`: file and position, from 0."""
        ...

    def row(self, i: int, names: Sequence[str]) -> list[Any]:
        """These columns of row `i`, None where it lacks one; raises `ValueError` with the reason if it is malformed."""
        ...

    def column(self, name: str) -> list[Column]:
        """A column, file by file; null in malformed rows."""
        ...


class JsonTable(OneFile):
    """A JSON document: a list of rows, or an object of such lists by name, one of which `split` names.

    A row is an object, a pair [text, label], or a text.
    """

    def __init__(self, path: Path, split: str | None, document: Any) -> None:
        super().__init__(path)
        if isinstance(document, dict):
            if split not in document:
                asked = f"no part '{split}'" if split is not None else "several parts"
                raise DataError(f"{path} has {asked}; it has {', '.join(document)}. Name one: {path},split=NAME.")
            document = document[split]
        elif split is not None:
            raise DataError(f"{path} is one list, without parts; got split={split}. Leave it out.")
        if not isinstance(document, list):
            raise DataError(f"{path} must hold a list of rows; got {type(document).__name__}.")
        self._rows = document
        names: dict[str, None] = {}
        for i in range(len(document)):
            with suppress(ValueError):  # `row` will say it again, of this row
                names |= dict.fromkeys(self._record(i))
        self.columns = list(names)

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, i: int, names: Sequence[str]) -> list[Any]:
        """From the document."""
        row = self._record(i)
        return [row.get(name) for name in names]

    def _record(self, i: int) -> Mapping[str, Any]:
        value = self._rows[i]
        if isinstance(value, str):
            return {"text": value}
        if isinstance(value, list) and len(value) == 2:
            return {"text": value[0], "label": value[1]}
        return as_record(value)

    def column(self, name: str) -> list[Column]:
        """From the document."""
        found = []
        for i in range(len(self)):
            try:
                found += self.row(i, [name])
            except ValueError:
                found.append(None)
        return [(as_arrow(found, f"'{name}' of {self.path}"), None)]


class ParquetTable:
    """One or several Parquet files, of which one row group is in memory."""

    def __init__(self, path: str | Path) -> None:
        self.files = parquet_files(path)
        self.columns: list[str] = []
        self._groups: list[tuple[int, int, int]] = []  # first row of the whole, file, row group
        self._starts, self._length = [0], 0
        self._cached: dict[str, ParquetRows] = {}
        for number, file in enumerate(self.files):
            try:
                with parquet.ParquetFile(file) as opened:
                    names = list(opened.schema_arrow.names)
                    sizes = [opened.metadata.row_group(group).num_rows for group in range(opened.num_row_groups)]
            except (ArrowException, OSError) as error:
                raise DataError(f"{file} is not a Parquet file, or is damaged: {error}. Copy it again.") from error
            check_columns(names, file)
            self.columns = names if not number else [name for name in self.columns if name in names]
            for group, size in enumerate(sizes):
                self._groups.append((self._length, number, group))
                self._length += size
            self._starts.append(self._length)

    def __len__(self) -> int:
        return self._length

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cached": {}}

    def name(self, i: int) -> str:
        """File and row in it."""
        number = bisect_right(self._starts, i) - 1
        return f"{Path(self.files[number]).name}#{i - self._starts[number]}"

    def row(self, i: int, names: Sequence[str]) -> list[Any]:
        """From the row group that holds it."""
        start, number, group = self._groups[bisect_right(self._groups, i, key=lambda g: g[0]) - 1]
        file = self.files[number]
        return [self._cached.setdefault(name, ParquetRows()).row(file, group, name, i - start) for name in names]

    def column(self, name: str) -> list[Column]:
        """As the files have it."""
        found = []
        for file in self.files:
            with parquet.ParquetFile(file) as opened:
                feature = hugging_face_features(opened.schema_arrow.metadata).get(name, {})
                names = feature.get("names")
                classes = tuple(map(str, names)) if isinstance(names, list) else None
                found.append((opened.read([name]).column(0), classes))
        return found


def open_table(path: str | Path, split: str | None = None) -> Table:
    """The table in a file, by its ending.

    Raises
    ------
    DataError
        It cannot be read, is of another kind, or holds no row.
    """
    path, suffix = Path(path), Path(path).suffix
    if split is not None and suffix != ".json":
        raise DataError(f"split=... is for a JSON document of several lists; got {path}. Leave it out.")
    if path.exists() and not path.is_file() and not path.is_dir():
        raise DataError(f"{path} is not a regular file, and its rows are read more than once. Copy it to a file.")
    table: Table
    try:
        if suffix == ".parquet" or path.is_dir():
            table = ParquetTable(path)
        elif suffix in DELIMITERS:
            table = CsvTable(path)
        elif suffix == ".json":
            table = _open_json(path, split)
        elif suffix in SUFFIXES:
            table = JsonLines(path)
        else:
            raise DataError(
                f"{path} is not a file of texts: its name must end in {', '.join(SUFFIXES)}, or be a folder of "
                "Parquet files."
            )
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}. Check the path.") from error
    if not len(table):
        raise DataError(f"{path} holds no row.")
    return table


def _open_json(path: Path, split: str | None) -> Table:
    try:
        document = parse_json(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and split is None:  # one object per line, under the other name
            return JsonLines(path)
        raise DataError(f"{path} is not a JSON document: {error}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}. Save it as UTF-8.") from error
    except ValueError as error:
        raise DataError(f"{path} cannot be read as a JSON document: {error}.") from error
    return JsonTable(path, split, document)
