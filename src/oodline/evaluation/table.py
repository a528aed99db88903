"""The table of an evaluation: every detector on every OOD set, their averages, and how people and programs read it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from oodline._util.checked import checked
from oodline.errors import SettingError, missing_extra, unknown_name
from oodline.evaluation import rendering
from oodline.evaluation.bootstrap import Interval
from oodline.evaluation.metric_table import METRICS, PRINTED
from oodline.evaluation.metrics import Metrics

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Column:
    """A column: one OOD set, the mean over several, or several pooled into one at one threshold.

    Examples
    --------
    >>> Column("near mean", ("cifar100", "tiny_imagenet"))
    Column(title='near mean', sets=('cifar100', 'tiny_imagenet'), pooled=False)
    """

    title: str
    sets: tuple[str, ...]
    pooled: bool = False


@dataclass(frozen=True, repr=False)
class Table:
    """Metrics of every detector on every OOD set.

    `print(table)` shows it, and so does a notebook.

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
    accuracy : float, optional
        Share of the ID samples that the classifier gets right, in [0, 1]; None where they have no labels.
    full_spectrum : Table, optional
        The same with covariate-shifted ID data counted as ID, where there is such data.

    Raises
    ------
    SettingError
        A group names a set that is not in the table, or one that another group has.

    Examples
    --------
    >>> from oodline.evaluation.metrics import compute_metrics
    >>> table = Table({"energy": {"svhn": compute_metrics([2.0, 3.0], [1.0, 2.5])}})
    >>> table
    Table(1 detector, 1 OOD set)
    >>> table.ood_sets, table.value("energy", "auroc", "svhn")
    (['svhn'], 0.75)
    """

    cells: dict[str, dict[str, Metrics]]
    milliseconds: dict[str, float] = field(default_factory=dict)
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    pooled: dict[str, dict[tuple[str, ...], Metrics]] = field(default_factory=dict)
    intervals: dict[str, dict[Column, dict[str, Interval]]] = field(default_factory=dict)
    convention: str = "exact"
    accuracy: float | None = None
    full_spectrum: Table | None = None

    def __post_init__(self) -> None:
        grouped = [name for names in self.groups.values() for name in names]
        if strange := [name for name in grouped if name not in self.ood_sets]:
            raise SettingError(f"a group names '{strange[0]}', which is not an OOD set of this table: {self.ood_sets}.")
        if twice := [name for name in grouped if grouped.count(name) > 1]:
            raise SettingError(f"'{twice[0]}' is in two groups, or twice in one. An OOD set has one group at most.")

    def __repr__(self) -> str:
        """How many detectors and sets."""
        sizes = {"detector": len(self.cells), "OOD set": len(self.ood_sets)}
        return f"Table({', '.join(f'{n} {name}' + 's' * (n != 1) for name, n in sizes.items())})"

    def __str__(self) -> str:
        """The tables as `oodline evaluate` prints them."""
        return rendering.to_text(self)

    def _repr_html_(self) -> str:
        return rendering.to_html(self)

    @property
    def ood_sets(self) -> list[str]:
        """Names of the OOD sets."""
        return list(next(iter(self.cells.values()), {}))

    @property
    def columns(self) -> list[Column]:
        """Every group with its mean, then the sets without one, then the mean of all where there are several."""
        found = []
        for group, names in self.groups.items():
            found += [Column(name, (name,)) for name in names]
            found += [Column(f"{group} mean", tuple(names))] if len(names) > 1 else []
        grouped = {column.title for column in found}
        found += [Column(name, (name,)) for name in self.ood_sets if name not in grouped]
        return [*found, self.all_sets] if len(self.ood_sets) > 1 else found

    @property
    def pooled_columns(self) -> list[Column]:
        """What `pooled` holds, as columns."""
        known = {tuple(names): f"{group} pooled" for group, names in self.groups.items()}
        every = next(iter(self.pooled.values()), {})
        return [Column(known.get(sets, "pooled"), sets, pooled=True) for sets in every]

    @property
    def all_columns(self) -> list[Column]:
        """Single sets and means, then what `pooled` holds."""
        return self.columns + self.pooled_columns

    @property
    def spectra(self) -> dict[str, Table]:
        """By title: this table under an empty one, then that of the full spectrum where there is one."""
        return {"": self} | ({} if self.full_spectrum is None else {rendering.FULL_SPECTRUM: self.full_spectrum})

    @property
    def all_sets(self) -> Column:
        """The mean over all OOD sets, or the only one."""
        sets = tuple(self.ood_sets)
        return Column(sets[0] if len(sets) == 1 else "mean", sets)

    def group(self, column: Column) -> str | None:
        """The group of a column's sets, None where they have none or several."""
        found = {group for group, names in self.groups.items() for name in names if name in column.sets}
        home = {name for names in self.groups.values() for name in names}
        return found.pop() if len(found) == 1 and home.issuperset(column.sets) else None

    def heading(self, column: Column) -> str:
        """What stands above a column: its title, and the group where the title does not say it."""
        group = self.group(column)
        return column.title if group is None or len(column.sets) > 1 else f"{column.title} ({group})"

    @checked
    def value(self, detector: str, metric: str = "auroc", column: Column | str | None = "mean") -> float:
        """A metric in a column, in [0, 1].

        In an average every set counts the same, in a pooled column every image does.

        Parameters
        ----------
        detector : str
            A row of the table.
        metric : str
            A name of `METRICS`.
        column : str or Column
            An OOD set, "mean" (over all sets), "GROUP mean", "pooled" or "GROUP pooled".

        Raises
        ------
        UnknownNameError
            There is no such detector, metric or column.
        """
        if detector not in self.cells:
            raise unknown_name("detector of the table", detector, self.cells)
        column = self._column(column)
        if metric not in METRICS:
            raise unknown_name("metric", metric, METRICS)
        if column.pooled:
            return float(getattr(self.pooled[detector][column.sets], metric))
        values = [float(getattr(self.cells[detector][name], metric)) for name in column.sets]
        return sum(values) / len(values)

    @checked
    def mean(self, detector: str, metric: str = "auroc") -> float:
        """Average of a metric over all OOD sets, each counting the same."""
        return self.value(detector, metric, "mean")

    @checked
    def best(self, metric: str, column: Column | str | None) -> float:
        """Best value of a metric among the detectors in a column, given as to `value`."""
        return METRICS[metric].best(self.value(detector, metric, column) for detector in self.cells)

    @checked
    def interval(self, detector: str, metric: str, column: Column | str | None) -> Interval | None:
        """The confidence interval of a metric in a column, None where none was computed."""
        return self.intervals.get(detector, {}).get(self._column(column), {}).get(metric)

    def rows(self) -> list[dict[str, Any]]:
        """One flat dict per detector and set: `detector`, `ood`, `group`, and the fields of `Metrics`, rates in [0, 1].

        Where there are intervals, each rate is followed by `RATE_low` and `RATE_high` at the end of the row.
        """
        return [
            {"detector": detector, "ood": ood, "group": self.group(Column(ood, (ood,))), **asdict(metrics)}
            | self._ends(detector, Column(ood, (ood,)))
            for detector, row in self.cells.items()
            for ood, metrics in row.items()
        ]

    def average_rows(self) -> list[dict[str, Any]]:
        """One flat dict per detector and column of several sets: `detector`, `average`, `sets`, `pooled`, the rates."""
        several = [column for column in self.all_columns if len(column.sets) > 1]
        return [
            {"detector": detector, "average": column.title, "sets": list(column.sets), "pooled": column.pooled}
            | {metric: self.value(detector, metric, column) for metric in METRICS}
            | self._ends(detector, column)
            for detector in self.cells
            for column in several
        ]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data: rows, averages, groups, own times, accuracy and the convention."""
        return {
            "convention": self.convention,
            "accuracy": self.accuracy,
            "groups": {group: list(names) for group, names in self.groups.items()},
            "rows": self.rows(),
            "averages": self.average_rows(),
            "milliseconds": self.milliseconds,
        } | ({} if self.full_spectrum is None else {"full_spectrum": self.full_spectrum.to_dict()})

    def to_json(self) -> str:
        """The same as a JSON document."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def to_pandas(self) -> pd.DataFrame:
        """The rows as a DataFrame: single sets, so that whoever averages them counts nothing twice.

        Raises
        ------
        MissingExtraError
            pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise missing_extra("pandas", "pandas", "DataFrames") from error
        return pd.DataFrame(self.rows())

    def to_csv(self) -> str:
        """The rows as CSV: single sets only, so that whoever averages them counts nothing twice."""
        rows = self.rows()
        names = list(rows[0]) if rows else ["detector", "ood", "group", *(f.name for f in fields(Metrics))]
        out = io.StringIO()
        writer = csv.DictWriter(out, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return out.getvalue()

    @checked
    def to_markdown(self, metric: str = PRINTED[0], columns: Sequence[Column] | None = None) -> str:
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
        return rendering.to_markdown(self, metric, self.columns if columns is None else columns)

    @checked
    def to_latex(self, metric: str = PRINTED[0], columns: Sequence[Column] | None = None) -> str:
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
        return rendering.to_latex(self, metric, self.columns if columns is None else columns)

    def _column(self, column: Column | str | None) -> Column:
        if isinstance(column, Column):
            return column
        if column is None or column == "mean":
            return self.all_sets
        if column in self.ood_sets:
            return Column(column, (column,))
        known = {c.title: c for c in self.all_columns}
        known |= {f"{group} mean": Column(f"{group} mean", tuple(names)) for group, names in self.groups.items()}
        if column not in known:
            raise unknown_name("column of the table", column, known)
        return known[column]

    def _ends(self, detector: str, column: Column) -> dict[str, float]:
        found = self.intervals.get(detector, {}).get(column, {})
        return {f"{m}_{end}": getattr(i, end) for m, i in found.items() for end in ("low", "high")}
