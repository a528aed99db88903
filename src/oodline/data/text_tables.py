"""Rows of CSV, JSON lines, JSON and Parquet files by position, with one pass when they are opened.

Of CSV and JSON lines only where each row begins is kept in memory, of Parquet the row group that was read last; a JSON
document is held as a whole.
"""

from __future__ import annotations

import csv
import json
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
from pyarrow import ArrowException, parquet

from oodline.data.parquet import ParquetRows, hugging_face_features, parquet_files
from oodline.errors import DataError

DELIMITERS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (*DELIMITERS, ".jsonl", ".ndjson", ".json", ".parquet")
"""Endings of files of texts."""


Column = tuple[pa.ChunkedArray, tuple[str, ...] | None]
"""Of one file, with the names of its classes in the order of their numbers, where the file says them."""


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


class _OneFile:
    def __init__(self, path: Path) -> None:
        self.path, self.files, self.columns = path, [str(path)], list[str]()

    def name(self, i: int) -> str:
        """File and row."""
        return f"{self.path.name}#{i}"


class _Lines(_OneFile):
    """A file of which each row is some lines: where they begin is found in one pass."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._starts, self._ends = array("q"), array("q")
        try:
            for first, end in self._scan():
                self._starts.append(first)
                self._ends.append(end)
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8 text: {error}. Save it as UTF-8.") from error

    def __len__(self) -> int:
        return len(self._starts)

    def _scan(self) -> Iterator[tuple[int, int]]:
        raise NotImplementedError

    def _parsed(self, text: str) -> Mapping[str, Any]:
        raise NotImplementedError

    def row(self, i: int, names: Sequence[str]) -> list[Any]:
        """Seek and parse."""
        with self.path.open("rb") as file:
            file.seek(self._starts[i])
            row = self._parsed(file.read(self._ends[i] - self._starts[i]).decode())
        return [row.get(name) for name in names]

    def column(self, name: str) -> list[Column]:
        """In a pass over the file."""
        known: dict[Any, Any] = {}  # one object for equal labels
        found = []
        with self.path.open("rb") as file:
            for first, end in zip(self._starts, self._ends, strict=True):
                file.seek(first)
                try:
                    value = self._parsed(file.read(end - first).decode()).get(name)
                except ValueError:
                    value = None
                value = None if value == "" else value  # as CSV says that there is none
                found.append(known.setdefault(value, value) if isinstance(value, str) else value)
        return [(_as_arrow(found, f"column '{name}' of {self.path}"), None)]


class CsvTable(_Lines):
    """A CSV file (RFC 4180, UTF-8) whose first line names the columns; empty lines are no rows."""

    def _scan(self) -> Iterator[tuple[int, int]]:
        end = 0

        def lines() -> Iterator[str]:
            nonlocal end
            with self.path.open("rb") as file:
                for line in file:
                    end += len(line)
                    yield line.decode()

        rows, start = csv.reader(lines(), delimiter=DELIMITERS[self.path.suffix]), 0
        while True:
            row: list[str] | None = None
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error:  # `row` will say it again, of this row
                pass
            if not self.columns:
                if row:
                    self.columns = [row[0].removeprefix("\ufeff"), *row[1:]]
                    if len(set(self.columns)) < len(self.columns):
                        raise DataError(f"the first line of {self.path} names a column twice: {', '.join(row)}.")
            elif row != []:
                yield start, end
            start = end

    def _parsed(self, text: str) -> Mapping[str, Any]:
        try:
            lines = (f"{line}\n" for line in text.removesuffix("\n").split("\n"))
            [row] = csv.reader(lines, delimiter=DELIMITERS[self.path.suffix])
        except csv.Error as error:
            raise ValueError(str(error)) from error
        if len(row) != len(self.columns):
            raise ValueError(f"it has {len(row)} fields, and the first line {len(self.columns)}")
        return dict(zip(self.columns, row, strict=True))


class JsonLines(_Lines):
    """A file with one JSON object per line; its columns are the keys of all of them."""

    def _scan(self) -> Iterator[tuple[int, int]]:
        names: dict[str, None] = {}
        end = 0
        with self.path.open("rb") as file:
            for line in file:
                start, end = end, end + len(line)
                if not line.strip():
                    continue
                try:
                    names |= dict.fromkeys(self._parsed(line.decode()))
                except UnicodeDecodeError:
                    raise
                except ValueError:  # `row` will say it again, of this row
                    pass
                yield start, end
        self.columns = list(names)

    def _parsed(self, text: str) -> Mapping[str, Any]:
        return _record(_json(text.removeprefix("\ufeff")))


class JsonTable(_OneFile):
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
        return _record(value)

    def column(self, name: str) -> list[Column]:
        """From the document."""
        found = []
        for i in range(len(self)):
            try:
                found += self.row(i, [name])
            except ValueError:
                found.append(None)
        return [(_as_arrow(found, f"'{name}' of {self.path}"), None)]


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
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and split is None:  # one object per line, under the other name
            return JsonLines(path)
        raise DataError(f"{path} is not a JSON document: {error}.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not a JSON document in UTF-8: {error}.") from error
    return JsonTable(path, split, document)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _record(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"it must be a JSON object; got {type(value).__name__}")
    return value


def _as_arrow(values: Sequence[Any], where: str) -> pa.ChunkedArray:
    try:
        return pa.chunked_array([pa.array(values)])
    except (ArrowException, OverflowError) as error:
        raise DataError(f"{where} must hold class names, or class numbers; it holds several kinds: {error}.") from error
