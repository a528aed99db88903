"""Boxes on the command line: fit, score, evaluate and explain a guard of an object detector, as from Python."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet
from torchvision import models

import oodline as ol
from oodline.cli import main
from oodline.data import open_loader
from oodline.errors import ModelError, SettingError

FACTORY = """
import torch
from torch import nn

import oodline as ol

HEAD = ol.LinearHead(torch.tensor([[9.0, 0, 0], [0, 9, 0], [0, 0, 9]]), torch.zeros(3))

class Brightest(nn.Module):
    # finds a box in each half of an image, whose features are its mean colour
    box_head, class_names = HEAD, ["red", "green", "blue"]

    @staticmethod
    def box_adapter(model, images):
        found = []
        for image in images:
            features = torch.stack([half.mean((1, 2)) for half in image.chunk(2, 2)])
            logits = HEAD(features)
            boxes = torch.tensor([[0.0, 0, 6, 12], [6, 0, 12, 12]])
            found.append(ol.FoundBoxes(features, logits, boxes, logits.softmax(1).amax(1), logits.argmax(1)))
        return found

def build():
    model = Brightest()
    model.preprocessing = {"resize": [12, 12]}
    return model
"""
MODEL = ["--model", "python:boxes.py:build", "--device", "cpu"]


def run(*arguments: str) -> None:
    try:
        main(list(arguments))
    except SystemExit as stop:
        assert stop.code in (0, None)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home, rng = tmp_path_factory.mktemp("boxes"), np.random.default_rng(0)
    for folder, count in (("train", 30), ("held", 30), ("odd", 3)):
        (home / folder / "cars").mkdir(parents=True)  # whose name is no class of a box
        for i in range(count):
            pixels = rng.integers(0, 40, (12, 12, 3), dtype=np.uint8)
            pixels[:, :6, i % 3], pixels[:, 6:, (i + 1) % 3] = 200, 200 if folder != "odd" else 0
            Image.fromarray(pixels).save(home / folder / "cars" / f"{i}.png")
    (home / "boxes.py").write_text(FACTORY)
    return home


def test_the_command_line_gives_what_python_gives(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    fit = ["fit", *MODEL, "--rows", "boxes", "--data", "train", "-d", "mahalanobis", "--calibrate", "held"]
    run(*fit, "-o", "g.safetensors", "--json")
    assert json.loads(capsys.readouterr().out)["accuracy"] is None
    classifier = ol.Classifier.load("python:boxes.py:build", rows="boxes", device="cpu")
    assert type(classifier) is ol.BoxClassifier
    train, held, odd = (open_loader(name, classifier.preprocessing) for name in ("train", "held", "odd"))
    guard = ol.Guard(classifier, ol.Mahalanobis().fit(classifier, train)).calibrate(held)
    verdict = guard(next(iter(odd)).inputs)
    assert isinstance(verdict, ol.RowVerdict)
    run("score", "g.safetensors", "odd", *MODEL, "-o", "s.parquet", "--quiet")
    rows = parquet.read_table("s.parquet").to_pylist()
    assert [row["score"] for row in rows] == pytest.approx(verdict.score.tolist())
    assert [row["is_ood"] for row in rows] == verdict.is_ood.tolist() == [True] * 3
    run("explain", "g.safetensors", "odd", "--index", "1", *MODEL, "--json")
    shown = json.loads(capsys.readouterr().out)
    assert [box["class_name"] for box in shown["boxes"]] == ["green", "unknown"]
    run("evaluate", "g.safetensors", *MODEL, "--id", "held", "--ood", "odd", "--json")
    assert json.loads(capsys.readouterr().out)["rows"][0]["auroc"] == 1.0
    with pytest.raises(SystemExit):
        main([*fit[:3], *fit[3:5], "--rows", "boxes,promise=box", *fit[7:], "-o", "h.safetensors"])
    assert "`promise` must be 'image' on the command line" in " ".join(capsys.readouterr().err.split())


def test_object_detectors_of_torchvision_are_loaded_by_name() -> None:
    name = "torchvision:fasterrcnn_mobilenet_v3_large_320_fpn,pretrained=false,num_classes=4"
    classifier = ol.Classifier.load(name, rows="boxes,least=0.5", device="cpu")
    assert isinstance(classifier, ol.BoxClassifier) and classifier.rows == ol.Boxes(least=0.5)
    assert classifier.head.num_classes == 4 and classifier.preprocessing == ol.Preprocessing()
    weights = models.get_model_weights("fasterrcnn_mobilenet_v3_large_320_fpn").DEFAULT
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8))
    assert (ol.Preprocessing()(image) == weights.transforms()(image)).all()
    with pytest.raises(ModelError, match=r"gives one decision per box\. Say so: --rows boxes"):
        ol.load_model(name)
    with pytest.raises(SettingError, match="`head` is not for boxes"):
        ol.Classifier.load(name, rows="boxes", head="roi_heads", device="cpu")
