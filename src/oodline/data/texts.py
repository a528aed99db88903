"""`TextFile`: the texts and labels of a CSV, JSON lines, JSON or Parquet file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from oodline._util.digests import combine, file_digest
from oodline._util.spec import parse_reference
from oodline.data.columns import LABELS, Labels, class_numbers, find_column, join_labels
from oodline.data.text_tables import SUFFIXES, Table, open_table
from oodline.errors import DataError, TextError
from oodline.preprocessing.text import Text

HALF = re.compile("[\ud800-\udfff]")
"""What JSON can say and UTF-8 cannot."""

TEXTS = (
    "text",
    "texts",
    "sentence",
    "query",
    "utterance",
    "question",
    "review",
    "content",
    "message",
    "comment",
    "document",
    "body",
)
"""What columns of texts are usually called; the first one wins."""

PAIRS = (
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("text1", "text2"),
    ("text", "text_pair"),
)
"""What two columns of texts that belong together are usually called."""

TEXT_LABELS = (*LABELS, "intent", "sentiment", "emotion", "topic")
"""What columns of labels of texts are usually called."""


class TextFile:
    r"""Texts by position, with their labels: the rows of a CSV, JSON lines, JSON or Parquet file.

    The first line of a CSV file names the columns; a TSV file is the same with tabs. A JSON document is a list of
    objects, of `[text, label]` or of texts, or an object of such lists, one of which `split` names. Of Parquet, a
    folder or a pattern of several files is taken too.

    Parameters
    ----------
    path : str or Path
        The file.
    text : str, optional
        Name of the column of texts, or of two of them, `premise,hypothesis`. If omitted it is found by its name: two of
        `PAIRS`, else one of `TEXTS`.
    label : str, optional
        Name of the column of labels, class names or numbers; if omitted one of `TEXT_LABELS`, where there is one. ""
        for no labels.
    split : str, optional
        Which part of a JSON document of several.
    labelled : bool
        Whether labels matter: if not, the column that `label` names may be missing, and none is searched for.

    Raises
    ------
    DataError
        No such file, a file of another kind, no such column, several that may be meant, or labels that are not classes.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     _ = Path(folder, "a.csv").write_text('text,intent\n"hi, there",greet\nbye,leave\n')
    ...     source = TextFile(f"{folder}/a.csv")
    ...     [(source.name(i), source.read(i), source.label(i)) for i in range(2)], source.class_names
    ([('a.csv#0', 'hi, there', 0), ('a.csv#1', 'bye', 1)], ('greet', 'leave'))
    """

    def __init__(
        self,
        path: str | Path,
        text: str | None = None,
        label: str | None = None,
        split: str | None = None,
        *,
        labelled: bool = True,
    ) -> None:
        self.path = Path(path)
        self._table = open_table(path, split)
        self.files = self._table.files
        self._columns = _text_columns(self._table, text, str(path))
        wanted = label if labelled or label in self._table.columns else ""
        column = None
        if wanted != "":
            column = find_column(self._table.columns, wanted, TEXT_LABELS, (), str(path), self._columns[0])
        self._read = (*self._columns, column, split)
        found = Labels(np.full(len(self._table), -1, np.int32))
        if column is not None:
            parts = self._table.column(column)
            found = join_labels(
                [class_numbers(values, names, f"column '{column}' of {path}") for values, names in parts]
            )
        self.labels, self.class_names = found.values, found.names

    def __len__(self) -> int:
        return len(self._table)

    def name(self, i: int) -> str:
        """File and row, from 0."""
        return self._table.name(i)

    def label(self, i: int) -> int | None:
        """Value of the label column."""
        label = int(self.labels[i])
        return None if label < 0 else label

    def read(self, i: int) -> Text:
        """The text of the row, or its two.

        Raises
        ------
        TextError
            The row is malformed, or a text is missing or empty; names the row.
        """
        try:
            texts = [_checked(value) for value in self._table.row(i, self._columns)]
        except ValueError as error:
            raise text_error(self.name(i), str(error)) from error
        return texts[0] if len(texts) == 1 else (texts[0], texts[1])

    def fingerprint(self) -> str:
        """Of the bytes of the files in their order, and of which columns are read."""
        return combine([*map(str, self._read), *map(file_digest, self.files)])


def open_texts(
    spec: str | Path, text: str | None = None, label: str | None = None, *, labelled: bool = True
) -> TextFile:
    """Open texts by path, with options after it: `train.csv,text=query,label=intent`, `clinc150.json,split=train`.

    Parameters
    ----------
    spec : str or Path
        A CSV, TSV, JSON lines, JSON or Parquet file, a folder or a pattern of Parquet files.
    text, label
        Columns, where the options do not name them; see `TextFile`.
    labelled : bool
        Whether labels matter; see `TextFile`.

    Raises
    ------
    DataError
        As `TextFile`.
    """
    reference = parse_reference(str(spec), ("hf", "torchvision", "list"))
    if reference.scheme is not None:
        raise DataError(
            f"{spec} is a data set of images, and the model reads texts. Name a file of texts: {', '.join(SUFFIXES)}."
            + (" Of `datasets`, load_dataset(...).to_parquet(FILE) writes one." if reference.scheme == "hf" else "")
        )
    path, options = (Path(spec), {}) if Path(spec).exists() else (Path(reference.name), dict(reference.options))
    known = ("text", "label", "split")
    for option in options:
        if option not in known:
            takes = ", ".join(f"{key}=..." for key in known)
            raise DataError(f"{path} takes {takes}; got {option}={options[option]}.")
    own = {key: str(value) for key, value in options.items()}
    return TextFile(
        path,
        own.get("text", text),
        own.get("label", label),
        own.get("split"),
        labelled=labelled or "label" in own,
    )


def text_error(name: str, reason: str) -> TextError:
    """Name the text that cannot be read."""
    named = TextError(f"text {name} cannot be read: {reason.rstrip('.')}.")
    named.reason = reason
    return named


def _text_columns(table: Table, wanted: str | None, where: str) -> Sequence[str]:
    if wanted is not None and wanted not in table.columns and "," in wanted:
        names = [name.strip() for name in wanted.split(",")]
        if len(names) != 2:
            raise DataError(f"`text` must name one column or two; got {wanted}.")
        return [_one_column(table, name, where) for name in names]
    if wanted is None:
        for pair in PAIRS:
            if set(pair) <= set(table.columns):
                return pair
    return [_one_column(table, wanted, where)]


def _one_column(table: Table, wanted: str | None, where: str) -> str:
    found = find_column(table.columns, wanted, TEXTS, (), where)
    if found is None:
        listed = ", ".join(table.columns) or "none"
        raise DataError(
            f"{where} has no column 'text'; its columns are {listed}. Name the one of the texts after the data, "
            f"{where},text=COLUMN, or by --text-column."
        )
    return found


def _checked(value: object) -> str:
    if value is None:
        raise ValueError("there is no text")
    if not isinstance(value, str):
        raise ValueError(f"it holds {type(value).__name__}, not a text")
    if not value.strip():
        raise ValueError("it is empty")
    if HALF.search(value):
        raise ValueError("it holds half of a surrogate pair, which is no character")
    return value
