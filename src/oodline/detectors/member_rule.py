"""Which detectors the default fuses, by what the network's features are like: one rule, in one place.

Found by `benchmarks/studies/default_members.py`: of all choices of up to four out of sixteen detectors, the best for
seven of eight networks, in the mean gain and the worst one, whichever network is left out. `docs/results/members.md`
says which data sets that study read.
"""

from __future__ import annotations

from dataclasses import dataclass

from oodline.statistics import Backbone

CANDIDATES = "line:clip=98%+band-energy+fdbd+vim+nci"
"""All that the rule chooses from; they share one pass."""

_RECTIFIED = ("line", "fdbd", "vim", "nci")
_SIGNED = ("band-energy", "nci")


@dataclass(frozen=True)
class Choice:
    """Members by name, and why these."""

    members: tuple[str, ...]
    reason: str


def choose_members(backbone: Backbone) -> Choice:
    """Choose the members of the default for a network.

    Examples
    --------
    >>> import oodline as ol
    >>> from oodline.testing import toy_problem
    >>> choice = choose_members(ol.fit(ol.LINe(), *toy_problem()).backbone)
    >>> choice.members, choice.reason
    (('line', 'fdbd', 'vim', 'nci'), 'features are rectified, 0% are negative')
    """
    members = _RECTIFIED if backbone.kind == "rectified" else _SIGNED
    return Choice(members, f"features are {backbone.kind}, {backbone.negatives:.0%} are negative")
