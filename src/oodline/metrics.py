"""OOD metrics: functions of two lists of scores, and `OODMetrics`, which gathers scores batch by batch.

Each FPR has the convention in its name, and a higher score always means more in-distribution. `OODMetrics` is a
torchmetrics metric, and needs the extra `torchmetrics`; the functions need NumPy alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from oodline.evaluation.metrics import (
    Metrics,
    aupr_in,
    aupr_out,
    auroc,
    compute_metrics,
    fpr_at_tpr_id_positive,
    fpr_at_tpr_ood_positive,
)

if TYPE_CHECKING:
    from oodline.integrations.torchmetrics import OODMetrics

__all__ = [
    "Metrics",
    "OODMetrics",
    "aupr_in",
    "aupr_out",
    "auroc",
    "compute_metrics",
    "fpr_at_tpr_id_positive",
    "fpr_at_tpr_ood_positive",
]


def __getattr__(name: str) -> Any:
    if name != "OODMetrics":
        raise AttributeError(f"module 'oodline.metrics' has no attribute '{name}'")
    from oodline.integrations.torchmetrics import OODMetrics  # torchmetrics, which the functions do without

    return OODMetrics
