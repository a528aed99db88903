"""From scores of ID and OOD data sets to a table: every detector, every set, one forward pass over each."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from oodline.classifier import Classifier
from oodline.errors import InputError
from oodline.evaluation.metrics import Metrics, compute_metrics
from oodline.scoring import Detectors, name_detectors, score_all

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
class Table:
    """Metrics of every detector on every OOD set.

    Parameters
    ----------
    cells : dict of str to dict of str to Metrics
        By detector, then by OOD set.
    milliseconds : dict of str to float
        Wall time of each detector's own part for one sample, beside the forward pass; empty where it was not measured.

    Examples
    --------
    >>> table = Table({"energy": {"svhn": compute_metrics([2.0, 3.0], [1.0, 2.5])}})
    >>> table.ood_sets, table.value("energy", "auroc", "svhn")
    (['svhn'], 0.75)
    """

    cells: dict[str, dict[str, Metrics]]
    milliseconds: dict[str, float] = field(default_factory=dict)

    @property
    def ood_sets(self) -> list[str]:
        """Names of the OOD sets."""
        return list(next(iter(self.cells.values())))

    def mean(self, detector: str, metric: str) -> float:
        """Average of a metric over the OOD sets, each counting the same."""
        values = [getattr(m, metric) for m in self.cells[detector].values()]
        return float(sum(values) / len(values))

    def best(self, metric: str, ood: str | None) -> float:
        """Best value of a metric among the detectors, on one set or (None) on average."""
        values = [self.value(detector, metric, ood) for detector in self.cells]
        return max(values) if metric.startswith("au") else min(values)

    def value(self, detector: str, metric: str, ood: str | None) -> float:
        """A metric on one set, or (None) its average."""
        return self.mean(detector, metric) if ood is None else float(getattr(self.cells[detector][ood], metric))

    def rows(self) -> list[dict[str, Any]]:
        """One flat dict a detector and set: `detector`, `ood`, and the fields of `Metrics` (rates in [0, 1])."""
        return [
            {"detector": detector, "ood": ood, **asdict(metrics)}
            for detector, row in self.cells.items()
            for ood, metrics in row.items()
        ]

    def to_csv(self) -> str:
        """The rows as CSV."""
        out = io.StringIO()
        names = ["detector", "ood", *(f.name for f in fields(Metrics))]
        writer = csv.DictWriter(out, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows())
        return out.getvalue()

    def to_markdown(self, metric: str) -> str:
        """One metric in %, detectors down, OOD sets across, the best of each column in bold.

        Examples
        --------
        >>> from torch import tensor
        >>> table = tabulate({"energy": tensor([2.0, 3.0])}, {"svhn": {"energy": tensor([1.0, 2.5])}})
        >>> print(table.to_markdown("auroc"))
        | detector | svhn | mean |
        |---|---|---|
        | energy | **75.00** | **75.00** |
        """
        columns: list[str | None] = [*self.ood_sets, None]
        lines = ["| detector | " + " | ".join(c or "mean" for c in columns) + " |", "|---" * (len(columns) + 1) + "|"]
        for detector in self.cells:
            texts = []
            for column in columns:
                value = self.value(detector, metric, column)
                text = f"{100 * value:.2f}"
                texts.append(f"**{text}**" if value == self.best(metric, column) else text)
            lines.append(f"| {detector} | " + " | ".join(texts) + " |")
        return "\n".join(lines)


def tabulate(
    id_scores: Mapping[str, Float[Tensor, " n"]], ood_scores: Mapping[str, Mapping[str, Float[Tensor, " m"]]]
) -> Table:
    """Metrics from scores that are already there: ID scores by detector, OOD scores by set and detector.

    Raises
    ------
    InputError
        No OOD set, or NaN scores.
    """
    if not ood_scores:
        raise InputError("an evaluation needs at least one OOD data set beside the ID one.")
    return Table(
        {
            name: {ood: compute_metrics(scores, by_name[name]) for ood, by_name in ood_scores.items()}
            for name, scores in id_scores.items()
        }
    )


def evaluate(
    detectors: Detectors,
    classifier: Classifier,
    id_loader: Iterable[Any],
    ood_loaders: Mapping[str, Iterable[Any]],
    *,
    progress: bool = False,
) -> Table:
    """Score one ID and any number of OOD data sets, each in one forward pass, and tabulate all metrics.

    Parameters
    ----------
    detectors : Detector, sequence, or mapping from name to Detector
        Fitted.
    classifier : Classifier
        The classifier that they were fitted on.
    id_loader : iterable
        In-distribution test data, batches as `oodline.score` takes them.
    ood_loaders : mapping of str to iterable
        Out-of-distribution data, by name.
    progress : bool
        Show a progress bar on standard error.

    Raises
    ------
    InputError
        No OOD set, an empty loader, NaN or infinite activations or scores.

    Examples
    --------
    >>> import torch
    >>> from oodline import Energy
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> table = evaluate(Energy(), classifier, loader, {"origin": [0.1 * torch.randn(50, 4)]})
    >>> table.value("energy", "auroc", "origin") > 0.9
    True
    """
    named = name_detectors(detectors)
    if not ood_loaders:
        raise InputError("an evaluation needs at least one OOD data set beside the ID one.")
    ours = score_all(named, classifier, id_loader, progress=progress)
    others = {ood: score_all(named, classifier, loader, progress=progress) for ood, loader in ood_loaders.items()}
    samples = sum(len(found.index) for found in (ours, *others.values()))
    seconds = {name: sum(found.seconds[name] for found in (ours, *others.values())) for name in named}
    table = tabulate(ours.scores, {ood: found.scores for ood, found in others.items()})
    return replace(table, milliseconds={name: 1000 * s / samples for name, s in seconds.items()})
