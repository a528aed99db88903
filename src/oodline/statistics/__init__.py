"""Statistics of the ID training data that detectors are fitted from: filled in one pass, mergeable."""

from oodline.statistics.base import Statistic
from oodline.statistics.class_moments import ClassMoments
from oodline.statistics.confusions import Confusions
from oodline.statistics.content_sketch import ContentSketch
from oodline.statistics.covariance import Covariance
from oodline.statistics.extremes import Extremes
from oodline.statistics.facts import Facts
from oodline.statistics.hits import Hits
from oodline.statistics.quantiles import Quantiles
from oodline.statistics.reservoir import Reservoir
from oodline.statistics.seen import Seen
from oodline.statistics.sources import Contributions, Features, Logits, Probabilities, SideBySide, Source
from oodline.statistics.top_samples import TopSamples

__all__ = [
    "ClassMoments",
    "Confusions",
    "ContentSketch",
    "Contributions",
    "Covariance",
    "Extremes",
    "Facts",
    "Features",
    "Hits",
    "Logits",
    "Probabilities",
    "Quantiles",
    "Reservoir",
    "Seen",
    "SideBySide",
    "Source",
    "Statistic",
    "TopSamples",
]
