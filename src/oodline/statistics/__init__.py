"""Statistics of the ID training data that detectors are fitted from: filled in one pass, mergeable."""

from oodline.statistics.backbone import Backbone
from oodline.statistics.base import Statistic
from oodline.statistics.class_changes import ClassChanges
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
from oodline.statistics.sources import (
    Contributions,
    Features,
    Logits,
    Probabilities,
    ScaledFeatures,
    SideBySide,
    Source,
    features_scaled_by,
    scaled,
)
from oodline.statistics.top_samples import TopSamples

__all__ = [
    "Backbone",
    "ClassChanges",
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
    "ScaledFeatures",
    "Seen",
    "SideBySide",
    "Source",
    "Statistic",
    "TopSamples",
    "features_scaled_by",
    "scaled",
]
