"""A guard of pixels over HTTP: the verdict on the image, and maps where they are asked for."""

from __future__ import annotations

import base64
from io import BytesIO

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image
from torch import nn

import oodline as ol
from oodline.serve import create_app, maps


@pytest.fixture(scope="module")
def pixel_guard() -> ol.Guard:
    torch.manual_seed(0)
    classifier = ol.RowClassifier(nn.Sequential(nn.Conv2d(3, 6, 2, 2), nn.ReLU(), nn.Conv2d(6, 4, 1)), "pixels")
    detector = ol.Mahalanobis(by="all").fit(classifier, torch.rand(40, 3, 8, 12))
    guard = ol.Guard(classifier, detector, preprocessing=ol.Preprocessing(resize=(8, 12)))
    return guard.calibrate(torch.rand(40, 3, 8, 12))


def test_maps_are_those_of_the_verdict_and_sent_on_request(
    pixel_guard: ol.Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    pixels[:4, :4] = 255
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    verdict = pixel_guard(pixel_guard.preprocessing(Image.fromarray(pixels)).unsqueeze(0))
    assert isinstance(verdict, ol.RowVerdict)
    [expected] = verdict.rows()
    with TestClient(create_app(pixel_guard), base_url="http://localhost") as client:

        def ask(form: str = "") -> dict:
            answer = client.post(f"/v1/predict{form}", content=file.getvalue(), headers={"content-type": "image/png"})
            assert answer.status_code == 200, answer.text
            return answer.json()["verdicts"][0]

        assert ask() == {"name": None, **expected}
        listed = ask("?maps=list")["maps"]
        for column in ("is_ood", "label", "p_value", "score"):
            assert torch.allclose(torch.tensor(listed[column]).double(), verdict.maps(column)[0].double())
        drawn = ask("?maps=png")["maps"]
        read = {c: np.asarray(Image.open(BytesIO(base64.b64decode(drawn[c])))) for c in ("is_ood", "label", "p_value")}
        assert np.array_equal(read["is_ood"] == 255, verdict.maps("is_ood")[0].numpy())
        assert np.array_equal(read["label"], verdict.maps("label")[0].numpy())
        assert np.allclose(read["p_value"] / 65535, verdict.maps("p_value")[0].numpy(), atol=1e-5)
        monkeypatch.setattr(maps, "MOST_LISTED", 10)
        assert "not listed" in ask("?maps=list")["maps"]["note"]


def test_a_guard_of_images_has_no_map(client, picture) -> None:
    answer = client.post("/v1/predict?maps=png", content=picture("red"), headers={"content-type": "image/png"})
    assert answer.status_code == 422 and answer.json()["detail"].startswith("This guard gives one decision per input")


def test_boxes_are_in_the_answer_and_have_no_map() -> None:
    head = ol.LinearHead(torch.eye(3), torch.zeros(3))

    def read(model: nn.Module, images: torch.Tensor) -> list[ol.FoundBoxes]:
        place, one = torch.tensor([[0.0, 0.0, 8.0, 8.0]]), torch.ones(1)
        means = [image.mean((1, 2))[None] for image in images]
        return [ol.FoundBoxes(mean, head(mean), place, one, head(mean).argmax(1)) for mean in means]

    torch.manual_seed(0)
    classifier = ol.BoxClassifier(nn.Identity(), read, head=head)
    detector = ol.Mahalanobis(by="all").fit(classifier, torch.rand(40, 3, 8, 8))
    guard = ol.Guard(classifier, detector, preprocessing=ol.Preprocessing(resize=(8, 8)))
    guard.calibrate(torch.rand(40, 3, 8, 8))
    file = BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "PNG")
    sent = {"content": file.getvalue(), "headers": {"content-type": "image/png"}}
    with TestClient(create_app(guard), base_url="http://localhost") as client:
        [found] = client.post("/v1/predict", **sent).json()["verdicts"]
        assert found["boxes"] == guard(guard.preprocessing(Image.new("RGB", (8, 8), "red"))[None]).rows()[0]["boxes"]
        assert found["boxes"][0]["class_name"] == "unknown" and found["is_ood"]
        refused = client.post("/v1/predict?maps=png", **sent)
    assert (refused.status_code, refused.json()["detail"]) == (
        422,
        "This guard gives one decision per box, and no map.",
    )
