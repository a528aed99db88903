"""Boxes: what torchvision's object detectors found, with features and logits, and adapters for any other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator

import oodline as ol
from oodline.errors import HeadError, InputError, SettingError
from oodline.guard.row_verdict import simes
from oodline.model.hooks import listening
from oodline.model.rows.per_input import Drawn
from oodline.serve import create_app


def backbone() -> nn.Module:
    made = nn.Sequential(nn.Conv2d(3, 32, 3, 4, 1), nn.ReLU())
    made.out_channels = 32  # type: ignore[assignment]
    return made


def detector_of(kind: str) -> nn.Module:
    torch.manual_seed(0)
    sizes = {"min_size": 32, "max_size": 32, "image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    one, three = AnchorGenerator(((8,),), ((1.0,),)), AnchorGenerator(((8, 12),), ((0.5, 1.0),))
    made: nn.Module
    if kind == "faster":
        made = FasterRCNN(
            backbone(), 4, rpn_anchor_generator=three, box_score_thresh=0.0, box_detections_per_img=7, **sizes
        )
    elif kind == "retina":
        made = RetinaNet(backbone(), 3, anchor_generator=three, score_thresh=0.0, detections_per_img=7, **sizes)
    else:
        made = FCOS(backbone(), 3, anchor_generator=one, score_thresh=0.0, detections_per_img=7, **sizes)
    for module in made.modules():  # so that scores differ
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.1)
    return made.eval().requires_grad_(False)


@pytest.mark.parametrize("kind", ["faster", "retina", "fcos"])
def test_features_and_logits_are_those_of_the_boxes(kind: str) -> None:
    model, images = detector_of(kind), torch.rand(2, 3, 32, 32)
    classifier = ol.BoxClassifier(model)
    activations = classifier(images, index=torch.tensor([5, 9]))
    with torch.no_grad():
        expected = model(list(images))
    places = activations.places
    assert places.samples.tolist() == [5, 9] and len(activations) == 14
    for name, key in (("box", "boxes"), ("sure", "scores"), ("label", "labels")):
        assert torch.equal(places.known[name], torch.cat([each[key] for each in expected]))
    rows, labels = torch.arange(14), places.known["label"]
    if kind == "faster":  # the head is linear, and its softmax the score
        assert torch.allclose(activations.logits.softmax(1)[rows, labels], places.known["sure"], atol=1e-6)
        assert torch.allclose(activations.head(activations.features), activations.logits, atol=1e-5)
    elif kind == "retina":
        assert torch.allclose(activations.logits.sigmoid()[rows, labels], places.known["sure"], atol=1e-6)
        # one of the four anchors' own layers makes them of the window
        weight = model.head.classification_head.cls_logits.weight.flatten(1)
        bias = model.head.classification_head.cls_logits.bias
        made = (activations.features @ weight.T + bias).reshape(14, 4, 3)
        assert float((made - activations.logits[:, None]).abs().amax(2).amin(1).max()) < 1e-5
        with pytest.raises(InputError, match="needs one head from features to logits"):
            ol.create_detector("vim").fit(classifier, images)
    else:
        assert torch.allclose(activations.head(activations.features), activations.logits, atol=1e-5)


@pytest.mark.parametrize("kind", ["faster", "retina", "fcos"])
def test_boxes_of_equal_scores_have_features_of_their_own(kind: str) -> None:
    model = detector_of(kind)
    name = "roi_heads.box_predictor.cls_score" if kind == "faster" else "head.classification_head.cls_logits"
    layer = model.get_submodule(name)
    layer.bias.zero_()[1 :: 4 if kind == "faster" else 3] = 90.0  # one class, of which all boxes are sure
    if kind == "fcos":
        model.head.regression_head.bbox_ctrness.bias.fill_(90.0)
    outputs = {"predictor": "roi_heads.box_predictor", "proposals": "rpn"} if kind == "faster" else {}
    outputs |= {} if kind == "faster" else {"offsets": "head.regression_head", "anchors": "anchor_generator"}
    with listening(model, inputs={"read": name}, outputs=outputs) as heard:
        activations = ol.BoxClassifier(model)(torch.rand(1, 3, 48, 48))  # resized to 32 x 32
    known, coder = activations.places.known, getattr(model, "box_coder", None) or model.roi_heads.box_coder
    for key in ("sure", "label"):
        assert len(activations) == 7 and bool((known[key] == known[key][0]).all())
    if kind == "faster":
        decoded = coder.decode(heard["predictor"][1], heard["proposals"][0])[:, int(known["label"][0])]
        features = heard["read"]
    else:
        offsets = heard["offsets"][0] if kind == "fcos" else heard["offsets"]
        decoded = (coder.decode if kind == "fcos" else coder.decode_single)(offsets[0], heard["anchors"][0])
        places = nn.functional.unfold(heard["read"], 3, padding=1)[0].T
        features = places.repeat_interleave(len(decoded) // len(places), 0)
    away = (decoded.clamp(0, 32)[:, None] * 1.5 - known["box"]).abs().amax(2)
    rows = away.argmin(0)
    assert float(away.amin(0).max()) < 1e-3 and len(set(rows.tolist())) == 7
    assert torch.allclose(activations.features, features[rows], atol=1e-5)


HEAD = ol.LinearHead(torch.eye(3, 4), torch.zeros(3), "toy")


def read(model: nn.Module, images: Tensor) -> list[ol.FoundBoxes]:
    """As many boxes as the first pixel says, up to 3, whose features are the next pixels."""
    found = []
    for image in images:
        count = min(int(image[0, 0, 0].abs() * 4), 3)
        features = image[0, 1 : 1 + count]
        logits = HEAD(features)
        found.append(ol.FoundBoxes(features, logits, torch.ones(count, 4), logits.softmax(1).amax(1), logits.argmax(1)))
    return found


def images(seed: int, n: int = 60) -> Tensor:
    return torch.randn(n, 1, 4, 4, generator=torch.Generator().manual_seed(seed))


def guard_of(promise: str, **more: float) -> ol.Guard:
    rows = ol.Boxes(promise=promise, **more)  # type: ignore[arg-type]
    classifier = ol.BoxClassifier(nn.Identity(), read, rows, head=HEAD)
    detector = ol.Mahalanobis().fit(classifier, images(1, 200))
    return ol.Guard(classifier, detector, class_names=["a", "b", "c"]).calibrate(images(2, 400), false_alarm=0.1)


def test_a_flagged_box_is_unknown_and_flags_its_image() -> None:
    guard = guard_of("image")
    batch = images(3)
    batch[0, 0, 0, 0], batch[0, 0, 1:] = 0.5, torch.tensor([[9.0, 9, 9, 9], [1, 0, 0, 0], [0, 0, 0, 0]])
    batch[1, 0, 0, 0] = 0.0  # no box
    verdict = guard(batch)
    assert isinstance(verdict, ol.RowVerdict)
    first = verdict.rows()[0]
    assert [box["class_name"] for box in first["boxes"]] == ["unknown", "a"] and first["is_ood"]
    assert verdict.rows()[1]["boxes"] == [] and not verdict.is_ood[1] and verdict.rows()[1]["score"] is None
    for flagged, own in zip(verdict.is_ood.tolist(), verdict.lists("is_ood"), strict=True):
        assert flagged == bool(own.any())


def test_promises_hold_per_image_and_per_drawn_box() -> None:
    many = images(4, 600)
    verdict = guard_of("image")(many)
    there = torch.tensor([len(own) > 0 for own in verdict.lists("is_ood")])  # type: ignore[attr-defined]
    assert 0.05 < float(verdict.is_ood[there].double().mean()) < 0.15
    guard = guard_of("box")
    verdict = guard(many)
    assert isinstance(verdict, ol.RowVerdict)
    shares = torch.tensor([float(own.double().mean()) for own in verdict.lists("is_ood") if len(own)])
    assert 0.05 < float(shares.mean()) < 0.15  # of a box drawn at random
    for own, flagged in zip(verdict.lists("p_value"), verdict.is_ood.tolist(), strict=True):
        assert flagged == (bool(ol.benjamini_hochberg(own, 0.1).any()) if len(own) else False)
    assert torch.equal(verdict.score <= verdict.threshold, verdict.is_ood) and torch.equal(
        verdict.score, verdict.p_value
    )
    alone = torch.cat([guard(many[i : i + 1]).score for i in range(8)])
    assert torch.allclose(alone, verdict.score[:8])  # wherever in a batch an image is
    with pytest.raises(SettingError, match="`promise` must be 'image' for a guard of boxes that is served"):
        create_app(guard, ol.Preprocessing(resize=(4, 4)))


def test_a_box_is_drawn_by_the_position_of_its_image() -> None:
    scores, group = torch.arange(6.0), torch.tensor([0, 0, 0, 1, 1, 3])
    whole = Drawn()(scores, group, torch.tensor([7, 8, 9, 10]))
    assert whole[0] in (0, 1, 2) and whole[1] in (3, 4) and whole[2] == torch.inf and whole[3] == 5
    assert Drawn()(scores[3:5], torch.tensor([0, 0]), torch.tensor([8])) == whole[1]
    drawn = Drawn()(torch.arange(3000.0), torch.arange(3000) // 3, torch.arange(1000)) % 3
    assert torch.bincount(drawn.long()).min() > 280


def test_a_guard_of_boxes_is_saved(tmp_path: Path) -> None:
    guard = guard_of("box", least=0.4)
    again = ol.Guard.load(guard.save(tmp_path / "g.safetensors"), guard.classifier)
    verdict = again(images(3))
    assert verdict.rows() == guard(images(3)).rows()
    assert min(box["sure"] for row in verdict.rows() for box in row["boxes"]) >= 0.4


def test_what_an_adapter_must_return_is_checked() -> None:
    with pytest.raises(HeadError, match="is not a Faster R-CNN, RetinaNet or FCOS of torchvision"):
        ol.BoxClassifier(nn.Identity())
    with pytest.raises(InputError, match="`head` must be given with an adapter"):
        ol.BoxClassifier(nn.Identity(), read)
    with pytest.raises(HeadError, match="one record per image, 3; got 2"):
        ol.BoxClassifier(nn.Identity(), lambda m, x: read(m, x)[:2], head=HEAD)(images(1, 3))
    none = ol.BoxClassifier(nn.Identity(), read, head=ol.NoHead(3, 4, logits=True))
    assert none(images(1)).logits.shape[1] == 3
    with pytest.raises(InputError, match="needs one head from features to logits"):
        ol.fit(["react"], none, images(1))


def test_simes_is_the_rate_at_which_benjamini_hochberg_flags_one() -> None:
    generator = torch.Generator().manual_seed(0)
    p, group = torch.rand(200, generator=generator).double(), torch.arange(200) // 8
    found = simes(p, group, 25)
    for g in range(25):
        own = p[group == g]
        assert ol.benjamini_hochberg(own, float(found[g]) + 1e-9).any()
        assert not ol.benjamini_hochberg(own, float(found[g]) - 1e-9).any()
