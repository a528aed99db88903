"""Rows on the command line: fit with masks, score, evaluate pixels, explain; the same as from Python."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import parquet

import oodline as ol
from oodline.cli import main
from oodline.data import open_loader
from oodline.evaluation.run import read_run

FACTORY = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, stride=2), nn.ReLU(), nn.Conv2d(6, 3, 1))
    model.preprocessing = {"resize": [8, 12], "mean": [0.5] * 3, "std": [0.25] * 3}
    return model
"""
MODEL = ["--model", "python:models.py:build", "--device", "cpu"]


def run(*arguments: str) -> None:
    try:
        main(list(arguments))
    except SystemExit as stop:
        assert stop.code in (0, None)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of two colours with masks, images with a white square and masks of it, and a fitted file."""
    home = tmp_path_factory.mktemp("rows")
    rng = np.random.default_rng(0)
    for folder, count in (("train", 12), ("held", 30), ("odd", 4)):
        (home / folder).mkdir()
        (home / f"{folder}-masks").mkdir()
        for i in range(count):
            pixels = rng.integers(60, 120, (16, 24, 3), dtype=np.uint8)
            mask = np.zeros((16, 24), np.uint8)
            if folder == "odd":
                pixels[4:10, 4:12], mask[4:10, 4:12] = 255, 1
            else:
                pixels[:, 12:, 0] += 80
                mask[:, 12:], mask[:2] = 1 + i % 2, 255
            Image.fromarray(pixels).save(home / folder / f"{i}.png")
            Image.fromarray(mask).save(home / f"{folder}-masks" / f"{i}.png")
    (home / "models.py").write_text(FACTORY)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        run(
            "fit", *MODEL, "--rows", "pixels,region=0.1,fit_share=0.5", "--data", "train", "--masks", "train-masks",
            "-d", "mahalanobis", "-d", "energy", "--calibrate", "held", "-o", "g.safetensors", "--quiet",
            "--neurons", "2",
        )  # fmt: skip
    return home


@pytest.fixture(autouse=True)
def _there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


@pytest.fixture(scope="module")
def guard(place: Path) -> ol.Guard:
    rows = ol.Pixels(region=0.1, fit_share=0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        classifier = ol.Classifier.load("python:models.py:build", rows=rows, device="cpu")
        assert type(classifier) is ol.RowClassifier and classifier.rows == rows
        detector = ol.Mahalanobis().fit(classifier, open_loader("train,masks=train-masks", classifier.preprocessing))
        return ol.Guard(classifier, detector).calibrate(open_loader("held", classifier.preprocessing))


def test_scores_and_verdicts_of_images_equal_those_of_python(guard: ol.Guard) -> None:
    run("score", "g.safetensors", "odd", *MODEL, "-o", "s.parquet", "--quiet")
    rows = parquet.read_table("s.parquet").to_pylist()
    [batch] = open_loader("odd", guard.preprocessing)
    verdict = guard(batch.inputs)
    assert [row["score"] for row in rows] == pytest.approx(verdict.score.tolist())
    assert [row["is_ood"] for row in rows] == verdict.is_ood.tolist() == [True] * 4
    assert [row["p_value"] for row in rows] == verdict.p_value.tolist()


def test_metrics_of_pixels_equal_those_of_python(guard: ol.Guard, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    run("evaluate", "g.safetensors", *MODEL, "--mixed", "squares=odd,masks=odd-masks", "--json")
    found = json.loads(capsys.readouterr().out)
    assert isinstance(guard.classifier, ol.RowClassifier)
    loader = open_loader("odd,masks=odd-masks", guard.preprocessing)
    table = ol.evaluate_rows(guard.detector, guard.classifier, {"squares": loader})
    [row] = [row for row in found["rows"] if row["detector"] == "mahalanobis"]
    assert row["auroc"] == table.value("mahalanobis", "auroc", "squares") > 0.9
    assert row["n_ood"] == table.cells["mahalanobis"]["squares"].n_ood


def test_explain_says_how_much_is_flagged_and_draws_it(guard: ol.Guard, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    run("explain", "g.safetensors", "odd", "--index", "1", *MODEL, "-o", "e.png", "--json")
    row = json.loads(capsys.readouterr().out)
    [batch] = open_loader("odd", guard.preprocessing)
    verdict = guard(batch.inputs)
    assert isinstance(verdict, ol.RowVerdict)
    assert row["flagged_share"] == float(verdict.maps("is_ood")[1].double().mean()) and row["rows"] == 24
    with Image.open("e.png") as picture:
        assert picture.width > 600
    scores = verdict.maps("score")[1].flatten()
    assert row["explained"]["place"] == int(scores.argmin()) and row["explained"]["input"]["is_ood"] == row["is_ood"]
    run("explain", "g.safetensors", "odd", "--index", "1", *MODEL, "--place", "2")
    out = capsys.readouterr().out
    assert "Explained is the place in row 0, column 2 of" in out and "(place " in out


def test_what_does_not_go_together_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, reason in (
        (["fit", *MODEL, "--rows", "pixel", "--data", "train", "-o", "h.safetensors"], "kind of rows 'pixel'"),
        (["evaluate", "g.safetensors", "--id", "held", "--ood", "odd", "--mixed", "odd"], "a table of pixels"),
        (["evaluate", "g.safetensors", "--mixed", "odd", "--bootstrap", "9"], "`--bootstrap` must be 0 with --mixed"),
        (["score", "g.safetensors", "odd", *MODEL, "--rows", "pixels", "-o", "x.csv"], "fitted on rows 'pixels,region"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 1 and reason in " ".join(capsys.readouterr().err.split())


def test_models_of_libraries_are_those_for_pixels() -> None:
    classifier = ol.Classifier.load(
        "torchvision:lraspp_mobilenet_v3_large,pretrained=false,num_classes=3", rows="pixels", device="cpu"
    )
    activations = classifier(torch.zeros(1, 3, 64, 64))
    assert activations.places is not None and activations.places.grid == (8, 8)


def test_a_benchmark_of_pixels_scores_images_as_the_guard_does(guard: ol.Guard, place: Path) -> None:
    (place / "b.toml").write_text(
        'name = "squares"\ndetectors = ["mahalanobis"]\n'
        '[classifier]\nmodel = "python:models.py:build"\nrows = "pixels,region=0.1,fit_share=0.5"\n'
        '[fit]\ndata = "train,masks=train-masks"\n[test]\ndata = "held"\n[[ood]]\ndata = "odd"\n'
    )
    run("bench", "b.toml", *MODEL, "-o", "run", "--cache", "cache", "--quiet")
    [batch] = open_loader("odd", guard.preprocessing)
    assert read_run("run").scores("odd")["mahalanobis"] == pytest.approx(guard(batch.inputs).score.numpy())
