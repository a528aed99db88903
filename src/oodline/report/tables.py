"""The tables of a run as text for papers and documents."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from oodline.errors import SettingError
from oodline.evaluation.evaluate import TITLES
from oodline.evaluation.run import PRINTED
from oodline.evaluation.table import Table
from oodline.files import write_atomically

ENDINGS = (".md", ".tex")


def check_ending(path: Path) -> None:
    """Raise `SettingError` where the ending of a file names no format of tables."""
    if path.suffix not in ENDINGS:
        raise SettingError(f"--tables must end in {' or '.join(ENDINGS)}; {path.name} does not.")


def write_tables(found: Mapping[str, Table], path: Path) -> Path:
    """Write tables, by title, as Markdown (.md) or LaTeX (.tex), one metric after the other.

    Raises
    ------
    SettingError
        Another ending.
    DataError
        The file cannot be written; nothing is left half-written.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from oodline.report.contents import tables
    >>> from oodline.testing import toy_run
    >>> with TemporaryDirectory() as folder:
    ...     written = write_tables(tables(toy_run(f"{folder}/run")), Path(folder) / "tables.md").read_text()
    >>> written.splitlines()[0]
    'AUROC (higher is better), %'
    """
    check_ending(path)
    parts = []
    for title, table in found.items():
        parts += [title] if title else []
        for metric in PRINTED:
            parts += (
                [table.to_latex(metric)]
                if path.suffix == ".tex"
                else [f"{TITLES[metric]}, %", table.to_markdown(metric)]
            )
    text = "\n\n".join(parts) + "\n"
    return write_atomically(path, lambda file: file.write(text.encode()))
