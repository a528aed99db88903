"""Adapters for the object detectors of torchvision: Faster R-CNN, RetinaNet and FCOS.

What they return says neither the features nor the logits of a box. Which proposal or anchor it was is found by its
score: the one whose score for the returned class is the returned one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from oodline.data.batch import Inputs
from oodline.errors import HeadError, InputError
from oodline.model.head import LinearHead
from oodline.model.hooks import listening
from oodline.model.linear_modules import Affine, affine_of
from oodline.model.no_head import NoHead
from oodline.model.rows.boxes import BoxAdapter, BoxHead, FoundBoxes

CLOSE = 1e-6
"""How far a score may be from the one that was returned, of the same numbers in a tensor of another shape."""


def adapter_of(model: nn.Module) -> tuple[BoxAdapter, BoxHead]:
    """How a model of torchvision is read, and its head.

    Raises
    ------
    HeadError
        It is none of those that are known.
    """
    if hasattr(model, "roi_heads"):
        layer = affine_of(model.get_submodule(CLS_SCORE)) if _has(model, CLS_SCORE) else None
        if layer is not None:
            return faster_rcnn, LinearHead(layer.weight, layer.bias, CLS_SCORE)
    if _has(model, CLS_LOGITS):
        conv = _conv(model)
        if conv.weight.shape[0] == _classes(model):  # one anchor per place, as FCOS has it
            return one_stage, LinearHead(conv.weight, conv.bias, CLS_LOGITS)
        return one_stage, NoHead(_classes(model), conv.weight.shape[1], logits=True)
    raise HeadError(
        f"{type(model).__name__} is not a Faster R-CNN, RetinaNet or FCOS of torchvision. Pass an adapter, a callable "
        "of model and inputs that returns one FoundBoxes per image: BoxClassifier(model, adapter, head=...)."
    )


CLS_SCORE = "roi_heads.box_predictor.cls_score"
CLS_LOGITS = "head.classification_head.cls_logits"
CENTRE = "head.regression_head.bbox_ctrness"


def faster_rcnn(model: nn.Module, inputs: Inputs) -> list[FoundBoxes]:
    """Boxes of a Faster R-CNN (or Mask R-CNN): features and logits, with that of the background, are its head's."""
    images = _images(inputs)
    heard = {"features": CLS_SCORE}, {"logits": CLS_SCORE, "proposals": "rpn"}
    with listening(model, inputs=heard[0], outputs=heard[1]) as seen:
        detections = model(images)
    counts = [len(proposals) for proposals in seen["proposals"][0]]
    features, logits = seen["features"].flatten(1), seen["logits"]
    scores = logits.softmax(-1)
    parts = zip(features.split(counts), logits.split(counts), scores.split(counts), detections, strict=True)
    return [_matched(*part) for part in parts]


def one_stage(model: nn.Module, inputs: Inputs) -> list[FoundBoxes]:
    """Boxes of a RetinaNet or an FCOS: the features of a box are those of the window that gives its logits."""
    images, classes, conv = _images(inputs), _classes(model), _conv(model)
    names = [CLS_LOGITS, *([CENTRE] if _has(model, CENTRE) else [])]
    with _calls(model, names) as calls:
        detections = model(images)
    found = []
    for i, detection in enumerate(detections):
        features, logits, scores = [], [], []
        for level, (read, made) in enumerate(calls[CLS_LOGITS]):
            windows = conv.windows(read[i : i + 1])[0].flatten(1).T  # places, features
            own = made[i].reshape(-1, classes, *made[i].shape[1:]).permute(2, 3, 0, 1).reshape(-1, classes)
            anchors = len(own) // len(windows)
            score = own.sigmoid()
            if CENTRE in calls:
                score = (score * calls[CENTRE][level][1][i].permute(1, 2, 0).reshape(-1, 1).sigmoid()).sqrt()
            features.append((windows, anchors))
            logits.append(own)
            scores.append(score)
        first = _which(torch.cat(scores), detection)
        found.append(
            FoundBoxes(
                torch.stack([_row(features, int(at)) for at in first])
                if len(first)
                else conv.weight.new_zeros(0, conv.weight.shape[1]),
                torch.cat(logits)[first],
                detection["boxes"],
                detection["scores"],
                detection["labels"],
            )
        )
    return found


def _row(features: Sequence[tuple[Tensor, int]], at: int) -> Tensor:
    for windows, anchors in features:
        if at < len(windows) * anchors:
            return windows[at // anchors]
        at -= len(windows) * anchors
    raise AssertionError(at)


def _matched(features: Tensor, logits: Tensor, scores: Tensor, detection: dict[str, Tensor]) -> FoundBoxes:
    rows = _which(scores, detection)
    return FoundBoxes(features[rows], logits[rows], detection["boxes"], detection["scores"], detection["labels"])


def _which(scores: Tensor, detection: dict[str, Tensor]) -> Tensor:
    """Which row of scores (P, C) each detection was, by the score of its class."""
    if not len(detection["scores"]):
        return torch.zeros(0, dtype=torch.int64, device=scores.device)
    away = (scores[:, detection["labels"]] - detection["scores"]).abs()  # (P, M)
    nearest = away.min(0)
    if bool((nearest.values > CLOSE).any()):
        raise HeadError(
            "the scores of the boxes that the model returns are not those of its head: something changes them "
            "afterwards. Pass an adapter of your own: BoxClassifier(model, adapter, head=...)."
        )
    return nearest.indices


@contextmanager
def _calls(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, list[tuple[Tensor, Tensor]]]]:
    """Input and output of each call of some modules in this thread, in order: heads are called once per level."""
    me, calls = threading.get_ident(), {name: [] for name in names}  # type: ignore[var-annotated]

    def hook(name: str) -> Any:
        def record(_m: nn.Module, args: tuple[Any, ...], out: Any) -> None:
            if threading.get_ident() == me:
                calls[name].append((args[0], out))

        return record

    handles = [model.get_submodule(name).register_forward_hook(hook(name)) for name in names]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _images(inputs: Inputs) -> list[Tensor]:
    if not isinstance(inputs, Tensor) or inputs.ndim != 4:
        raise InputError("an object detector takes images of one size as a tensor (N, 3, H, W), with values in [0, 1].")
    return list(inputs)


def _has(model: nn.Module, name: str) -> bool:
    try:
        model.get_submodule(name)
    except AttributeError:
        return False
    return True


def _conv(model: nn.Module) -> Affine:
    affine = affine_of(model.get_submodule(CLS_LOGITS))
    if affine is None:
        raise HeadError(f"'{CLS_LOGITS}' is not a convolution that reads windows. Pass an adapter.")
    return affine


def _classes(model: nn.Module) -> int:
    return int(model.get_submodule("head.classification_head").num_classes)  # type: ignore[arg-type]
