"""Which detectors the default fuses, by what the network's features are like: one rule, in one place.

Found by `benchmarks/studies/default_members.py`, which tries every choice of up to four out of eighteen detectors on
twelve cases and shows what is chosen for each from the others; `docs/results/members.md` has its table and says which
data sets it read.
"""

from __future__ import annotations

from dataclasses import dataclass

from oodline.statistics import Backbone

CANDIDATES = "line:clip=98%:unseen=dense+band-energy+fdbd+vim+nci+optfs+ora:unseen=skip+ras"
"""All that the rule chooses from; they share one pass."""

RECTIFIED, FEW, SIGNED = ("line", "fdbd", "vim", "nci"), ("line", "optfs", "ora", "ras"), ("band-energy", "nci")
"""Members for features behind a ReLU or its like, for such features of few images, and for features of either sign."""

ENOUGH_TO_SHAPE = 1000
"""Images from which OptFS, ORA and RAS are worth having: their state rests on means and bins of all features."""


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
    (('line', 'fdbd', 'vim', 'nci'), 'features are rectified, 0% are negative; 60 images for 16 features')
    """
    reason = f"features are {backbone.kind}, {backbone.negatives:.0%} are negative"
    if backbone.kind == "signed":
        return Choice(SIGNED, reason)
    members = FEW if backbone.few and backbone.samples >= ENOUGH_TO_SHAPE else RECTIFIED
    return Choice(members, f"{reason}; {backbone.samples} images for {backbone.features} features")
