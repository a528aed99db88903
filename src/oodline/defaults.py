"""The detector for someone who asks for nothing in particular."""

from __future__ import annotations

from oodline.classifier import Classifier
from oodline.detectors.fuse import Fuse
from oodline.head import LinearHead

LAYERED = "line:clip=98%+energy+knn:k=10"
"""For a head of several layers, which has no decision boundaries and no null space to measure distances from."""


def default(classifier: Classifier) -> Fuse:
    """The detector that `oodline fit` uses where none is named: LINe, fDBD and ViM, fused.

    Members and settings were chosen on ID data and pseudo-outliers alone, for all classifiers alike
    (`benchmarks/fuse_study.py`): one is good near the training data, one far from it, and together they are better than
    each on average. It costs one forward pass, as they do.

    Parameters
    ----------
    classifier : Classifier
        Whose head decides what can be fused: one of several layers gets LINe, energy and KNN.

    Returns
    -------
    Fuse
        Not fitted yet.

    Examples
    --------
    >>> import oodline as ol
    >>> from oodline.testing import toy_loader, toy_problem
    >>> classifier, loader = toy_problem()
    >>> detector = ol.default(classifier).fit(classifier, loader)
    >>> [member.name for member in detector.detectors]
    ['line', 'fdbd', 'vim']
    >>> guard = ol.Guard(classifier, detector).calibrate(toy_loader(seed=1))
    """
    return Fuse() if isinstance(classifier.head, LinearHead) else Fuse(LAYERED)
