"""Parse the name of a head: `fc`, `0.5*head + 0.5*head_dist`, `binary(classifier)`."""

from __future__ import annotations

import math
import re
from collections.abc import Container
from dataclasses import dataclass

TERM = re.compile(r"(?:(?P<factor>[-+]?\d[^*\s]*)\s*\*\s*)?(?P<name>[^*+()\s]+)")


@dataclass(frozen=True)
class HeadName:
    """Modules of a model whose outputs, each times a number, add up to the logits.

    Parameters
    ----------
    terms : tuple of (float, str)
        Factor and name of each module.
    binary : bool
        There is one logit z, which stands for two: (0, z).

    Examples
    --------
    >>> str(HeadName(((0.5, "head"), (0.5, "head_dist")))), str(HeadName(((1.0, "fc"),), binary=True))
    ('0.5*head + 0.5*head_dist', 'binary(fc)')
    """

    terms: tuple[tuple[float, str], ...]
    binary: bool = False

    @classmethod
    def parse(cls, text: str, known: Container[str] = ()) -> HeadName | None:
        """Read what `str` wrote; a name that is `known` is that name. None where it cannot be read.

        Examples
        --------
        >>> HeadName.parse("binary(0.5*a + b)")
        HeadName(terms=((0.5, 'a'), (1.0, 'b')), binary=True)
        >>> HeadName.parse("a + ")
        """
        if text in known:
            return cls(((1.0, text),))
        inside = re.fullmatch(r"\s*binary\((.*)\)\s*", text)
        found = [TERM.fullmatch(part.strip()) for part in (inside[1] if inside else text).split(" + ")]
        try:
            terms = tuple((float(m["factor"] or 1), m["name"]) for m in found if m)
        except ValueError:
            return None
        if len(terms) < len(found) or not all(math.isfinite(factor) and factor for factor, _ in terms):
            return None
        return cls(terms, binary=bool(inside))

    @property
    def names(self) -> tuple[str, ...]:
        """The modules."""
        return tuple(name for _, name in self.terms)

    @property
    def single(self) -> bool:
        """Whether one module's output is the logits as it is."""
        return len(self.terms) == 1 and self.terms[0][0] == 1

    def __str__(self) -> str:
        text = " + ".join(name if factor == 1 else f"{factor:.9g}*{name}" for factor, name in self.terms)
        return f"binary({text})" if self.binary else text
