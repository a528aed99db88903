"""Adapters for the object detectors of torchvision: Faster R-CNN, RetinaNet and FCOS.

What they return says neither the features nor the logits of a box. Which proposal or anchor it was is found by its
class, its score and its place: by those that the head gave each proposal or anchor.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from oodline.data.batch import Inputs
from oodline.errors import HeadError, InputError
from oodline.model.head import LinearHead
from oodline.model.hooks import listening
from oodline.model.linear_modules import Affine, affine_of
from oodline.model.no_head import NoHead
from oodline.model.rows.boxes import BoxAdapter, BoxHead, FoundBoxes

CLOSE, CLOSE_PLACE = 1e-6, 1e-3
"""How far a score, and a coordinate in pixels, may be from the one that was returned: the same numbers were computed in
tensors of another shape."""


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


def faster_rcnn(model: nn.Module, inputs: Inputs) -> list[FoundBoxes]:
    """Boxes of a Faster R-CNN (or Mask R-CNN): features and logits, with that of the background, are its head's."""
    images = _images(inputs)
    outputs = {"predicted": "roi_heads.box_predictor", "proposals": "rpn", "prepared": "transform"}
    with listening(model, inputs={"features": CLS_SCORE}, outputs=outputs) as seen:
        detections = model(images)
    logits, offsets = seen["predicted"]
    proposals = seen["proposals"][0]
    features, scores = seen["features"].flatten(1), logits.softmax(-1)
    boxes = model.roi_heads.box_coder.decode(offsets, proposals)  # type: ignore[operator, union-attr]
    counts = [len(own) for own in proposals]
    parts = zip(*(value.split(counts) for value in (features, logits, scores, boxes)), strict=True)
    found = []
    for i, (own, logit, score, box) in enumerate(parts):
        rows = _which(score, _returned_places(box, seen["prepared"][0].image_sizes[i], images[i]), detections[i])
        found.append(_found(own[rows], logit[rows], detections[i]))
    return found


def one_stage(model: nn.Module, inputs: Inputs) -> list[FoundBoxes]:
    """Boxes of a RetinaNet or an FCOS: the features of a box are those of the window that gives its logits."""
    images, conv = _images(inputs), _conv(model)
    outputs = {"logits": "head.classification_head", "offsets": "head.regression_head"}
    outputs |= {"anchors": "anchor_generator", "prepared": "transform"}
    with listening(model, inputs={}, outputs=outputs) as seen, _read_by(model, CLS_LOGITS) as levels:
        detections = model(images)
    offsets, centre = seen["offsets"] if isinstance(seen["offsets"], tuple) else (seen["offsets"], None)
    scores = seen["logits"].sigmoid()
    if centre is not None:  # of FCOS
        scores = (scores * centre.sigmoid()).sqrt()
    decode = getattr(model.box_coder, "decode_single", None) or model.box_coder.decode  # type: ignore[union-attr]
    found = []
    for i, detection in enumerate(detections):
        boxes = decode(offsets[i], seen["anchors"][i]).unsqueeze(1).expand(-1, scores.shape[2], -1)  # type: ignore[operator]
        rows = _which(scores[i], _returned_places(boxes, seen["prepared"][0].image_sizes[i], images[i]), detection)
        windows = torch.cat([conv.windows(read[i : i + 1])[0].flatten(1).T for read in levels])  # places, features
        anchors = len(scores[i]) // len(windows)
        found.append(_found(windows[rows // anchors], seen["logits"][i][rows], detection))
    return found


def _found(features: Tensor, logits: Tensor, detection: Mapping[str, Tensor]) -> FoundBoxes:
    return FoundBoxes(features, logits, detection["boxes"], detection["scores"], detection["labels"])


def _returned_places(boxes: Tensor, prepared: tuple[int, int], image: Tensor) -> Tensor:
    """Boxes (P, C, 4) on an image as the model has resized it, cut at its edges and brought to its own size."""
    from torchvision.models.detection.transform import resize_boxes
    from torchvision.ops import clip_boxes_to_image

    flat = clip_boxes_to_image(boxes.reshape(-1, 4), prepared)
    found: Tensor = resize_boxes(flat, list(prepared), list(image.shape[-2:]))
    return found.reshape(boxes.shape)


def _which(scores: Tensor, boxes: Tensor, detection: Mapping[str, Tensor]) -> Int[Tensor, " m"]:
    """Which row each detection was, by its class, score (P, C) and place (P, C, 4); each row and class is one at most.

    Of several that agree in all three the first counts, as in non-maximum suppression.
    """
    wanted, device = detection["scores"], scores.device
    if not len(wanted):
        return torch.zeros(0, dtype=torch.int64, device=device)
    row, label = torch.nonzero(scores >= wanted.min() - CLOSE, as_tuple=True)
    score, box = scores[row, label].cpu(), boxes[row, label].cpu()
    row, label = row.cpu(), label.cpu()
    free, chosen = torch.ones(len(row), dtype=torch.bool), []
    columns = (wanted.cpu(), detection["labels"].cpu(), detection["boxes"].cpu())
    for one_score, one_label, one_box in zip(*columns, strict=True):
        near = torch.nonzero(free & (label == one_label) & ((score - one_score).abs() <= CLOSE)).flatten()
        away = (box[near] - one_box).abs().amax(1)
        near, away = near[away <= CLOSE_PLACE], away[away <= CLOSE_PLACE]
        if not len(near):
            raise HeadError(
                "the boxes that the model returns, with their scores, are not those of its head: something changes "
                "them afterwards. Pass an adapter of your own: BoxClassifier(model, adapter, head=...)."
            )
        best = int(near[(away + (score[near] - one_score).abs()).argmin()])
        free[best] = False
        chosen.append(int(row[best]))
    return torch.tensor(chosen, device=device)


@contextmanager
def _read_by(model: nn.Module, name: str) -> Iterator[list[Tensor]]:
    """What a module reads in this thread, in the order of its calls: a head is called once per level."""
    me = threading.get_ident()
    read: list[Tensor] = []

    def record(_module: nn.Module, args: tuple[Any, ...]) -> None:
        if threading.get_ident() == me:
            read.append(args[0])

    handle = model.get_submodule(name).register_forward_pre_hook(record)
    try:
        yield read
    finally:
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
