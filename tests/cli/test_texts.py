"""`fit`, `score`, `evaluate`, `bench`, `explain` and `doctor` on texts: equal to Python, to the bit."""

import csv
import json

import pytest
import torch

import oodline as ol
from oodline.cli import main
from oodline.data import open_loader
from oodline.evaluation.run import read_run
from oodline.guard.artifact import read_artifact
from oodline.guard.fit_guards import fit_guards

METHODS = ["mahalanobis", "energy", "line"]
COLUMNS = ["--text-column", "text", "--label-column", "intent"]


def run(*words):
    with pytest.raises(SystemExit) as stop:
        main([*map(str, words), "--device", "cpu"])
    return stop.value.code


def printed(capsys, *words):
    capsys.readouterr()
    assert run(*words, "--json") in (0, None)
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def fitted(texts, tmp_path_factory):
    """What `oodline fit` wrote."""
    path = tmp_path_factory.mktemp("fitted") / "guard.safetensors"
    files = ("--data", texts / "train.csv", "--calibrate", texts / "val.csv")
    detectors = [word for name in METHODS for word in ("-d", name)]
    assert run("fit", "--model", f"hf:{texts / 'model'}", *files, *COLUMNS, *detectors, "-o", path, "--quiet") in (
        0,
        None,
    )
    return path


@pytest.fixture(scope="module")
def python(texts):
    """The same in Python: classifier, what was fitted, and the loaders."""
    classifier = ol.Classifier.load(f"hf:{texts / 'model'}", device="cpu")
    loaders = {
        name: open_loader(texts / f"{name}.csv", classifier.preprocessing, class_names=classifier.class_names)
        for name in ("train", "val")
    }
    loaders["ood"] = open_loader(texts / "ood.csv", classifier.preprocessing)
    fitted = fit_guards(METHODS, classifier, loaders["train"], loaders["val"], preprocessing=classifier.preprocessing)
    return classifier, fitted, loaders


def test_fit_and_score_are_equal_to_python_to_the_bit(fitted, python, texts, tmp_path, capsys):
    classifier, there, loaders = python
    here = read_artifact(fitted)
    assert here.class_names == ("tool", "colour", "animal")
    assert here.preprocessing.digest == classifier.preprocessing.digest
    for name, detector in there.artifact.detectors.items():
        for key, value in detector.state_dict().items():
            assert torch.equal(value, here.detectors[name].state_dict()[key])
        assert torch.equal(here.calibrations[name].scores, there.artifact.calibrations[name].scores)
    found = printed(capsys, "score", fitted, texts / "ood.csv", "-o", tmp_path / "rows.jsonl")
    assert (found["texts"], found["skipped"]) == (21, {})
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    scores = ol.score(there.artifact.detectors, classifier, loaders["ood"])
    for name in METHODS:
        column = "score" if name == METHODS[0] else f"score_{name}"
        assert [row[column] for row in rows] == scores[name].tolist()
    with (texts / "ood.csv").open() as file:
        raw = [row["text"] for row in csv.DictReader(file)]
    verdicts = there.guard()(raw).rows()  # one batch of all, as the loader's
    assert [(row["label"], row["is_ood"]) for row in rows] == [(row["label"], row["is_ood"]) for row in verdicts]
    assert [row["name"] for row in rows][:2] == ["ood.csv#0", "ood.csv#1"]


def test_evaluate_is_equal_to_python(fitted, python, texts, capsys):
    classifier, there, loaders = python
    table = printed(capsys, "evaluate", fitted, "--id", texts / "val.csv", "--ood", texts / "ood.csv", *COLUMNS)
    expected = ol.evaluate(there.artifact.detectors, classifier, loaders["val"], {"ood": loaders["ood"]})
    assert table["rows"] == expected.to_dict()["rows"]
    assert expected.value("mahalanobis", "auroc", "ood") > 0.65


def test_labels_are_matched_by_name_and_wrong_ones_are_seen(texts, python, tmp_path, capsys):
    assert python[1].accuracy.value > 0.85
    turned = {"tool": "tool", "colour": "animal", "animal": "colour"}
    lines = (texts / "train.csv").read_text().splitlines()
    (tmp_path / "turned.csv").write_text(
        "\n".join(
            [lines[0], *(f"{text},{turned[name]}" for text, _, name in (line.rpartition(",") for line in lines[1:]))]
        )
    )
    words = ("--model", f"hf:{texts / 'model'}", "--data", tmp_path / "turned.csv", "-o", tmp_path / "g.safetensors")
    assert run("fit", *words, "-d", "mahalanobis") in (0, None)
    assert "label 1 ('colour') is predicted as class 2 ('animal')" in capsys.readouterr().err


def test_doctor_says_what_to_type_for_texts(texts, capsys):
    found = printed(capsys, "doctor", f"hf:{texts / 'model'}", "--text-column", "query", "--label-column", "intent")
    assert found["preprocessing"].startswith("the tokenizer TokenizersBackend, at most 32 tokens, digest ")
    assert found["head"]["origin"] == "found: W f + b are the logits"  # two texts were tried
    assert found["class_names"] == ["tool", "colour", "animal"]
    assert "--text-column query --label-column intent --data TRAINING_DATA" in found["next"][0]
    assert "score guard.safetensors TEXTS --text-column query" in found["next"][1]
    assert found["missing"][0].startswith("training data: some hundred ID texts")


def test_explain_reads_a_row(fitted, texts, capsys):
    found = printed(capsys, "explain", fitted, texts / "ood.csv", "--index", "3", "-d", "line")
    assert len(found["missing"]) + len(found["unexpected"]) > 0


def test_bench_runs_on_texts_and_reads_its_cache(texts, fitted, tmp_path, capsys):
    (tmp_path / "bench.toml").write_text(
        f"""
        folder = "{texts}"
        detectors = ["mahalanobis", "energy", "line"]
        [classifier]
        model = "hf:{texts / "model"}"
        [fit]
        data = "train.csv,text=text,label=intent"
        [test]
        data = "val.csv"
        [[ood]]
        data = "ood.csv"
        name = "ood"
        """
    )
    words = ("bench", tmp_path / "bench.toml", "-o", tmp_path / "run", "--cache", tmp_path / "cache")
    first, again = printed(capsys, *words), printed(capsys, *words)
    assert [s["cached"] for s in first["sets"]] == [False] * 3
    assert [s["cached"] for s in again["sets"]] == [True] * 3
    assert [s["samples"] for s in first["sets"]] == [105, 105, 21]
    assert first["preprocessing"]["tokenizer"] == "TokenizersBackend"
    table = printed(capsys, "evaluate", fitted, "--id", texts / "val.csv", "--ood", texts / "ood.csv")
    assert read_run(tmp_path / "run").table().to_dict()["rows"] == table["rows"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--data", "{0}/train.csv", "--text-column", "query"), "has no column 'query'"),
        (("--data", "{0}/train.csv", "--label-column", "class"), "has no column 'class'"),
        (("--data", "{0}/model"), "there is no Parquet file"),
        (("--data", "{0}/train.csv", "--preprocessing", '{{"resize": 8}}'), "is a model of texts"),
    ],
)
def test_what_does_not_fit_is_said(words, message, texts, tmp_path, capsys):
    words = [word.format(texts) for word in words]
    assert run("fit", "--model", f"hf:{texts / 'model'}", *words, "-o", tmp_path / "g.safetensors") == 1
    assert message in capsys.readouterr().err


def test_preprocessing_of_images_and_graphs_are_not_for_texts(fitted, texts, tmp_path, capsys):
    assert run("score", fitted, texts / "ood.csv", "-o", tmp_path / "a.csv", "--preprocessing", '{"resize": 8}') == 1
    assert "--preprocessing is for images, and the guard file is for texts" in capsys.readouterr().err
    assert run("export", fitted, "-o", tmp_path / "a.onnx") == 1
    assert "is for texts, and `oodline export` writes graphs of images or tensors" in capsys.readouterr().err
