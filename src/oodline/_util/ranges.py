"""Ranges of numbers for annotations: `k: Count`, `p: Fraction`, `Annotated[float, Range(1, above=True)]`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any


class Refused(Exception):  # noqa: N818  # always caught, and turned into a sentence
    """A value is not what an annotation asks for."""


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included unless they are said to be `above` or `below`.

    Examples
    --------
    >>> Range(1).words("an integer"), Range(0, 1, below=True).words("a number"), Range(0, above=True).words("a number")
    ('an integer of at least 1', 'a number from 0 to below 1', 'a number above 0')
    """

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False

    def accept(self, value: Any) -> Any:
        """The number, where it lies in the range."""
        too_low = value <= self.low if self.above else value < self.low
        too_high = value >= self.high if self.below else value > self.high
        if too_low or too_high:
            raise Refused
        return value

    def words(self, kind: str) -> str:
        """The kind of number with the range."""
        if self.high == math.inf:
            return f"{kind} {'above' if self.above else 'of at least'} {self.low:g}"
        if self.above and self.below:
            return f"{kind} between {self.low:g} and {self.high:g}, both excluded"
        return (
            f"{kind} {'above' if self.above else 'from'} {self.low:g} to {'below ' if self.below else ''}{self.high:g}"
        )


class LeftToIt:
    """Marks an argument that the function checks itself, because it can say more of a wrong one."""

    replaces_type = True

    def accept(self, value: Any) -> Any:
        """The value as it is."""
        return value

    def words(self, kind: str) -> str:
        """The type."""
        return kind


Count = Annotated[int, Range(1)]
Positive = Annotated[float, Range(0, above=True)]
NonNegative = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1, below=True)]
"""A part that is taken away, so that something is left."""
Share = Annotated[float, Range(0, 1)]
Rate = Annotated[float, Range(0, 1, above=True, below=True)]
"""A probability that can be promised."""
Seed = Annotated[int, Range(0, 2**63 - 1)]
