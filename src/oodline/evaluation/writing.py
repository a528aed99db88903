"""A table as a file: the ending of its name chooses the form."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from oodline.errors import SettingError
from oodline.evaluation.table import TITLES, Column, Table
from oodline.files import write_atomically

PRINTED = ("auroc", "fpr95_id_positive", "fpr95_ood_positive")
"""The metrics of the tables for people; CSV and JSON hold all."""

Tables = Mapping[str, Table]
"""Tables of one evaluation by title; the main one has none."""


def to_markdown(tables: Tables, metrics: Sequence[str] = PRINTED) -> str:
    """Every table as Markdown, metric by metric, with its convention."""
    lines = []
    for title, table in tables.items():
        lines += [f"## {title}", ""] if title else []
        for metric in metrics:
            lines += [f"{heading(table, metric)}, %", "", table.to_markdown(metric, _columns(table)), ""]
    return "\n".join(lines)


def to_latex(tables: Tables, metrics: Sequence[str] = PRINTED) -> str:
    """Every table as a LaTeX tabular a metric; the title and the convention are comments."""
    parts = []
    for title, table in tables.items():
        for metric in metrics:
            convention = "" if table.convention == "exact" else f"% metrics as the {table.convention} counts them\n"
            parts.append((f"% {title}\n" if title else "") + convention + table.to_latex(metric, _columns(table)))
    return "\n\n".join(parts) + "\n"


def to_csv(tables: Tables) -> str:
    """The main table, single sets only."""
    return next(iter(tables.values())).to_csv()


def to_json(tables: Tables) -> str:
    """Every table in full, the main one under its own keys and each further one under its title."""
    main, *others = tables.items()
    document = main[1].to_json() | {title: table.to_json() for title, table in others}
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


WRITERS: dict[str, Callable[[Tables], str]] = {".md": to_markdown, ".tex": to_latex, ".csv": to_csv, ".json": to_json}
"""How to write tables, by the ending of the file."""


def write_tables(tables: Tables, path: str | Path) -> Path:
    """Write tables as Markdown, LaTeX, CSV or JSON, whole or not at all.

    Raises
    ------
    SettingError
        Another ending.
    DataError
        The file cannot be written.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from oodline.evaluation.metrics import compute_metrics
    >>> table = Table({"energy": {"svhn": compute_metrics([2.0, 3.0], [1.0, 2.5])}})
    >>> with TemporaryDirectory() as folder:
    ...     print(write_tables({"": table}, f"{folder}/table.md").read_text().splitlines()[2])
    | detector | svhn |
    """
    path = Path(path)
    if path.suffix not in WRITERS:
        raise SettingError(f"a table is written as {', '.join(WRITERS)}; {path.name} ends in none of them.")
    content = WRITERS[path.suffix](tables)
    return write_atomically(path, lambda file: file.write(content.encode()))


def heading(table: Table, metric: str) -> str:
    """What a metric of a table is called, with how it was counted where that is not the definition."""
    return TITLES[metric] + ("" if table.convention == "exact" else f" [as the {table.convention} counts]")


def _columns(table: Table) -> list[Column]:
    return table.columns + table.pooled_columns
