"""What is tried: every combination of the values that a detector declares, each judged by one number."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from oodline.detectors.base import Detector, is_member
from oodline.errors import SettingError, unknown_name

Areas = Mapping[str, Mapping[str, float]]
"""AUROC in [0, 1] by group of pseudo-outliers and by their name."""


@dataclass(frozen=True)
class Candidate:
    """One combination of settings and how it fared.

    Parameters
    ----------
    settings : dict
        Values of the settings that are tuned.
    areas : dict of str to dict of str to float
        AUROC of held-out ID data against each set of pseudo-outliers, in [0, 1], by group and name.
    failure : str
        Why it could not be fitted or gave no score; empty otherwise.

    Examples
    --------
    >>> Candidate({"k": 5}, {"near": {"turn": 0.8, "blend": 0.6}, "far": {"blur": 0.9}}).value
    0.8
    """

    settings: Mapping[str, Any]
    areas: Areas = field(default_factory=dict)
    failure: str = ""

    @property
    def groups(self) -> dict[str, float]:
        """Mean AUROC of each group."""
        return {group: sum(areas.values()) / len(areas) for group, areas in self.areas.items()}

    @property
    def value(self) -> float:
        """The criterion: mean over the groups of their mean AUROC, so that a group counts whatever its size.

        Minus infinity for one that failed.
        """
        if self.failure or not self.areas:
            return -float("inf")
        return sum(self.groups.values()) / len(self.areas)


def combinations(detector: Detector, grid: Mapping[str, Sequence[Any]] | None = None) -> list[dict[str, Any]]:
    """Every combination of the values of `grid`, or of what the detector declares; the detector's own comes first.

    Raises
    ------
    SettingError
        The detector declares nothing to tune, or the grid has no setting or no value.
    UnknownNameError
        The detector has no such setting.

    Examples
    --------
    >>> from oodline import KNN
    >>> combinations(KNN(k=3), {"k": [1, 3]})
    [{'k': 3}, {'k': 1}]
    """
    if grid is None:
        grid = detector.tunable
        if not grid:
            raise SettingError(
                f"{type(detector).__name__} declares no setting to tune; what it has works as it is. Pass a grid of "
                "your own, such as {'temperature': [1.0, 10.0]}, or choose another detector."
            )
    if not grid or not all(len(values) for values in grid.values()):
        raise SettingError(f"the grid {dict(grid)} offers no value to try. Give each setting at least one.")
    for name in grid:
        if name not in detector.settings:
            raise unknown_name(f"setting of {type(detector).__name__}", name, detector.settings)
    own = {name: detector.settings[name] for name in grid}
    product = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    return [own, *(choice for choice in product if choice != own)]


def with_settings(detector: Detector, changes: Mapping[str, Any]) -> Detector:
    """A new, unfitted detector that differs in these settings; members are copied."""
    settings = {k: copy.deepcopy(v) if is_member(v) else v for k, v in detector.settings.items()}
    return type(detector)(**{**settings, **changes})


def best(candidates: Sequence[Candidate]) -> Candidate:
    """The candidate of the largest value; of equals the first.

    Raises
    ------
    SettingError
        All failed.
    """
    chosen = max(candidates, key=lambda candidate: candidate.value)
    if chosen.value == -float("inf"):
        raise SettingError(f"none of the {len(candidates)} candidates could be used; the first: {chosen.failure}")
    return chosen
