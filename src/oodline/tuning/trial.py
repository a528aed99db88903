"""A trial: ID samples and what stands in for OOD ones, scored together by one candidate after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from oodline.detectors.base import Detector
from oodline.errors import InputError
from oodline.evaluation.metrics import auroc
from oodline.model.activations import Activations

CHUNK = 2048
"""Samples that a detector scores at a time."""


class Trial:
    """Activations of held-out ID samples and of pseudo-outliers, kept in memory.

    Parameters
    ----------
    ids : Activations
        Of held-out ID samples.
    outliers : mapping of str to Activations
        By a name of the caller's choice.

    Examples
    --------
    >>> from oodline import Energy
    >>> from oodline.testing import activations_of
    >>> Trial(activations_of(torch.eye(3)), {"zero": activations_of(torch.zeros(2, 3))}).areas(Energy())
    {'zero': 1.0}
    """

    def __init__(self, ids: Activations, outliers: Mapping[str, Activations]) -> None:
        sets = [ids, *outliers.values()]
        everything = concatenate(sets)
        self._names, self._sizes = tuple(outliers), [len(part) for part in sets]
        # side by side, samples of one class share what a detector does class by class
        self._order = everything.predicted.argsort(stable=True).cpu()
        self._chunks = [everything.take(rows) for rows in torch.split(self._order, CHUNK)]

    def scores(self, detector: Detector) -> tuple[Float[Tensor, " n"], dict[str, Float[Tensor, " m"]]]:
        """Scores of the ID samples and of each set of outliers, float64, in the order they were given.

        Raises
        ------
        InputError
            A score is NaN or infinite.
        """
        scores = torch.empty(len(self._order), dtype=torch.float64)
        with torch.no_grad():
            scores[self._order] = torch.cat([detector(chunk).to("cpu", torch.float64) for chunk in self._chunks])
        if not bool(torch.isfinite(scores).all()):
            raise InputError(f"{int((~torch.isfinite(scores)).sum())} of {len(scores)} scores are NaN or infinite.")
        ids, *others = torch.split(scores, self._sizes)
        return ids, dict(zip(self._names, others, strict=True))

    def areas(self, detector: Detector) -> dict[str, float]:
        """AUROC of the ID samples against each set of outliers, in [0, 1]; raises as `scores`."""
        ids, others = self.scores(detector)
        return {name: auroc(ids.numpy(), scores.numpy()) for name, scores in others.items()}


def concatenate(parts: Sequence[Activations]) -> Activations:
    """Several records of one classifier as one."""
    first = parts[0]
    inputs = [part.inputs for part in parts if isinstance(part.inputs, Tensor)]
    maps = [part.feature_map for part in parts if part.feature_map is not None]
    return first.replace(
        features=torch.cat([part.features for part in parts]),
        logits=torch.cat([part.logits for part in parts]),
        index=torch.cat([part.index for part in parts]),
        feature_map=torch.cat(maps) if len(maps) == len(parts) else None,
        layers={name: torch.cat([part.layers[name] for part in parts]) for name in first.layers},
        inputs=torch.cat(inputs) if len(inputs) == len(parts) else None,
    )
