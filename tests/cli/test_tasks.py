"""Multi-label and zero-shot classifiers on the command line: the guard file remembers the task, and holds the words."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from pyarrow import parquet

import oodline as ol
from oodline.cli import main
from oodline.testing import toy_problem

CLASSIFIER, [(INPUTS, LABELS)] = toy_problem()
FEATURES = CLASSIFIER(INPUTS).features
MORE = CLASSIFIER(toy_problem(seed=1)[1][0][0]).features
FIT = ("fit", "--model", "features:head.npz", "--data", "train.npz", "--calibrate", "held.npy", "-o", "g.safetensors")


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sets = torch.nn.functional.one_hot(LABELS, 3).numpy()
    np.savez("train.npz", features=FEATURES.numpy(), labels=sets)
    np.save("held.npy", MORE.numpy())
    np.savez("head.npz", W=CLASSIFIER.head.weight.numpy(), b=CLASSIFIER.head.bias.numpy())
    return tmp_path


def run(*arguments, code=0):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(SystemExit) as stop:
            main(arguments)
    assert stop.value.code == code


def test_multilabel_is_said_once(place, capsys):
    run(*FIT, "--task", "multilabel", "--json")
    assert json.loads(capsys.readouterr().out)["detectors"] == ["joint-energy"]
    run("score", "g.safetensors", "held.npy", "-o", "rows.parquet")
    logits = CLASSIFIER.head(MORE)
    expected = [" ".join(map(str, row.nonzero().flatten().tolist())) for row in logits > 0]
    assert parquet.read_table("rows.parquet").column("labels").to_pylist() == expected
    capsys.readouterr()
    run("score", "g.safetensors", "held.npy", "--task", "multiclass", "-o", "rows.parquet", code=1)
    assert "fitted on a multilabel classifier, and the one given is multiclass" in capsys.readouterr().err


def test_a_method_of_one_class_says_what_to_take(place, capsys):
    run(*FIT, "--task", "multilabel", "-d", "msp", code=1)
    assert "MSP supposes one class per sample" in " ".join(capsys.readouterr().err.split())


def test_the_file_of_words_is_needed_once(place):
    words = np.random.default_rng(0).normal(size=(30, FEATURES.shape[1]))
    np.save("words.npy", words)
    np.savez("train.npz", features=FEATURES.numpy())
    run(*FIT, "-d", "neglabel,words=words.npy,temperature=0.1", "-d", "mcm")
    (place / "words.npy").unlink()
    run("score", "g.safetensors", "held.npy", "-o", "rows.parquet")
    detector = ol.NegLabel(words=words, temperature=0.1).fit(CLASSIFIER)
    expected = detector(ol.from_features(MORE, head=CLASSIFIER.head)[0](MORE))
    rows = parquet.read_table("rows.parquet")
    np.testing.assert_allclose(rows.column("score").to_numpy(), expected.numpy(), rtol=1e-5)
    assert rows.column_names[-1] == "score_mcm"
