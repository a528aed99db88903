"""The parts of a page as plain data: tables with their best cells, costs, settings, and what its script reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from oodline.errors import unknown_name
from oodline.evaluation.metric_table import METRICS
from oodline.evaluation.published import Comparison, beside, published_tables
from oodline.evaluation.record import DetectorEntry
from oodline.evaluation.rendering import Cell, cells, group_spans
from oodline.evaluation.run import Run
from oodline.evaluation.table import Table
from oodline.report.contents import DetectorContents, Pair, id_name, others
from oodline.report.curves import BEGINNING, Curve, finite, tallest
from oodline.report.gallery import Gallery


@dataclass(frozen=True)
class MetricTable:
    """One metric of one table: a row a detector, the best mean first."""

    key: str
    name: str
    meaning: str
    spectrum: str
    order: str
    """In which direction the rows are sorted, for `aria-sort`: "descending" where higher is better."""
    groups: list[tuple[str, int]]
    """Group names above the columns, each with the number of columns below it; empty if no set has a group."""
    columns: list[str]
    averages: list[bool]
    """Whether a column is the mean of several sets."""
    rows: list[tuple[str, list[Cell]]]


def metric_tables(table: Table) -> list[MetricTable]:
    """Every metric of a table, then of its full spectrum.

    Examples
    --------
    >>> from oodline.evaluation.metrics import compute_metrics
    >>> found = metric_tables(Table({"energy": {"svhn": compute_metrics([2.0, 3.0], [1.0, 2.5])}}))
    >>> found[0].name, found[0].columns, found[0].rows[0][1][0].text
    ('AUROC', ['svhn'], '75.00')
    """
    return [_metric_table(each, title, metric) for title, each in table.spectra.items() for metric in METRICS]


def _metric_table(table: Table, title: str, metric: str) -> MetricTable:
    known = METRICS[metric]
    rows = cells(table, metric, table.columns)
    labels = sorted(table.cells, key=lambda label: table.mean(label, metric), reverse=known.higher_is_better)
    return MetricTable(
        metric,
        known.short,
        known.meaning,
        title,
        "descending" if known.higher_is_better else "ascending",
        [(group or "", last - first + 1) for group, first, last in group_spans(table, table.columns)],
        [column.title for column in table.columns],
        [len(column.sets) > 1 for column in table.columns],
        [(label, rows[label]) for label in labels],
    )


def comparisons(run: Run, table: Table, data: str, network: str) -> list[Comparison]:
    """Published numbers of the run's detectors for this ID data and network, beside ours where they are the same thing.

    Raises
    ------
    UnknownNameError
        No published table is of this ID data.
    """
    known = sorted({t.id for t in published_tables()})
    if data not in known:
        raise unknown_name("ID data of a published table", data, known)
    fit = sum(s.samples for s in run.record.sets if s.role == "fit") or None
    methods = {label: method(entry) for label, entry in run.record.detectors.items()}
    return beside(table, id=data, network=network, fit=fit, methods=methods)


def method(entry: DetectorEntry) -> str:
    """A detector as published tables call it: its method, and the scorer that it leads to, where it has another.

    Examples
    --------
    >>> dice = {"method": "dice", "settings": {}}
    >>> method(DetectorEntry(method="react", settings={"scorer": dice}, state_bytes=0))
    'react,scorer=dice'
    """
    scorer = entry.settings.get("scorer")
    named = scorer.get("method") if isinstance(scorer, dict) else None
    return entry.method if named in (None, "energy") else f"{entry.method},scorer={named}"


def settings_text(settings: Mapping[str, Any]) -> str:
    """Settings as a reader writes them, exact.

    Examples
    --------
    >>> settings_text({"p_a": 0.9, "scorer": {"method": "energy", "settings": {}}})
    'p_a=0.9, scorer=energy'
    """
    return ", ".join(f"{name}={_setting(value)}" for name, value in settings.items())


def _setting(value: Any) -> str:
    if isinstance(value, dict) and set(value) == {"method", "settings"}:
        inner = settings_text(value["settings"])
        return f"{value['method']}({inner})" if inner else str(value["method"])
    return value if isinstance(value, str) else json.dumps(value)


def size_text(number: float | None) -> str:
    """Bytes as people read them.

    Examples
    --------
    >>> size_text(0), size_text(16_400_000), size_text(None)
    ('0', '16.4 MB', '-')
    """
    if number is None:
        return "-"
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number:.0f} B" if number else "0"


def script_data(run: Run, contents: Mapping[str, DetectorContents], gallery: Gallery) -> dict[str, Any]:
    """What the page's script reads; nothing in it grows with the number of images of a set."""
    right = run.correct()
    roles = {s.name: (s.role, s.group) for s in run.record.sets}
    ours = id_name(run)
    sizes = {name: len(run.index(name)) for name in others(run)}
    sets = [{"name": ours, "role": "id", "group": None, "size": sum(len(run.index(name)) for name in run.sets("id"))}]
    sets += [{"name": name, "role": roles[name][0], "group": roles[name][1], "size": sizes[name]} for name in sizes]
    return {
        "sets": sets,
        "calibrated": bool(run.sets("calibration")),
        "tpr": run.record.tpr,
        "beginning": BEGINNING,
        "wrong": None if right is None else int((~right).sum()),
        "detectors": [_detector(label, each, sets) for label, each in contents.items()],
        "pictures": [
            {"set": p.set, "name": p.name, "label": p.label, "predicted": p.predicted, "source": p.source}
            for p in gallery.pictures
        ],
        "shown": _shown(run, contents, gallery),
    }


def _detector(label: str, contents: DetectorContents, sets: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "label": label,
        "tallest": tallest([pair.bins for pair in contents.pairs.values()]) if contents.pairs else 0,
        "thresholds": contents.ladder.thresholds.tolist(),
        "marked": contents.ladder.marked,
        "flagged": [contents.ladder.flagged[s["name"]].tolist() for s in sets],
        "wrong": None if contents.wrong is None else contents.wrong.tolist(),
        "risk": _curve(contents.risk),
        "aurc": contents.aurc,
        "pairs": {name: _pair(pair) for name, pair in contents.pairs.items()},
    }


def _pair(pair: Pair) -> dict[str, Any]:
    return {
        "low": pair.bins.low,
        "high": pair.bins.high,
        "id": pair.bins.id.tolist(),
        "other": pair.bins.other.tolist(),
        "roc": _curve(pair.roc),
        "auroc": pair.auroc,
        "risk": _curve(pair.risk),
        "aurc": pair.aurc,
    }


def _curve(curve: Curve | None) -> list[list[float]] | None:
    return None if curve is None else [np.round(values, 4).tolist() for values in curve]


def _shown(
    run: Run, contents: Mapping[str, DetectorContents], gallery: Gallery
) -> dict[str, dict[str, list[list[list[float | None]]]]]:
    """By detector and set: the most and the least OOD, each as [picture, score, p-value]."""
    found: dict[str, dict[str, list[list[list[float | None]]]]] = {}
    for label, sets in gallery.shown.items():
        calibration = contents[label].calibration
        for name, sides in sets.items():
            scores = finite(run.scores(name)[label])
            kept = [[(place, float(scores[gallery.pictures[place].row])) for place in side] for side in sides]
            found.setdefault(label, {})[name] = [
                [[place, score, p] for (place, score), p in zip(side, _p_values(calibration, side), strict=True)]
                for side in kept
            ]
    return found


def _p_values(calibration: Any, side: Iterable[tuple[int, float]]) -> list[float | None]:
    scores = [score for _, score in side]
    if calibration is None or not scores:
        return [None for _ in scores]
    values: list[float | None] = calibration.p_value(torch.tensor(scores, dtype=torch.float64)).tolist()
    return values
