"""Check that the outputs of an exported graph equal those of its guard."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from oodline.data.batch import Inputs
from oodline.errors import ExportError
from oodline.guard.graph import GuardGraph
from oodline.model.activations import predicted

BATCH_SIZES = (1, 3, 8)
"""At which a graph is compared with the guard."""

TOLERANCE = 1e-3
"""Largest difference of logits and scores, in units of the largest of the batch or of 1, at which they still agree."""


SINGLE = 2 * torch.finfo(torch.float32).eps
"""By which part of them scores and p-values are rounded, where a runtime computes all in single precision."""


def verify(
    graph: GuardGraph, run: Callable[[Inputs], Sequence[Tensor]], example: Inputs, *, rounding: float = 0.0
) -> dict[str, float]:
    """Run a written graph beside the guard, at `BATCH_SIZES`, and return the largest differences of its outputs.

    Parameters
    ----------
    graph : GuardGraph
        The guard's own.
    run : callable
        The written one, from inputs to the graph's `outputs`.
    example : Tensor or mapping
        Inputs.
    rounding : float
        By which part of a score the written graph may round before it compares: 0, or `SINGLE`. P-value and verdict
        must then be those of some score within it.

    Raises
    ------
    ExportError
        Logits or scores differ by more than rounding, or label, p-value or verdict do not follow from them.
    """
    differences = dict.fromkeys(graph.outputs, 0.0)
    for size in BATCH_SIZES:
        batch = rows_of(example, size)
        with torch.no_grad():
            expected = dict(zip(graph.outputs, graph(batch), strict=True))
            outputs = dict(zip(graph.outputs, run(batch), strict=True))
        for name, value in expected.items():
            if not value.numel():
                continue  # no logits
            gap = (outputs[name].double() - value.double()).abs()
            if name in ("label", "is_ood", "image_is_ood"):
                differences[name] += float(gap.count_nonzero())
            else:
                differences[name] = max(differences[name], float(gap.max()))
            if name in ("logits", "score", "image_score") and not float(gap.max()) <= TOLERANCE * max(
                1.0, float(value.abs().max())
            ):
                raise ExportError(
                    f"the graph does not agree with the guard at batch size {size}: {name} differs by "
                    f"{float(gap.max()):.2g}. Nothing was written. Some operator of this classifier is not the same in "
                    "both; compare the classifier alone."
                )
        rows = outputs["logits"].movedim(1, -1).flatten(0, -2)  # of maps, too
        follows = {"label": torch.equal(outputs["label"].flatten(), predicted(rows))}
        for prefix in ("", "image_")[: 1 + ("image_score" in outputs)]:
            score, p_value, is_ood = (outputs[prefix + name].flatten() for name in ("score", "p_value", "is_ood"))
            label = outputs["label"].flatten() if not prefix else torch.full(score.shape, -1)
            score = score.double()
            low, high = (score + sign * rounding * score.abs().clamp(min=1) for sign in (-1, 1))
            least, most = (graph.calibration.p_value(near, label) for near in (low, high))
            verdicts = [graph.calibration.is_ood(near, label) == is_ood for near in (low, high)]
            follows[f"{prefix}p_value"] = bool(((p_value >= least - rounding) & (p_value <= most + rounding)).all())
            follows[f"{prefix}is_ood"] = bool((verdicts[0] | verdicts[1]).all())
        if wrong := [name for name, good in follows.items() if not good]:
            raise ExportError(
                f"the graph does not agree with itself at batch size {size}: {' and '.join(wrong)} do not follow from "
                "its own logits and scores. Nothing was written."
            )
    return differences


def rows_of(inputs: Inputs, size: int) -> Inputs:
    """As many rows as asked for, the given ones over and over."""
    if isinstance(inputs, Mapping):
        return {name: rows_of(value, size) for name, value in inputs.items()}
    rows: Tensor = inputs.detach().cpu()[torch.arange(size) % len(inputs)]
    return rows
