"""Rows of CSV, JSON lines, JSON and Parquet files by position, with one pass when they are opened.

Of CSV and JSON lines only where each row begins is kept in memory, of Parquet the row group that was read last; a JSON
document is held as a whole.
"""

from __future__ import annotations

import csv
import io
import json
import re
import threading
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
from pyarrow import ArrowException, parquet

from oodline._util.tensor_file import parse_json
from oodline.data.columns import check_columns
from oodline.data.parquet import ParquetRows, hugging_face_features, parquet_files
from oodline.errors import DataError

DELIMITERS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (*DELIMITERS, ".jsonl", ".ndjson", ".json", ".parquet")
"""Endings of files of texts."""

LONGEST = 2**26
"""Characters of a field of CSV at most: past a quote that is never closed, the rest of the file is one field."""

_LIMIT = threading.Lock()


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

    line_end = ""
    """As `newline` of `open`: "" for any."""

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

    def _lines(self) -> Iterator[tuple[str, int]]:
        """The lines without a byte order mark, and where each ends, in bytes."""
        end = 0
        with self.path.open(encoding="utf-8", newline=self.line_end) as file:
            for line in file:
                plain = line if end else line.removeprefix("\ufeff")
                end += len(line.encode())
                yield plain, end

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
    """A CSV file (RFC 4180, UTF-8) whose first line names the columns; empty lines are no rows.

    Lines may end in LF, CRLF or CR. Where a name is written after a space, `text, label`, spaces after a delimiter are
    no content in the whole file.
    """

    def _scan(self) -> Iterator[tuple[int, int]]:
        with self.path.open(encoding="utf-8", newline="\n") as file:
            first = file.readline(2**20)
        # one end for the whole file: in one of LF, a CR by itself is no end of a line
        self.line_end = "\r" if re.search(r"\r(?!\n|$)", first) else "\n"
        self._spaced = False
        with _long_fields():
            self.columns = next((row for row, _ in self._rows() if row), [])
            if any(name.startswith(" ") for name in self.columns):
                self._spaced = True
                self.columns = next(row for row, _ in self._rows() if row)
            self.columns = [name.strip() for name in self.columns]
            check_columns(self.columns, str(self.path))
            start, seen = 0, False
            for row, end in self._rows():
                if row and seen:
                    yield start, end
                seen |= bool(row)
                start = end

    def _rows(self) -> Iterator[tuple[list[str], int]]:
        """Fields of each row, none of an empty line, and where it ends, in bytes."""
        end = number = 0

        def lines() -> Iterator[str]:
            nonlocal end
            for line, after in self._lines():
                end = after
                yield line

        try:
            for row in self._reader(lines()):
                yield row, end
                number += bool(row)
        except csv.Error as error:  # the reader would go on in the next line, perhaps in the middle of a field
            raise DataError(
                f"row {number} of {self.path} (the first line is row 0) cannot be read: "
                f"{str(error).partition(' - ')[0]}. Is each quoted field closed? A quote in it is written twice, a "
                f"carriage return stands in quotes alone, and a field has at most {LONGEST} characters."
            ) from error

    def _reader(self, lines: Iterable[str]) -> Iterator[list[str]]:
        # strict: else a quote that is not closed joins two rows
        return csv.reader(lines, delimiter=DELIMITERS[self.path.suffix], skipinitialspace=self._spaced, strict=True)

    def _parsed(self, text: str) -> Mapping[str, Any]:
        try:
            with _long_fields():
                [row] = self._reader(io.StringIO(text, newline=self.line_end))
        except csv.Error as error:
            raise ValueError(str(error)) from error
        if len(row) != len(self.columns):
            raise ValueError(f"it has {len(row)} fields, and the first line {len(self.columns)}")
        return dict(zip(self.columns, row, strict=True))


class JsonLines(_Lines):
    """A file with one JSON object per line; its columns are the keys of all of them."""

    def _scan(self) -> Iterator[tuple[int, int]]:
        names: dict[str, None] = {}
        start = 0
        for line, end in self._lines():
            if line.strip():
                with suppress(ValueError):  # `row` will say it again, of this row
                    names |= dict.fromkeys(self._parsed(line))
                yield start, end
            start = end
        self.columns = list(names)

    def _parsed(self, text: str) -> Mapping[str, Any]:
        return _record(parse_json(text.removeprefix("\ufeff")))


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


@contextmanager
def _long_fields() -> Iterator[None]:
    # the limit of `csv` is one for the process; what goes past it would begin again in the middle of a field
    with _LIMIT:
        before = csv.field_size_limit(LONGEST)
        try:
            yield
        finally:
            csv.field_size_limit(before)


def _record(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"it must be a JSON object; got {type(value).__name__}")
    return value


def _as_arrow(values: Sequence[Any], where: str) -> pa.ChunkedArray:
    try:
        return pa.chunked_array([pa.array(values)])
    except (ArrowException, OverflowError) as error:
        raise DataError(f"{where} must hold class names, or class numbers; it holds several kinds: {error}.") from error
