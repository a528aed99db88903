"""Warn if the classifier is hardly accurate on its own training data, or its classes are in another order.

With wrong weights, labels or preprocessing a fit raises no error, and its scores are useless. If some classes are right
and others never, labels and logits are likely in different class orders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log2, sqrt
from typing import Any, ClassVar

from torch import Tensor

from oodline.model.activations import Needs
from oodline.model.head import Head
from oodline.statistics import Confusions, Hits, Statistic

SPREAD = 4
"""Standard deviations of guessing above its mean, up to which an accuracy is no better than guessing.

Of a few samples that may be all of them: an accuracy nearer to perfect than to guessing is never complained of.
"""


RIGHT, WRONG = 0.7, 0.1
"""Fractions of a class's samples that must be right, or at most may be, for it to count as known, or as misplaced."""


class TrainingAccuracy:
    """Accuracy on the data that detectors are fitted on; `oodline.fit` fills it in the same pass, beside detectors.

    Parameters
    ----------
    class_names : sequence of str, optional
        In the order of the logits, for the warning.

    Examples
    --------
    >>> import oodline as ol
    >>> from oodline.testing import toy_problem
    >>> known = TrainingAccuracy()
    >>> _ = ol.fit([ol.LINe(), known], *toy_problem())
    >>> known.value > 0.9, known.warning
    (True, '')
    """

    name: ClassVar = "training accuracy"
    all_needs: ClassVar = Needs.LOGITS
    all_layers: ClassVar[tuple[str, ...]] = ()

    value: float | None = None
    """Fraction of the labelled samples that the classifier gets right, in [0, 1]; None where there are no labels."""
    warning: str = ""
    """What to look at where that is no better than guessing; empty otherwise."""
    order: str = ""
    """Which classes look as if they stood in another's place; empty where none do."""

    def __init__(self, class_names: Sequence[str] | None = None) -> None:
        self.class_names = class_names

    def _requests(self, head: Head) -> dict[str, Statistic]:
        """Empty statistics to fill; see `oodline.passes.fit.Fittable`."""
        return {"hits": Hits(), "confusions": Confusions()}

    def _settle(self, statistics: Mapping[str, Any], head: Head) -> None:
        """Compare the accuracy with that of guessing."""
        hits: Hits = statistics["hits"]
        self.value, self.warning = hits.accuracy, ""
        cells: Tensor | None = statistics["confusions"].cells
        self.order = "" if cells is None else misplaced_classes(cells, head.num_classes, self.class_names)
        if self.value is None:
            return
        labelled, chance = int(hits.counts[1]), 1 / head.num_classes
        guessed = chance + SPREAD * sqrt(chance * (1 - chance) / labelled)
        if self.value <= guessed and self.value < (1 + chance) / 2:
            self.warning = (
                f"the classifier gets {100 * self.value:.3g} % of its {labelled} training labels right, no better than "
                f"guessing among {head.num_classes} classes. Does it have its trained weights, are labels in the order "
                "of its logits, and are images prepared as in training?"
            )


def misplaced_classes(cells: Tensor, num_classes: int, class_names: Sequence[str] | None = None) -> str:
    """Say which classes look as if their labels were in another order than the logits; empty where none do.

    Labels of which at most `WRONG` are right and most are predicted as one other class, which is no other label's,
    speak for another order where there are several and few labels in between, or where one has so many samples that
    chance is ruled out: with n samples a classifier that is right half of the time does so in 2^-n of all cases.

    Parameters
    ----------
    cells : Tensor (K, 3)
        Label, predicted class and number of samples, as `Confusions` has them.
    num_classes : int
        Number of logits.
    class_names : sequence of str, optional
        In the order of the logits.

    Examples
    --------
    >>> import torch
    >>> swapped = torch.tensor([[0, 0, 9], [1, 2, 9], [2, 1, 8]])
    >>> print(misplaced_classes(swapped, 4, ["ant", "bee", "cat", "dog"]))
    the order of the classes looks wrong: label 1 ('bee') is predicted as class 2 ('cat') in 100 % of 9 samples, label 2
    ('cat') as class 1 ('bee') in 100 % of 8, while 1 of 3 classes are at least 70 % right. Put the labels in the order
    of the logits: 1 -> 2, 2 -> 1.
    """
    table: dict[int, dict[int, int]] = {}
    for label, predicted, number in cells.tolist():
        table.setdefault(label, {})[predicted] = number
    known, suspects, between = set(), {}, 0
    for label, row in table.items():
        total, right = sum(row.values()), row.get(label, 0)
        most = max(row, key=lambda j: row[j])
        if right >= RIGHT * total:
            known.add(label)
        elif total > 1 and right <= WRONG * total and row[most] > total / 2:
            suspects[label] = (most, total, row[most] / total)
        else:
            between += total > 1
    claims = [place for place, _, _ in suspects.values()]
    suspects = {k: v for k, v in suspects.items() if v[0] not in known and claims.count(v[0]) == 1}
    several = len(suspects) > max(1, between) and sum(total for _, total, _ in suspects.values()) >= 6
    if not several:
        suspects = {k: v for k, v in suspects.items() if v[1] >= log2(20 * max(num_classes, 2))}
    if not suspects or not (known or len(suspects) >= max(5, 0.8 * len(table))):
        return ""

    def called(i: int) -> str:
        return f"{i} ('{class_names[i]}')" if class_names is not None and i < len(class_names) else str(i)

    told = []
    for k, (label, (place, total, fraction)) in enumerate(list(suspects.items())[:3]):
        said, unit = ("as", "") if k else ("is predicted as", " samples")
        told.append(f"label {called(label)} {said} class {called(place)} in {100 * fraction:.0f} % of {total}{unit}")
    more = f" and {len(suspects) - 3} more" if len(suspects) > 3 else ""
    moves = ", ".join(f"{label} -> {place}" for label, (place, _, _) in list(suspects.items())[:20])
    moves += ", ..." if len(suspects) > 20 else ""
    return (
        f"the order of the classes looks wrong: {', '.join(told)}{more}, while {len(known)} of {len(table)} classes "
        f"are at least {100 * RIGHT:.0f} % right. Put the labels in the order of the logits: {moves}."
    )
