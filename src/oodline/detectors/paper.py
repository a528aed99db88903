"""Where a method comes from, and the settings that papers state for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Paper:
    """Where a method comes from: title, venue and year, arXiv number where there is one.

    Examples
    --------
    >>> Paper("Energy-based Out-of-distribution Detection", "NeurIPS 2020", "2010.03759").venue
    'NeurIPS 2020'
    """

    title: str
    venue: str
    arxiv: str | None = None


@dataclass(frozen=True)
class Preset:
    """Settings that a paper states for a data set and a network, and where it says so.

    Examples
    --------
    >>> Preset({"k": 50}, "Sec. 4.1").settings["k"]
    50
    """

    settings: Mapping[str, Any]
    source: str
