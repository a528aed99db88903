"""A table as a file: the ending of its name chooses the form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from oodline._util.files import write_atomically
from oodline.errors import SettingError
from oodline.evaluation.metric_table import PRINTED
from oodline.evaluation.rendering import footer, heading
from oodline.evaluation.table import Table


def to_markdown(table: Table) -> str:
    """Every metric for people as Markdown, with its convention, accuracy and sizes; then the full spectrum."""
    lines = []
    for title, each in table.spectra.items():
        lines += [f"## {title}", ""] if title else []
        for metric in PRINTED:
            lines += [f"{heading(each, metric)}, %", "", each.to_markdown(metric, each.all_columns), ""]
        lines += [*footer(each), ""]
    return "\n".join(lines)


def to_latex(table: Table) -> str:
    """Every metric for people as a LaTeX tabular; titles, accuracy and sizes are comments."""
    parts = []
    for title, each in table.spectra.items():
        comments = [f"% {line.replace('%', 'percent')}\n" for line in ([title] if title else []) + footer(each)]
        parts += ["".join(comments) + each.to_latex(metric, each.all_columns) for metric in PRINTED]
    return "\n\n".join(parts) + "\n"


def to_json(table: Table) -> str:
    """The table in full."""
    return table.to_json() + "\n"


WRITERS: dict[str, Callable[[Table], str]] = {
    ".md": to_markdown,
    ".tex": to_latex,
    ".csv": Table.to_csv,
    ".json": to_json,
}
"""How to write a table, by the ending of the file; CSV has no full spectrum."""


def write_table(table: Table, path: str | Path) -> Path:
    """Write a table as Markdown, LaTeX, CSV or JSON, whole or not at all.

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
    ...     print(write_table(table, f"{folder}/table.md").read_text().splitlines()[2])
    | detector | svhn |
    """
    path = Path(path)
    if path.suffix not in WRITERS:
        raise SettingError(f"the name of a table's file must end in {', '.join(WRITERS)}; got {path.name}.")
    content = WRITERS[path.suffix](table)
    return write_atomically(path, lambda file: file.write(content.encode()))
