"""Every command on files of features, with the same numbers as Python."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from pyarrow import parquet

import oodline as ol
from oodline.cli import main
from oodline.evaluation.run import read_run
from oodline.testing import toy_problem

CLASSIFIER, [(INPUTS, LABELS)] = toy_problem()
FEATURES = CLASSIFIER(INPUTS).features
MORE = CLASSIFIER(toy_problem(seed=1)[1][0][0]).features
FAR = FEATURES.flip(1) * 3 + 1


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, features in (("train", FEATURES), ("held", MORE), ("far", FAR)):
        np.savez(f"{name}.npz", features=features.numpy(), labels=LABELS.numpy().astype(np.uint8))
        np.save(f"{name}.npy", features.numpy())
        logits = CLASSIFIER.head(features).numpy()
        np.savez(f"{name}-logits.npz", logits=logits, labels=LABELS.numpy())
        torch.save({"features": features, "labels": LABELS}, f"{name}.pt")
    np.save("labels.npy", LABELS.numpy())
    np.savez("head.npz", W=CLASSIFIER.head.weight.numpy(), b=CLASSIFIER.head.bias.numpy())
    torch.save({"fc.weight": CLASSIFIER.head.weight, "fc.bias": CLASSIFIER.head.bias}, "head.pt")
    return tmp_path


def run(*arguments, code=0):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(SystemExit) as stop:
            main(arguments)
    assert stop.value.code == code


FIT = ("fit", "--calibrate", "held.npz", "--false-alarm", "0.1", "-o", "guard.safetensors")


@pytest.mark.parametrize(
    ("model", "data", "detector", "held"),
    [
        ("features:head.npz", "train.npz", "line", "held.npz"),
        ("features:head.pt", "train.pt", "vim", "held.pt"),
        ("features:head.pt,head=fc", "train.npy,labels=labels.npy", "energy", "held.npy"),
        ("features", "train.npz", "knn,k=5", "held.npz"),
        ("features", "train.npy,labels=labels.npy", "mahalanobis", "held.npy"),
        ("features", "train-logits.npz", "gen", "held-logits.npz"),
    ],
)
def test_fit_and_score_give_what_python_gives(place, capsys, model, data, detector, held):
    run(
        "fit",
        "--model",
        model,
        "--data",
        data,
        "-d",
        detector,
        "--calibrate",
        held,
        "--false-alarm",
        "0.1",
        "-o",
        "g.safetensors",
    )
    run("score", "g.safetensors", held, "-o", "scores.parquet")
    rows = parquet.read_table("scores.parquet").to_pydict()
    head = None if model == "features" else "head.npz"
    classifier, loader = ol.from_features(data, head=head)
    fitted = ol.create_detector(detector).fit(classifier, loader)
    expected = ol.score({"x": fitted}, classifier, classifier.loader(held))["x"]
    np.testing.assert_allclose(rows["score"], expected.numpy(), rtol=1e-6)
    assert sum(rows["is_ood"]) <= 6 and rows["name"][3] == f"{held}[3]"
    no_class = model == "features" and "logits" not in data
    assert set(rows["label"]) == ({None} if no_class else {0, 1, 2})
    # the file names the head's file, which is data, so no --model is needed; another one may still be named
    run("score", "g.safetensors", held, "-o", "again.csv", "--model", model)


def test_the_default_detector_and_json(place, capsys):
    run("fit", "--model", "features:head.npz", "--data", "train.npz", *FIT[1:], "--json")
    summary = json.loads(capsys.readouterr().out)
    assert summary["detectors"] == ["fuse"] and summary["accuracy"] > 0.9
    run("fit", "--model", "features", "--data", "train.npz", "-d", "knn,k=5", "-o", "g.safetensors", "--json")
    assert json.loads(capsys.readouterr().out)["accuracy"] is None


def test_all_detectors_that_can_be_are_fitted_and_the_others_say_why(place, capsys):
    run(
        "fit",
        "--model",
        "features",
        "--data",
        "train.npz",
        "-d",
        "corp,size=32",
        "-d",
        "all",
        "-o",
        "g.safetensors",
        "--json",
    )
    summary = json.loads(capsys.readouterr().out)
    assert {"knn", "mahalanobis", "gmm", "cop", "feature-norm", "conjnorm"} <= set(summary["detectors"])
    assert "needs logits, and only features are given" in summary["failed"]["msp"]
    assert "needs the head" in summary["failed"]["line"]
    assert "the feature map before pooling" in summary["failed"]["rankfeat"]
    assert "the inputs of the model" in summary["failed"]["odin"]


def test_evaluate_tune_explain_export_and_watch(place, capsys):
    run("fit", "--model", "features:head.npz", "--data", "train.npz", "-d", "line", *FIT[1:], "--neurons", "3")
    capsys.readouterr()
    run("evaluate", "guard.safetensors", "--id", "held.npz", "--ood", "far.npy", "--json")
    row = json.loads(capsys.readouterr().out)
    assert row["accuracy"] > 0.9
    run(
        "tune",
        "--model",
        "features:head.npz",
        "--data",
        "train.npz",
        "--held-out",
        "held.npz",
        "-d",
        "dice",
        "-o",
        "t.json",
    )
    tuned = json.loads((place / "t.json").read_text())
    assert tuned["data"]["held_out"]["samples"] == 60 and "train.npz" in tuned["data"]["fit"]["files"]
    capsys.readouterr()
    run("explain", "guard.safetensors", "far.npz", "--index", "3", "--json", "-o", "why.png")
    explained = json.loads(capsys.readouterr().out)
    fitted = ol.Guard.load("guard.safetensors", ol.from_features("train.npz", head="head.npz")[0])
    assert explained["score"] == pytest.approx(fitted.explain(FAR[3:4])[0].to_dict()["score"], rel=1e-6)
    run("score", "guard.safetensors", "far.npz", "-o", "scores.csv")
    run("export", "guard.safetensors", "--data", "held.npz", "-o", "guard.onnx")
    capsys.readouterr()
    run("watch", "scores.csv", "--guard", "guard.safetensors", code=3)  # all of it is far from the training data
    assert capsys.readouterr().out.startswith("inputs 1 to 60: ")


def test_a_benchmark_of_features(place, capsys):
    (place / "protocols").mkdir()
    (place / "protocols/features.toml").write_text(
        """
        folder = ".."
        detectors = ["energy", "knn,k=5"]
        [classifier]
        model = "features:head.npz"
        [fit]
        data = "train.npy,labels=labels.npy"
        [test]
        data = "held.npz"
        [[ood]]
        data = "far.pt"
        """
    )
    run("bench", "protocols/features.toml", "-o", "run", "--json")
    record = json.loads(capsys.readouterr().out)
    assert [s["samples"] for s in record["sets"]] == [60, 60, 60]
    classifier, _ = ol.from_features("train.npz", head="head.npz")
    expected = ol.score(ol.Energy(), classifier, classifier.loader("far.npz"))["energy"]
    np.testing.assert_allclose(read_run("run").scores("far.pt")["energy"], expected.numpy(), rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--model", "features:none.npz", "--data", "train.npz"), "there is no head file none.npz"),
        (("--model", "features:train.npz", "--data", "train.npz"), "no layer with a weight of shape (C, 16)"),
        (("--model", "features:head.npz,head=fc", "--data", "train.npz"), "no layer 'fc'"),
        (("--model", "features:head.npz", "--data", "train-logits.npz"), "holds no `features`"),
        (("--model", "features:head.npz", "--data", "head.npz"), "must hold `features` and `logits`, or one of them"),
        (("--model", "features", "--data", "images"), "is a folder"),
        (("--model", "features,x=1", "--data", "train.npz"), "unknown option, x;"),
        (("--model", "features", "--head", "fc", "--data", "train.npz"), "no file that holds it"),
        (("--model", "features", "--data", "train.npz", "--preprocessing", "{}"), "--preprocessing is for images"),
        (("--model", "features", "--data", "train.npz", "-d", "msp"), "'msp' needs logits"),
        (("--model", "features", "--data", "train.npz,x=labels.npy"), "unknown option, x; the options are"),
        (("--model", "features", "--data", "train.npy,labels=train.npy", "-d", "knn"), "must be integers"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_and_nothing_is_written(place, capsys, arguments, sentence):
    (place / "images").mkdir()
    run("fit", *arguments, "-o", "none.safetensors", code=1)
    error = capsys.readouterr().err
    assert "error: " in error and sentence in error and "Traceback" not in error
    assert not (place / "none.safetensors").exists()


def test_a_guard_of_features_is_not_served(place, capsys):
    run("fit", "--model", "features:head.npz", "--data", "train.npz", "-d", "energy", *FIT[1:])
    run("serve", "guard.safetensors", code=1)
    assert "images were given, which need the model" in capsys.readouterr().err
