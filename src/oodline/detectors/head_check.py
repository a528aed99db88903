"""Whether a detector can read a head, and whether it was fitted on one of its size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oodline.errors import HeadError, MismatchError
from oodline.model.activations import Needs
from oodline.model.head import Head, HeadInfo, LinearHead
from oodline.model.no_head import NoHead

if TYPE_CHECKING:
    from oodline.detectors.base import Detector


def check_head(detector: Detector, head: Head, known: HeadInfo | None = None) -> None:
    """Raise `HeadError` where the detector cannot read the head, `MismatchError` where `known` has other sizes."""
    if isinstance(head, NoHead):
        if detector.needs & (Needs.LINEAR_HEAD | Needs.HEAD):
            raise HeadError(
                f"{type(detector).__name__} needs the head of the classifier, and none was given. Pass head=(W, b), or "
                "--model features:HEAD_FILE."
            )
    elif Needs.LINEAR_HEAD in detector.needs and not isinstance(head, LinearHead):
        raise HeadError(
            f"{type(detector).__name__} needs one linear layer as head, but this one has several. Name the last one: "
            "Classifier(model, head='NAME'), or --head NAME."
        )
    for assumption in detector.assumes:
        # asking whether it is an `OfHead`, a protocol, would take longer than many a score
        refusal = getattr(assumption, "refusal", None)
        if refusal is not None and (why := refusal(detector, head)):
            raise HeadError(why)
    if known is not None and known.task != head.task:
        raise MismatchError(
            f"{type(detector).__name__} was fitted on a {known.task} classifier, and this one is {head.task}. Load it "
            f"as it was: Classifier(model, task='{known.task}'), or --task {known.task}."
        )
    if known is not None and (known.num_features != head.num_features or known.num_classes != head.num_classes):
        raise MismatchError(
            f"{type(detector).__name__} was fitted on a head of {known.num_classes} classes and {known.num_features} "
            f"features, but these activations come from one of {head.num_classes} and {head.num_features}."
        )
