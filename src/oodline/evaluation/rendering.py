"""A table as people read it: on a terminal, in a notebook, as Markdown, as LaTeX."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from oodline._util.terminal import printable
from oodline.errors import unknown_name
from oodline.evaluation.metric_table import METRICS, PRINTED

if TYPE_CHECKING:
    from rich.console import Console

    from oodline.evaluation.table import Column, Table

WIDTH = 400
"""Columns of text at most where no terminal limits them."""

FULL_SPECTRUM = "Full spectrum: covariate-shifted ID data counts as ID"
"""The title of the second table."""


@dataclass(frozen=True)
class Cell:
    """A value in [0, 1] as it is printed, in %, with the ends of its interval where it has one.

    Examples
    --------
    >>> Cell(0.91234, True, ("90.1", "92.3")).text
    '91.23'
    """

    value: float
    best: bool
    """Whether no other detector is better in this column."""
    ends: tuple[str, ...]

    @property
    def text(self) -> str:
        """The value in %."""
        return f"{100 * self.value:.2f}"


def cells(table: Table, metric: str, columns: Sequence[Column]) -> dict[str, list[Cell]]:
    """Every detector with its value in each column."""
    heading(table, metric)  # refuses an unknown metric
    best = [table.best(metric, column) for column in columns]

    def cell(detector: str, column: Column, best: float) -> Cell:
        value, interval = table.value(detector, metric, column), table.interval(detector, metric, column)
        ends = () if interval is None else (f"{100 * interval.low:.1f}", f"{100 * interval.high:.1f}")
        return Cell(value, value == best, ends)

    return {detector: [cell(detector, *place) for place in zip(columns, best, strict=True)] for detector in table.cells}


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table; a `|` or a line break within a cell is written so that it does not end the cell.

    Examples
    --------
    >>> markdown(["a", "b"], [["1", "2"]])
    ['| a | b |', '|---|---|', '| 1 | 2 |']
    """

    def line(row: Sequence[str]) -> str:
        texts = [" ".join(text.split()).replace("|", "\\|") for text in row]
        return f"| {' | '.join(texts)} |"

    return [line(head), "|---" * len(head) + "|", *map(line, rows)]


def heading(table: Table, metric: str) -> str:
    """What a metric of a table is called, with how it was counted where that is not the definition."""
    if metric not in METRICS:
        raise unknown_name("metric", metric, METRICS)
    return METRICS[metric].title + ("" if table.convention == "exact" else f" [as the {table.convention} counts]")


def footer(table: Table) -> list[str]:
    """What stands below the tables: accuracy on ID data, and sizes."""
    sizes = next(iter(table.cells.values()), {})
    if not sizes:
        return []
    right = "" if table.accuracy is None else f", of which the classifier gets {100 * table.accuracy:.2f} % right"
    ood = ", ".join(f"{name} {m.n_ood}" for name, m in sizes.items())
    return [f"ID samples: {next(iter(sizes.values())).n_id}{right}; OOD samples: {ood}"]


def print_table(table: Table, console: Console, metrics: Sequence[str] = PRINTED) -> None:
    """Print the metrics for people, best values in bold, then times and sizes; full spectrum where there is one."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table as RichTable

    columns = table.all_columns
    for metric in metrics:
        shown = RichTable(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        shown.add_column("detector", overflow="fold")
        for column in columns:
            shown.add_column(escape(printable(table.heading(column))), justify="right", overflow="fold")
        for detector, texts in _rows(table, metric, columns, bold="[bold]{}[/bold]".format):
            shown.add_row(escape(printable(detector)), *(text.replace(" [", " \\[") for text in texts))
        console.print(f"{heading(table, metric)}, %".replace("[", "\\["), shown)
    if table.milliseconds:
        own = ", ".join(f"{name} {ms:.3f}" for name, ms in table.milliseconds.items())
        own = printable(f"Own time of each detector beside the shared pass, ms per sample: {own}\n")
        console.print(own, markup=False)
    for line in footer(table):
        console.print(printable(line), markup=False)
    if table.full_spectrum is not None:
        console.print(f"\n{FULL_SPECTRUM}\n")
        print_table(table.full_spectrum, console, metrics)


def to_text(table: Table) -> str:
    """The same as plain text."""
    from rich.console import Console

    out = io.StringIO()
    print_table(table, Console(file=out, width=WIDTH, highlight=False, color_system=None))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def to_html(table: Table, metrics: Sequence[str] = PRINTED) -> str:
    """The same as HTML, for a notebook; names are escaped."""
    columns = table.all_columns
    parts = []
    for metric in metrics:
        heads = "".join(f"<th>{escape(text)}</th>" for text in ["detector", *map(table.heading, columns)])
        rows = "".join(
            f"<tr><th>{escape(detector)}</th>{''.join(f'<td>{text}</td>' for text in texts)}</tr>"
            for detector, texts in _rows(table, metric, columns, bold="<b>{}</b>".format)
        )
        parts.append(
            f"<table><caption>{escape(heading(table, metric))}, %</caption>"
            f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
        )
    parts += [f"<p>{escape(line)}</p>" for line in footer(table)]
    if table.full_spectrum is not None:
        parts += [f"<p>{FULL_SPECTRUM}</p>", to_html(table.full_spectrum, metrics)]
    return "".join(parts)


def to_markdown(table: Table, metric: str, columns: Sequence[Column]) -> str:
    """One metric as a Markdown table; see `Table.to_markdown`."""
    rows = _rows(table, metric, columns, bold="**{}**".format)
    return "\n".join(
        markdown(["detector", *map(table.heading, columns)], [[detector, *texts] for detector, texts in rows])
    )


def to_latex(table: Table, metric: str, columns: Sequence[Column]) -> str:
    """One metric as a LaTeX tabular; see `Table.to_latex`."""
    lines = [f"% {_escaped(heading(table, metric))}, \\%; needs \\usepackage{{booktabs}}"]
    lines += [f"\\begin{{tabular}}{{l{'r' * len(columns)}}}", "\\toprule", *_heads(table, columns)]
    lines += [" & ".join(["detector", *(_escaped(c.title) for c in columns)]) + r" \\", "\\midrule"]
    for detector, texts in _rows(table, metric, columns, bold="\\textbf{{{}}}".format):
        lines.append(" & ".join([_escaped(detector), *texts]) + r" \\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"])


def _rows(
    table: Table, metric: str, columns: Sequence[Column], *, bold: Callable[[str], str]
) -> Iterator[tuple[str, list[str]]]:
    """Every detector with its values in %, the best of each column as `bold` writes it, intervals in brackets."""
    for detector, row in cells(table, metric, columns).items():
        texts = [bold(cell.text) if cell.best else cell.text for cell in row]
        ends = [f" [{', '.join(cell.ends)}]" if cell.ends else "" for cell in row]
        yield detector, [text + end for text, end in zip(texts, ends, strict=True)]


def group_spans(table: Table, columns: Sequence[Column]) -> list[tuple[str | None, int, int]]:
    """Groups above columns, each with the positions of its first and last column; empty if there is none."""
    spans: list[tuple[str | None, int, int]] = []
    for place, group in enumerate(map(table.group, columns)):
        if spans and spans[-1][0] == group:
            spans[-1] = (group, spans[-1][1], place)
        else:
            spans.append((group, place, place))
    return spans if any(group for group, _, _ in spans) else []


def _heads(table: Table, columns: Sequence[Column]) -> list[str]:
    spans = [(group, a + 2, b + 2) for group, a, b in group_spans(table, columns)]
    if not spans:
        return []
    cells = [f"\\multicolumn{{{b - a + 1}}}{{c}}{{{_escaped(group or '')}}}" for group, a, b in spans]
    rules = [f"\\cmidrule(lr){{{a}-{b}}}" for group, a, b in spans if group]
    return [" & ".join(["", *cells]) + r" \\", "".join(rules)]


def _escaped(text: str) -> str:
    marks = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(marks.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)
