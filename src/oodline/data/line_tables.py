"""Rows of CSV and JSON lines files by position: where each begins is found in one pass, and kept in memory."""

from __future__ import annotations

import csv
import io
import re
import threading
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import ArrowException

from oodline._util.json_text import parse_json
from oodline.data.columns import check_columns
from oodline.errors import DataError

DELIMITERS = {".csv": ",", ".tsv": "\t"}

LONGEST = 2**26
"""Characters of a field of CSV at most: past a quote that is never closed, the rest of the file is one field."""

_LIMIT = threading.Lock()


Column = tuple[pa.ChunkedArray, tuple[str, ...] | None]
"""Of one file, with the names of its classes in the order of their numbers, where the file says them."""


class OneFile:
    """A table that is one file."""

    def __init__(self, path: Path) -> None:
        self.path, self.files, self.columns = path, [str(path)], list[str]()

    def name(self, i: int) -> str:
        """File and row."""
        return f"{self.path.name}#{i}"


class _Lines(OneFile):
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
        return [(as_arrow(found, f"column '{name}' of {self.path}"), None)]


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
        return as_record(parse_json(text.removeprefix("\ufeff")))


@contextmanager
def _long_fields() -> Iterator[None]:
    # the limit of `csv` is one for the process; what goes past it would begin again in the middle of a field
    with _LIMIT:
        before = csv.field_size_limit(LONGEST)
        try:
            yield
        finally:
            csv.field_size_limit(before)


def as_record(value: Any) -> Mapping[str, Any]:
    """A row as an object; raises `ValueError` with the reason where it is none."""
    if not isinstance(value, dict):
        raise ValueError(f"it must be a JSON object; got {type(value).__name__}")
    return value


def as_arrow(values: Sequence[Any], where: str) -> pa.ChunkedArray:
    """Labels as a column; raises `DataError` where they are of several kinds."""
    try:
        return pa.chunked_array([pa.array(values)])
    except (ArrowException, OverflowError) as error:
        raise DataError(f"{where} must hold class names, or class numbers; it holds several kinds: {error}.") from error
