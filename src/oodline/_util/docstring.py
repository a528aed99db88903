"""Read the sections of a numpydoc docstring, so that what is shown to users is written once."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, field

_TITLE = re.compile(r"^(\w[\w ]*)\n-{3,}\n", re.MULTILINE)


@dataclass(frozen=True)
class Docstring:
    """The parts of a docstring.

    Parameters
    ----------
    summary : str
        The first paragraph, on one line.
    body : str
        What follows it, up to the first section.
    parameters : dict of str to str
        What each parameter means.
    sections : dict of str to str
        All sections by title, as written.

    Examples
    --------
    >>> def double(x, y):
    ...     '''Twice x and y.
    ...
    ...     Parameters
    ...     ----------
    ...     x, y : float
    ...         Numbers.
    ...     '''
    >>> found = Docstring.of(double)
    >>> found.summary, found.parameters
    ('Twice x and y.', {'x': 'Numbers.', 'y': 'Numbers.'})
    """

    summary: str
    body: str = ""
    parameters: dict[str, str] = field(default_factory=dict)
    sections: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, thing: object) -> Docstring:
        """Read the docstring of a class or a function itself, not of a base; empty parts where it has none."""
        text, *rest = _TITLE.split(inspect.cleandoc(thing.__doc__ or ""))
        summary, _, body = text.strip().partition("\n\n")
        sections = dict(zip(rest[::2], (each.strip("\n") for each in rest[1::2]), strict=True))
        return cls(one_line(summary), body.strip(), _parameters(sections.get("Parameters", "")), sections)


def one_line(text: str) -> str:
    r"""The text with single spaces in place of line breaks.

    Examples
    --------
    >>> one_line("a set\n    of words")
    'a set of words'
    """
    return " ".join(text.split())


def _parameters(section: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in re.split(r"^(?=\S)", section, flags=re.MULTILINE):
        names, _, meaning = entry.partition("\n")
        found |= {name.strip(): one_line(meaning) for name in names.partition(" : ")[0].split(",") if name.strip()}
    return found
