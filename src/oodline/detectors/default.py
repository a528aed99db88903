"""The default detector."""

from __future__ import annotations

from oodline._util.checked import checked
from oodline.detectors.fuse import Fuse
from oodline.model.classifier import Classifier
from oodline.model.head import LinearHead

LAYERED = "line:clip=98%+gen+react:clip=98%+knn:k=10"
"""Chosen in the same way for a head of several layers, which has no planes between classes and no null space."""

BINARY = "gen+fdbd+vim"
"""As the default without LINe: of the two logits (0, z) that one logit stands for, the first has no contributions."""


@checked
def default_detector(classifier: Classifier) -> Fuse:
    """The detector that `oodline fit` uses where none is named: LINe, GEN, fDBD and ViM, fused.

    Members and settings were chosen on ID data and pseudo-outliers alone, for all classifiers alike
    (`benchmarks/studies/fuse_study.py`). Some are good near the training data, others far from it; together they are
    better than each of them on average. It costs one forward pass, as they do. With a class without training samples
    LINe is left out, with a warning; where it is a background class that no image shows, use
    `Fuse("line:clip=98%:unseen=dense+gen+fdbd+vim")`.

    Parameters
    ----------
    classifier : Classifier
        Whose head decides what can be fused: one of several layers gets LINe, GEN, ReAct and KNN; one of one logit
        (`binary=True`) gets GEN, fDBD and ViM.

    Returns
    -------
    Fuse
        Not fitted yet.

    Examples
    --------
    >>> import oodline as ol
    >>> from oodline.testing import toy_loader, toy_problem
    >>> classifier, loader = toy_problem()
    >>> detector = ol.default_detector(classifier).fit(classifier, loader)
    >>> [member.name for member in detector.detectors]
    ['line', 'gen', 'fdbd', 'vim']
    >>> guard = ol.Guard(classifier, detector).calibrate(toy_loader(seed=1))
    """
    head = classifier.head
    if not isinstance(head, LinearHead):
        return Fuse(LAYERED)
    return Fuse() if bool(head.weight.any(1).all()) else Fuse(BINARY)


default = default_detector
"""The same function under a shorter name."""
