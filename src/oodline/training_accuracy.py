"""Whether the classifier knows its own training data: where it does not, a fit looks like any other, and is useless."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Any, ClassVar

from oodline.activations import Needs
from oodline.head import Head
from oodline.statistics import Hits, Statistic

SPREAD = 4
"""Standard deviations of guessing above its mean, up to which an accuracy is no better than guessing.

Of a few samples that may be all of them: an accuracy nearer to perfect than to guessing is never complained of.
"""


class TrainingAccuracy:
    """Accuracy on the data that detectors are fitted on; `oodline.fit` fills it in the same pass, beside detectors.

    Examples
    --------
    >>> import oodline as ol
    >>> from oodline.testing import toy_problem
    >>> known = TrainingAccuracy()
    >>> ol.fit([ol.LINe(), known], *toy_problem())
    >>> known.value > 0.9, known.complaint
    (True, '')
    """

    name: ClassVar = "training accuracy"
    all_needs: ClassVar = Needs.LOGITS
    all_layers: ClassVar[tuple[str, ...]] = ()

    value: float | None = None
    """Fraction of the labelled samples that the classifier gets right, in [0, 1]; None where there are no labels."""
    complaint: str = ""
    """What to look at where that is no better than guessing; empty otherwise."""

    def requests(self, head: Head) -> dict[str, Statistic]:
        """Empty statistics to fill; see `oodline.fitting.Fittable`."""
        return {"hits": Hits()}

    def settle(self, statistics: Mapping[str, Any], head: Head) -> None:
        """Compare the accuracy with that of guessing."""
        hits: Hits = statistics["hits"]
        self.value, self.complaint = hits.accuracy, ""
        if self.value is None:
            return
        labelled, chance = int(hits.counts[1]), 1 / head.num_classes
        guessed = chance + SPREAD * sqrt(chance * (1 - chance) / labelled)
        if self.value <= guessed and self.value < (1 + chance) / 2:
            self.complaint = (
                f"the classifier gets {100 * self.value:.3g} % of its {labelled} training labels right, no better than "
                f"guessing among {head.num_classes} classes. Does it have its trained weights, are labels in the order "
                "of its logits, and are images prepared as in training?"
            )
