"""A table as people read it: on a terminal, in a notebook, as Markdown, as LaTeX."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

from oodline.errors import unknown_name
from oodline.evaluation.metric import METRICS, PRINTED

if TYPE_CHECKING:
    from rich.console import Console

    from oodline.evaluation.table import Column, Table

WIDTH = 400
"""Columns of text at most where no terminal limits them."""


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
    from rich.table import Table as RichTable

    columns = table.columns + table.pooled_columns
    for metric in metrics:
        shown = RichTable(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        shown.add_column("detector", overflow="fold")
        for column in columns:
            shown.add_column(table.heading(column), justify="right", overflow="fold")
        for detector, texts in _rows(table, metric, columns, bold="[bold]{}[/bold]".format):
            shown.add_row(detector, *(text.replace(" [", " \\[") for text in texts))
        console.print(f"{heading(table, metric)}, %".replace("[", "\\["), shown)
    if table.milliseconds:
        own = ", ".join(f"{name} {ms:.3f}" for name, ms in table.milliseconds.items())
        console.print(f"Own time of each detector beside the shared pass, ms per sample: {own}\n")
    for line in footer(table):
        console.print(line)
    if table.full_spectrum is not None:
        console.print(f"\n{FULL_SPECTRUM}\n")
        print_table(table.full_spectrum, console, metrics)


FULL_SPECTRUM = "Full spectrum: covariate-shifted ID data counts as ID"
"""The title of the second table."""


def to_text(table: Table) -> str:
    """The same as plain text."""
    from rich.console import Console

    out = io.StringIO()
    print_table(table, Console(file=out, width=WIDTH, highlight=False, color_system=None))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def to_html(table: Table, metrics: Sequence[str] = PRINTED) -> str:
    """The same as HTML, for a notebook; names are escaped."""
    columns = table.columns + table.pooled_columns
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
    heads = [table.heading(column) for column in columns]
    lines = ["| detector | " + " | ".join(heads) + " |", "|---" * (len(columns) + 1) + "|"]
    for detector, texts in _rows(table, metric, columns, bold="**{}**".format):
        lines.append(f"| {detector} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


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
    heading(table, metric)  # refuses an unknown metric
    best = [table.best(metric, column) for column in columns]
    for detector in table.cells:
        texts = []
        for column, best_one in zip(columns, best, strict=True):
            value, interval = table.value(detector, metric, column), table.interval(detector, metric, column)
            text = f"{100 * value:.2f}"
            ends = "" if interval is None else f" [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
            texts.append((bold(text) if value == best_one else text) + ends)
        yield detector, texts


def _heads(table: Table, columns: Sequence[Column]) -> list[str]:
    spans: list[tuple[str | None, int, int]] = []
    for place, group in enumerate(map(table.group, columns), start=2):
        if spans and spans[-1][0] == group:
            spans[-1] = (group, spans[-1][1], place)
        else:
            spans.append((group, place, place))
    if not any(group for group, _, _ in spans):
        return []
    cells = [f"\\multicolumn{{{b - a + 1}}}{{c}}{{{_escaped(group or '')}}}" for group, a, b in spans]
    rules = [f"\\cmidrule(lr){{{a}-{b}}}" for group, a, b in spans if group]
    return [" & ".join(["", *cells]) + r" \\", "".join(rules)]


def _escaped(text: str) -> str:
    marks = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(marks.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)
