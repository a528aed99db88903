"""The metrics of a table: what each is called, what it means, and which direction is better."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A metric: a field of `Metrics` in [0, 1], printed in %.

    Parameters
    ----------
    name : str
        The field's name.
    short : str
        What it is called where there is little room.
    title : str
        The heading of its table: name, convention, and which direction is better.
    meaning : str
        What it measures, for a reader who does not know it.
    higher_is_better : bool
        Which direction is better.

    Examples
    --------
    >>> METRICS["auroc"].title, METRICS["auroc"].best([0.5, 0.9]), METRICS["fpr95_id_positive"].best([0.5, 0.9])
    ('AUROC (higher is better)', 0.9, 0.5)
    """

    name: str
    short: str
    title: str
    meaning: str
    higher_is_better: bool

    def best(self, values: Iterable[float]) -> float:
        """The best of several values."""
        return max(values) if self.higher_is_better else min(values)


METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            "auroc",
            "AUROC",
            "AUROC (higher is better)",
            "Probability that an ID input scores higher than an OOD input. Higher is better.",
            higher_is_better=True,
        ),
        Metric(
            "fpr95_id_positive",
            "FPR@95TPR, ID positive",
            "FPR@95TPR, ID positive: OOD accepted when 95 % of ID is (lower is better; LINe, DICE, ReAct)",
            "Share of OOD accepted where 95 % of ID is accepted, the convention of the LINe, DICE and ReAct papers. "
            "Lower is better.",
            higher_is_better=False,
        ),
        Metric(
            "fpr95_ood_positive",
            "FPR@95TPR, OOD positive",
            "FPR@95TPR, OOD positive: ID flagged when 95 % of OOD is (lower is better; OpenOOD)",
            "Share of ID flagged where 95 % of OOD is flagged, the convention of OpenOOD. Lower is better.",
            higher_is_better=False,
        ),
        Metric(
            "aupr_in",
            "AUPR, ID positive",
            "AUPR, ID positive (higher is better)",
            "Average precision with ID positive; it depends on the sizes of the sets. Higher is better.",
            higher_is_better=True,
        ),
        Metric(
            "aupr_out",
            "AUPR, OOD positive",
            "AUPR, OOD positive (higher is better)",
            "Average precision with OOD positive; it depends on the sizes of the sets. Higher is better.",
            higher_is_better=True,
        ),
    )
}
"""Every metric by name, the most read one first."""

PRINTED = ("auroc", "fpr95_id_positive", "fpr95_ood_positive")
"""Those of the tables for people; CSV, JSON and `to_pandas` hold all."""
