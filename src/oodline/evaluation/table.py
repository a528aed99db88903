"""The table of an evaluation: every detector on every OOD set, their averages, and how people and programs read it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from oodline.errors import SettingError, unknown_name
from oodline.evaluation.bootstrap import Interval
from oodline.evaluation.metrics import Metrics

PERCENT = ("auroc", "aupr_in", "aupr_out", "fpr95_id_positive", "fpr95_ood_positive")
"""The fields of `Metrics` that are rates in [0, 1] and are printed in %."""

TITLES = {
    "auroc": "AUROC (higher is better)",
    "aupr_in": "AUPR, ID positive (higher is better)",
    "aupr_out": "AUPR, OOD positive (higher is better)",
    "fpr95_id_positive": "FPR@95TPR, ID positive: OOD accepted when 95 % of ID is (lower is better; LINe, DICE, ReAct)",
    "fpr95_ood_positive": "FPR@95TPR, OOD positive: ID flagged when 95 % of OOD is (lower is better; OpenOOD)",
}


@dataclass(frozen=True)
class Column:
    """A column: one OOD set, the mean over several, or several pooled into one at one threshold.

    Examples
    --------
    >>> Column("mean near", ("cifar100", "tiny_imagenet"))
    Column(title='mean near', sets=('cifar100', 'tiny_imagenet'), pooled=False)
    """

    title: str
    sets: tuple[str, ...]
    pooled: bool = False


@dataclass(frozen=True)
class Table:
    """Metrics of every detector on every OOD set.

    Parameters
    ----------
    cells : dict of str to dict of str to Metrics
        By detector, then by OOD set.
    milliseconds : dict of str to float
        Wall time of each detector's own part for one sample, beside the forward pass; empty where it was not measured.
    groups : dict of str to sequence of str
        Names of OOD sets by group, such as near and far: a mean is shown for each. A set need not be in one.
    pooled : dict of str to dict of tuple to Metrics
        By detector and the names of several sets: metrics of their images as one set, at one threshold.
    intervals : dict of str to dict of Column to dict of str to Interval
        By detector, column and metric; empty where none was computed.
    convention : str
        How ties and areas are counted: "exact", or "paper" for the authors' code.

    Raises
    ------
    SettingError
        A group names a set that is not in the table, or one that another group has.

    Examples
    --------
    >>> from oodline.evaluation.metrics import compute_metrics
    >>> table = Table({"energy": {"svhn": compute_metrics([2.0, 3.0], [1.0, 2.5])}})
    >>> table.ood_sets, table.value("energy", "auroc", "svhn")
    (['svhn'], 0.75)
    """

    cells: dict[str, dict[str, Metrics]]
    milliseconds: dict[str, float] = field(default_factory=dict)
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    pooled: dict[str, dict[tuple[str, ...], Metrics]] = field(default_factory=dict)
    intervals: dict[str, dict[Column, dict[str, Interval]]] = field(default_factory=dict)
    convention: str = "exact"

    def __post_init__(self) -> None:
        grouped = [name for names in self.groups.values() for name in names]
        if strange := [name for name in grouped if name not in self.ood_sets]:
            raise SettingError(f"a group names '{strange[0]}', which is no OOD set of this table: {self.ood_sets}.")
        if twice := [name for name in grouped if grouped.count(name) > 1]:
            raise SettingError(f"'{twice[0]}' is in two groups, or twice in one. An OOD set has one group at most.")

    @property
    def ood_sets(self) -> list[str]:
        """Names of the OOD sets."""
        return list(next(iter(self.cells.values())))

    @property
    def columns(self) -> list[Column]:
        """Every group with its mean, then the sets without one, then the mean of all where there are several."""
        found = []
        for group, names in self.groups.items():
            found += [Column(name, (name,)) for name in names]
            found += [Column(f"mean {group}", tuple(names))] if len(names) > 1 else []
        grouped = {column.title for column in found}
        found += [Column(name, (name,)) for name in self.ood_sets if name not in grouped]
        return [*found, self.all_sets] if len(self.ood_sets) > 1 else found

    @property
    def pooled_columns(self) -> list[Column]:
        """What `pooled` holds, as columns."""
        known = {tuple(names): f"pooled {group}" for group, names in self.groups.items()}
        every = next(iter(self.pooled.values()), {})
        return [Column(known.get(sets, "pooled"), sets, pooled=True) for sets in every]

    @property
    def all_sets(self) -> Column:
        """The mean over all OOD sets, or the only one."""
        sets = tuple(self.ood_sets)
        return Column(sets[0] if len(sets) == 1 else "mean", sets)

    def value(self, detector: str, metric: str, column: Column | str | None) -> float:
        """A metric in a column: that of a set (or its name), or an average over several (None: over all of them).

        In an average every set counts the same, in a pooled column every image does.

        Raises
        ------
        UnknownNameError
            There is no such metric, or the column is named after no set of the table.
        """
        column = self._column(column)
        if metric not in TITLES:
            raise unknown_name("metric", metric, TITLES)
        if column.pooled:
            return float(getattr(self.pooled[detector][column.sets], metric))
        values = [float(getattr(self.cells[detector][name], metric)) for name in column.sets]
        return sum(values) / len(values)

    def mean(self, detector: str, metric: str) -> float:
        """Average of a metric over all OOD sets, each counting the same."""
        return self.value(detector, metric, None)

    def best(self, metric: str, column: Column | str | None) -> float:
        """Best value of a metric among the detectors in a column, given as to `value`."""
        values = [self.value(detector, metric, column) for detector in self.cells]
        return max(values) if metric.startswith("au") else min(values)

    def interval(self, detector: str, metric: str, column: Column | str | None) -> Interval | None:
        """The confidence interval of a metric in a column, None where none was computed."""
        return self.intervals.get(detector, {}).get(self._column(column), {}).get(metric)

    def rows(self) -> list[dict[str, Any]]:
        """One flat dict a detector and set: `detector`, `ood`, and the fields of `Metrics` (rates in [0, 1]).

        Where there are intervals, each rate is followed by `RATE_low` and `RATE_high` at the end of the row.
        """
        return [
            {"detector": detector, "ood": ood, **asdict(metrics), **self._ends(detector, Column(ood, (ood,)))}
            for detector, row in self.cells.items()
            for ood, metrics in row.items()
        ]

    def average_rows(self) -> list[dict[str, Any]]:
        """One flat dict a detector and column of several sets: `detector`, `average`, `sets`, `pooled`, the rates."""
        several = [column for column in self.columns + self.pooled_columns if len(column.sets) > 1]
        return [
            {"detector": detector, "average": column.title, "sets": list(column.sets), "pooled": column.pooled}
            | {metric: self.value(detector, metric, column) for metric in PERCENT}
            | self._ends(detector, column)
            for detector in self.cells
            for column in several
        ]

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data: rows, averages, groups, own times and the convention."""
        return {
            "convention": self.convention,
            "groups": {group: list(names) for group, names in self.groups.items()},
            "rows": self.rows(),
            "averages": self.average_rows(),
            "milliseconds": self.milliseconds,
        }

    def to_csv(self) -> str:
        """The rows as CSV: single sets only, so that whoever averages them counts nothing twice."""
        rows = self.rows()
        names = list(rows[0]) if rows else ["detector", "ood", *(f.name for f in fields(Metrics))]
        out = io.StringIO()
        writer = csv.DictWriter(out, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return out.getvalue()

    def to_markdown(self, metric: str, columns: Sequence[Column] | None = None) -> str:
        """One metric in %, detectors down, OOD sets across, the best of each column in bold, intervals in brackets.

        Examples
        --------
        >>> from torch import tensor
        >>> from oodline.evaluation.evaluate import tabulate
        >>> table = tabulate({"energy": tensor([2.0, 3.0])}, {"svhn": {"energy": tensor([1.0, 2.5])}})
        >>> print(table.to_markdown("auroc"))
        | detector | svhn |
        |---|---|
        | energy | **75.00** |
        """
        columns = self.columns if columns is None else columns
        lines = ["| detector | " + " | ".join(c.title for c in columns) + " |", "|---" * (len(columns) + 1) + "|"]
        for detector, texts in self.texts(metric, columns, bold="**{}**".format):
            lines.append(f"| {detector} | " + " | ".join(texts) + " |")
        return "\n".join(lines)

    def to_latex(self, metric: str, columns: Sequence[Column] | None = None) -> str:
        r"""The same as a LaTeX `tabular` with the rules of the package booktabs, groups under one head.

        Examples
        --------
        >>> from oodline.evaluation.metrics import compute_metrics
        >>> table = Table({"ash-s": {"tiny_imagenet": compute_metrics([2.0, 3.0], [1.0, 2.5])}})
        >>> print(table.to_latex("auroc"))
        % AUROC (higher is better), \%; needs \usepackage{booktabs}
        \begin{tabular}{lr}
        \toprule
        detector & tiny\_imagenet \\
        \midrule
        ash-s & \textbf{75.00} \\
        \bottomrule
        \end{tabular}
        """
        columns = self.columns if columns is None else columns
        lines = [f"% {_escaped(TITLES[metric])}, \\%; needs \\usepackage{{booktabs}}"]
        lines += [f"\\begin{{tabular}}{{l{'r' * len(columns)}}}", "\\toprule", *self._heads(columns)]
        lines += [" & ".join(["detector", *(_escaped(c.title) for c in columns)]) + r" \\", "\\midrule"]
        for detector, texts in self.texts(metric, columns, bold="\\textbf{{{}}}".format):
            lines.append(" & ".join([_escaped(detector), *texts]) + r" \\")
        return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"])

    def texts(
        self, metric: str, columns: Sequence[Column], *, bold: Callable[[str], str]
    ) -> list[tuple[str, list[str]]]:
        """Every detector with its values in %, the best of each column as `bold` writes it, intervals in brackets."""
        best = [self.best(metric, column) for column in columns]
        found = []
        for detector in self.cells:
            texts = []
            for column, best_one in zip(columns, best, strict=True):
                value, interval = self.value(detector, metric, column), self.interval(detector, metric, column)
                text = f"{100 * value:.2f}"
                ends = "" if interval is None else f" [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
                texts.append((bold(text) if value == best_one else text) + ends)
            found.append((detector, texts))
        return found

    def _column(self, column: Column | str | None) -> Column:
        if isinstance(column, Column):
            return column
        if column is None:
            return self.all_sets
        if column not in self.ood_sets:
            raise unknown_name("OOD set", column, self.ood_sets)
        return Column(column, (column,))

    def _ends(self, detector: str, column: Column) -> dict[str, float]:
        found = self.intervals.get(detector, {}).get(column, {})
        return {f"{m}_{end}": getattr(i, end) for m, i in found.items() for end in ("low", "high")}

    def _heads(self, columns: Sequence[Column]) -> list[str]:
        home = {name: group for group, names in self.groups.items() for name in names}
        groups = [_only({home.get(name) for name in column.sets}) for column in columns]
        spans: list[tuple[str | None, int, int]] = []
        for place, group in enumerate(groups, start=2):
            if spans and spans[-1][0] == group:
                spans[-1] = (group, spans[-1][1], place)
            else:
                spans.append((group, place, place))
        if not any(group for group, _, _ in spans):
            return []
        cells = [f"\\multicolumn{{{b - a + 1}}}{{c}}{{{_escaped(group or '')}}}" for group, a, b in spans]
        rules = [f"\\cmidrule(lr){{{a}-{b}}}" for group, a, b in spans if group]
        return [" & ".join(["", *cells]) + r" \\", "".join(rules)]


def _only(found: set[str | None]) -> str | None:
    return next(iter(found)) if len(found) == 1 else None


def _escaped(text: str) -> str:
    marks = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(marks.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)
