"""The default detector."""

from __future__ import annotations

from oodline._util.checked import checked
from oodline.detectors.fuse import Fuse
from oodline.detectors.joint_energy import JointEnergy
from oodline.model.classifier import Classifier
from oodline.model.head import LinearHead

LAYERED = "line:clip=98%+gen+react:clip=98%+knn:k=10"
"""For a head of several layers, which has no planes between classes and no null space."""

BINARY = "gen+fdbd+vim"
"""Without LINe: of the two logits (0, z) that one logit stands for, the first has no contributions."""


@checked
def default_detector(classifier: Classifier) -> Fuse | JointEnergy:
    """The detector that `oodline fit` uses where none is named: several detectors, fused, that suit the network.

    Behind a ReLU or its like these are LINe, fDBD, ViM and NCI, or, of 1,000 images and more that are fewer than two
    for each feature, LINe, OptFS, ORA and RAS; where features have either sign, band energy and NCI. The fit decides
    in its one forward pass, and `reason` says why (`member_rule`). Some are good near the training data, others far
    from it; together they are better than each of them on average.

    Parameters
    ----------
    classifier : Classifier
        Whose head decides what can be fused: one of several layers gets LINe, GEN, ReAct and KNN; one of one logit
        (`binary=True`) gets GEN, fDBD and ViM; the rest is as above. A multi-label one
        (`task="multilabel"`) gets JointEnergy alone: the members of all others need one class per sample, and at a
        small false-alarm rate KNN fused with it flagged less (`docs/results/multilabel.md`).

    Returns
    -------
    Fuse or JointEnergy
        Not fitted yet; the second needs no fitting.

    Examples
    --------
    >>> import oodline as ol
    >>> from oodline.testing import toy_loader, toy_problem
    >>> classifier, loader = toy_problem()
    >>> detector = ol.default_detector(classifier).fit(classifier, loader)
    >>> [member.name for member in detector.detectors]
    ['line', 'fdbd', 'vim', 'nci']
    >>> guard = ol.Guard(classifier, detector).calibrate(toy_loader(seed=1))
    """
    head = classifier.head
    if head.task == "multilabel":
        return JointEnergy()
    if not isinstance(head, LinearHead):
        return Fuse(LAYERED)
    return Fuse() if bool(head.weight.any(1).all()) else Fuse(BINARY)


default = default_detector
"""The same function under a shorter name."""
