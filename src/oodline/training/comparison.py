"""`Comparison`: several classifiers under the same detectors side by side, near and far."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from oodline.evaluation.metric_table import METRICS
from oodline.evaluation.table import Column, Table


@dataclass(frozen=True, repr=False)
class Comparison:
    """Tables of several classifiers, such as before and after fine-tuning; `print(comparison)` shows them as one.

    Parameters
    ----------
    tables : mapping of str to Table
        By classifier, all of the same OOD sets.
    notes : mapping of str to str
        What stands in brackets beside the name of a classifier, such as that no epoch of its training was kept.

    Examples
    --------
    >>> import torch
    >>> import oodline as ol
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> table = ol.evaluate(ol.Energy(), classifier, loader, {"origin": [torch.zeros(50, 4)]})
    >>> print(Comparison({"before": table, "after": table}).to_markdown())
    | AUROC | origin: before | after |
    |---|---|---|
    | accuracy | 98.33 | 98.33 |
    | energy | 100.00 | 100.00 |
    """

    tables: Mapping[str, Table]
    notes: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return self.to_markdown()

    @property
    def columns(self) -> list[Column]:
        """The mean of each group of OOD sets, such as near and far; every set, where there are no groups."""
        first = next(iter(self.tables.values()))
        groups = [Column(group, tuple(names)) for group, names in first.groups.items()]
        return groups or [column for column in first.columns if len(column.sets) == 1]

    @property
    def detectors(self) -> list[str]:
        """Those that all classifiers have."""
        first, *others = self.tables.values()
        return [name for name in first.cells if all(name in table.cells for table in others)]

    def value(self, classifier: str, detector: str, metric: str = "auroc", column: Column | str | None = None) -> float:
        """One number, in [0, 1], as `Table.value`; the mean over all OOD sets without a column."""
        return self.tables[classifier].value(detector, metric, column)

    def to_markdown(self, metric: str = "auroc") -> str:
        """One metric in %: detectors down; across, for each column, the classifiers; intervals in brackets."""
        first, *others = (f"{name} ({self.notes[name]})" if name in self.notes else name for name in self.tables)
        rows = [[METRICS[metric].short, *(name for c in self.columns for name in (f"{c.title}: {first}", *others))]]
        known = [table.accuracy for table in self.tables.values()]
        if all(value is not None for value in known):
            rows.append(["accuracy", *(_percent(value) for _ in self.columns for value in known)])
        for detector in self.detectors:
            places = [(name, column) for column in self.columns for name in self.tables]
            rows.append([detector, *(self._cell(name, detector, metric, column) for name, column in places)])
        lines = [f"| {' | '.join(row)} |" for row in rows]
        return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])

    def _cell(self, name: str, detector: str, metric: str, column: Column) -> str:
        known = self.tables[name].intervals.get(detector, {})
        found = next((ends for c, ends in known.items() if c.sets == column.sets and not c.pooled), {}).get(metric)
        ends = "" if found is None else f" [{100 * found.low:.1f}, {100 * found.high:.1f}]"
        return _percent(self.value(name, detector, metric, column)) + ends

    def to_dict(self) -> dict[str, Any]:
        """The tables, as `Table.to_dict`, by classifier."""
        return {name: table.to_dict() for name, table in self.tables.items()}

    def to_json(self) -> str:
        """The same as a JSON document."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
