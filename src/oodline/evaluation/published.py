"""Numbers that papers printed, beside ours where they measure the same thing, and what differs where they do not.

`published.toml` holds them, each with its source and how sure it is. A number is set beside ours only where the network
and the OOD sets are the same: a mean over other sets, or of another network, is another quantity.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from oodline.evaluation.metric_table import METRICS
from oodline.evaluation.rendering import markdown
from oodline.evaluation.table import Column, Table

MetricName = Annotated[str, Field(pattern=f"^({'|'.join(METRICS)})$")]
Percent = Annotated[float, Field(ge=0, le=100)]


class Published(BaseModel):
    """A table of a paper for one ID set and one network.

    Examples
    --------
    >>> [table] = [t for t in published_tables() if t.arxiv == "2303.13995" and t.id == "imagenet"]
    >>> table.means["line"]["fpr95_id_positive"], table.certainty
    (20.7, 'listed')
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    paper: str
    venue: str
    arxiv: str
    where: str
    """Where in the paper, or through whom."""
    certainty: Literal["paper", "listed", "quoted"]
    """Read in the paper, in a listing of its results, or in another paper."""
    id: str
    network: str
    checkpoint: str
    fit: int | None = None
    """ID training images that detectors were fitted on."""
    id_size: int
    sets: tuple[str, ...] = ()
    """OOD sets of the means; none where they are not known for sure."""
    sizes: Mapping[str, int] = Field(default_factory=dict)
    """Images of each OOD set."""
    means: Mapping[str, Mapping[MetricName, Percent]] = Field(default_factory=dict)
    """By method, as `create_detector` names it, and metric, in %."""
    cells: Mapping[str, Mapping[str, Mapping[MetricName, Percent]]] = Field(default_factory=dict)
    """By method, OOD set and metric, in %."""

    @property
    def source(self) -> str:
        """How to cite it in a line."""
        return f"{self.paper.partition(':')[0]}, {self.venue}, arXiv {self.arxiv}: {self.where}"


@dataclass(frozen=True)
class Comparison:
    """A published number with ours beside it, or with the reason why ours is another quantity; both in %.

    Parameters
    ----------
    detector, metric, column : str
        Which cell; the column is an OOD set or "mean".
    published : float
        What the paper printed.
    ours : float or None
        None where nothing of ours is the same quantity.
    remarks : tuple of str
        What differs: with `ours`, in the data behind the same quantity; without, why it is not the same.
    source : str
        Paper and place.
    certainty : str
        "paper", "listed" or "quoted", as `Published` has it.
    """

    detector: str
    metric: str
    column: str
    published: float
    ours: float | None
    remarks: tuple[str, ...]
    source: str
    certainty: str

    @property
    def difference(self) -> float | None:
        """Ours minus published, in points."""
        return None if self.ours is None else self.ours - self.published


@cache
def published_tables() -> tuple[Published, ...]:
    """Every table of `published.toml`."""
    document = tomllib.loads((files("oodline.evaluation") / "published.toml").read_text(encoding="utf-8"))
    return tuple(Published.model_validate(table) for table in document["tables"])


def beside(
    table: Table,
    *,
    id: str,
    network: str,
    fit: int | None = None,
    methods: Mapping[str, str] | None = None,
    tables: Sequence[Published] | None = None,
) -> list[Comparison]:
    """Every published number of the table's detectors on this ID data, beside ours where it is the same quantity.

    Parameters
    ----------
    table : Table
        Ours; its OOD sets are taken for the papers' ones where names are equal.
    id, network : str
        Such as "cifar10" and "densenet100". Another network makes another quantity.
    fit : int, optional
        ID training images that ours were fitted on, for the remarks.
    methods : mapping of str to str, optional
        From a detector's name in the table to its method, where they differ, such as {"react+dice":
        "react,scorer=dice"}.
    tables : sequence of Published, optional
        In place of oodline's own.

    Examples
    --------
    >>> from oodline.evaluation.metrics import compute_metrics
    >>> ours = Table({"line": {"svhn": compute_metrics([2.0, 3.0], [1.0, 2.5])}})
    >>> [found] = beside(ours, id="cifar10", network="densenet100")
    >>> found.published, found.ours
    (14.71, None)
    >>> found.remarks[0]
    'their mean is over lsun_crop, lsun_resize, isun, textures, places365 too'
    """
    comparisons = []
    for known in published_tables() if tables is None else tables:
        if known.id != id:
            continue
        for detector in table.cells:
            method = (methods or {}).get(detector, detector)
            cells = {name: values for name, values in known.cells.get(method, {}).items() if name in table.ood_sets}
            for column, values in [("mean", known.means.get(method, {})), *cells.items()]:
                remarks = _obstacles(table, known, network, column)
                shown = None if remarks else (table.all_sets if column == "mean" else Column(column, (column,)))
                for metric, number in values.items():
                    comparisons.append(
                        Comparison(
                            detector,
                            metric,
                            column,
                            number,
                            None if shown is None else 100 * table.value(detector, metric, shown),
                            remarks or _remarks(table, known, fit, detector, column),
                            known.source,
                            known.certainty,
                        )
                    )
    return comparisons


def to_markdown(comparisons: Sequence[Comparison]) -> str:
    """Comparisons as a Markdown table, published numbers with their source."""
    rows = []
    for c in comparisons:
        ours = "-" if c.ours is None else f"{c.ours:.2f}"
        remarks = "; ".join(c.remarks) or "nothing known"
        rows.append(
            [c.detector, c.metric, c.column, ours, f"{c.published:.2f}", remarks, f"{c.source} ({c.certainty})"]
        )
    return "\n".join(markdown(["detector", "metric", "on", "ours", "published", "what differs", "source"], rows))


def _obstacles(table: Table, known: Published, network: str, column: str) -> tuple[str, ...]:
    """Why a number of ours would be another quantity; empty where it is the same."""
    reasons = []
    if network != known.network:
        reasons.append(f"their network is {known.network}")
    if column == "mean":
        theirs, ours = set(known.sets), set(table.ood_sets)
        if not theirs:
            reasons.append("the OOD sets of their mean are not known")
        elif absent := [name for name in known.sets if name not in ours]:
            reasons.append(f"their mean is over {', '.join(absent)} too")
        if theirs and (more := [name for name in table.ood_sets if name not in theirs]):
            reasons.append(f"ours is over {', '.join(more)} too")
    return tuple(reasons)


def _remarks(table: Table, known: Published, fit: int | None, detector: str, column: str) -> tuple[str, ...]:
    """What differs in the data behind the same quantity."""
    names = table.ood_sets if column == "mean" else [column]
    cells = table.cells[detector]
    pairs: list[tuple[str, int | None, int | None]] = []
    pairs += [(f"{name} images", cells[name].n_ood, known.sizes.get(name)) for name in names]
    pairs += [("ID test images", cells[names[0]].n_id, known.id_size), ("images to fit on", fit, known.fit)]
    found = [f"{a:,} {what} in place of {b:,}" for what, a, b in pairs if a is not None and b is not None and a != b]
    if table.convention != "paper":
        found.append("metrics are counted exactly, ties included")
    return (*found, f"checkpoint: {known.checkpoint}")
