"""Warn if calibration data is not held out, but is the data that the detectors were fitted on.

Scores of fitting data are too high, so the threshold is too high and more new ID inputs are flagged than promised. The
calibration data itself does not show it.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from oodline._util.warning import warn
from oodline.detectors.base import Detector
from oodline.scoring.score import Scores
from oodline.statistics.content_sketch import was_seen

NOTABLE = 0.1
"""Fraction of the calibration samples above which `warn_of_seen_data` warns."""

FEWEST = 3
"""A data set may hold an image twice: fewer known samples than these are no reason to warn."""


class SeenDataWarning(UserWarning):
    """The calibration data is, in notable part, the data that a detector was fitted on."""


def warn_of_seen_data(detectors: Iterable[Detector], scores: Scores) -> None:
    """Warn where a notable fraction of the samples of a pass were fitted on.

    Samples are compared by their features, rounded. Copies that were augmented or prepared in another way, or computed
    in another precision, are not recognised, and a detector that needs no fitting remembers nothing: silence is no
    proof.

    Warns
    -----
    SeenDataWarning
        More than `NOTABLE` of the samples that can be compared are known.
    """
    if scores.content is None:
        return
    for detector in detectors:
        for sketch in _sketches(detector):
            known = was_seen(sketch.cpu(), scores.content)
            if int(known.sum()) >= FEWEST and float(known.double().mean()) > NOTABLE:
                warn(
                    f"the calibration data looks like the fitting data: of {len(known)} samples that can be compared, "
                    f"{int(known.sum())} are among those that '{detector.name}' was fitted on. Their scores are too "
                    "good, so more ID inputs will be flagged than promised. Calibrate on held-out data.",
                    SeenDataWarning,
                )
                return


def _sketches(detector: Detector) -> list[Tensor]:
    own = [] if detector.seen is None else [detector.seen]
    return [*own, *(sketch for _, member in detector.members for sketch in _sketches(member))]
