"""Parse the name of a head: `fc`, `0.5*head + 0.5*head_dist`, `binary(classifier)`, `multilabel(fc)`."""

from __future__ import annotations

import math
import re
from collections.abc import Container
from dataclasses import dataclass
from typing import Literal

Task = Literal["multiclass", "multilabel"]
"""Of the classes one per sample, by a softmax; or any number of labels, by a sigmoid each."""

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
    multilabel : bool
        Each logit is that of a label of its own, which applies or does not.

    Examples
    --------
    >>> str(HeadName(((0.5, "head"), (0.5, "head_dist")))), str(HeadName(((1.0, "fc"),), binary=True))
    ('0.5*head + 0.5*head_dist', 'binary(fc)')
    """

    terms: tuple[tuple[float, str], ...]
    binary: bool = False
    multilabel: bool = False

    @classmethod
    def parse(cls, text: str, known: Container[str] = ()) -> HeadName | None:
        """Read what `str` wrote; a name that is `known` is that name. None where it cannot be read.

        Examples
        --------
        >>> HeadName.parse("binary(0.5*a + b)")
        HeadName(terms=((0.5, 'a'), (1.0, 'b')), binary=True, multilabel=False)
        >>> HeadName.parse("a + ")
        """
        if text in known:
            return cls(((1.0, text),))
        inside = re.fullmatch(r"\s*(binary|multilabel)\((.*)\)\s*", text)
        kind, text = (inside[1], inside[2]) if inside else ("", text)
        if text in known:
            return cls(((1.0, text),), kind == "binary", kind == "multilabel")
        found = [TERM.fullmatch(part.strip()) for part in text.split(" + ")]
        try:
            terms = tuple((float(m["factor"] or 1), m["name"]) for m in found if m)
        except ValueError:
            return None
        if len(terms) < len(found) or not all(math.isfinite(factor) and factor for factor, _ in terms):
            return None
        return cls(terms, kind == "binary", kind == "multilabel")

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
        kind = "binary" if self.binary else "multilabel" if self.multilabel else ""
        return f"{kind}({text})" if kind else text


def task_of(name: str) -> Task:
    """What a head of this name decides.

    Examples
    --------
    >>> task_of("fc"), task_of("multilabel(fc)")
    ('multiclass', 'multilabel')
    """
    return "multilabel" if name.startswith("multilabel(") and name.endswith(")") else "multiclass"
