"""A guard of pixels as a graph: maps and the verdict on each image, equal to those of the guard."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import oodline as ol
from oodline.guard.export import export_onnx
from oodline.guard.graph import OF_IMAGES, OUTPUTS, GuardGraph


class Segmenter(nn.Module):
    """Convolutions, a head of windows or of patches, and a map that is brought to the image's size."""

    def __init__(self, patches: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, stride=2), nn.ReLU())
        self.head = nn.Linear(6, 4) if patches else nn.Conv2d(6, 4, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        body = self.body(images)
        if isinstance(self.head, nn.Linear):
            made = self.head(body.flatten(2).mT).mT.unflatten(2, (body.shape[2], body.shape[3]))
        else:
            made = self.head(body)
        return nn.functional.interpolate(made, images.shape[2:], mode="bilinear")


def guard_of(patches: bool, detector: str) -> ol.Guard:
    torch.manual_seed(0)
    classifier = ol.RowClassifier(Segmenter(patches).eval(), ol.Pixels(region=0.1, fit_share=1.0))
    fitted = ol.create_detector(detector).fit(classifier, torch.randn(20, 3, 8, 12))
    return ol.Guard(classifier, fitted).calibrate(torch.randn(40, 3, 8, 12))


def test_onnx_gives_the_maps_and_the_verdict_on_each_image(tmp_path: Path) -> None:
    guard = guard_of(False, "mahalanobis,by=all")
    batch = 1.5 * torch.randn(5, 3, 8, 12)
    made = export_onnx(guard, tmp_path / "g.onnx", batch)
    assert tuple(made.differences) == OUTPUTS + OF_IMAGES
    session = onnxruntime.InferenceSession(tmp_path / "g.onnx", providers=["CPUExecutionProvider"])
    batch[0, 0, 0, 0] = torch.nan
    found = dict(
        zip(made.differences, map(torch.from_numpy, session.run(None, {"inputs": batch.numpy()})), strict=True)
    )
    verdict = guard(batch[1:])
    assert isinstance(verdict, ol.RowVerdict)
    for column in ("score", "p_value", "is_ood", "label"):
        assert found[column].shape == (5, 4, 6)
        assert torch.allclose(found[column][1:].double(), verdict.maps(column).double(), rtol=1e-4, atol=1e-4)
    assert torch.allclose(found["image_score"][1:].double(), verdict.score.double(), rtol=1e-4)
    assert torch.equal(found["image_p_value"][1:], verdict.p_value)
    assert torch.equal(found["image_is_ood"][1:], verdict.is_ood) and 0 < int(verdict.is_ood.sum()) < 4
    assert found["is_ood"][0].all() and found["image_is_ood"][0]  # what is not a number is flagged
    assert found["logits"].shape == (5, 4, 4, 6)


@pytest.mark.parametrize("patches", [True, False])
def test_the_graph_equals_the_guard(patches: bool) -> None:
    guard = guard_of(patches, "energy")
    batch = torch.randn(3, 3, 8, 12)
    verdict = guard(batch)
    assert isinstance(verdict, ol.RowVerdict)
    graph = GuardGraph(guard)
    with torch.no_grad():
        found = dict(zip(graph.outputs, graph(batch), strict=True))
    assert torch.allclose(found["score"], verdict.maps("score"), atol=1e-5)
    assert torch.equal(found["label"], verdict.maps("label"))
    assert torch.allclose(found["image_score"].double(), verdict.score.double(), atol=1e-5)
