"""`oodline bench` end to end: what it writes, prints, keeps and refuses."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from oodline.cli import main
from oodline.cli.bench import print_run
from oodline.evaluation.record import WarningEntry
from oodline.evaluation.run import read_run
from oodline.testing import toy_images, toy_run

FILE = """
name = "Three colours of noise"
folder = "data"
batch_size = 4
tpr = 0.8
detectors = ["msp", "second=knn,k=3", "knn,k=40"]
[classifier]
model = "python:net.py:build"
preprocessing = {}
[fit]
name = "train"
data = "train/images"
[calibration]
name = "held-out"
data = "held-out/images"
[test]
name = "test"
data = "test/images"
[[csid]]
name = "shifted"
data = "shifted/images"
[[ood]]
name = "one"
group = "near"
data = "one/images"
[[ood]]
name = "two"
group = "far"
data = "two/images"
[[ood]]
name = "three"
group = "far"
data = "three/images"
source = "https://example.org/three"
"""

NET = """
import time
from oodline.testing import toy_network
def build(pause=0.0):
    model = toy_network()
    model[0].register_forward_hook(lambda *_: time.sleep(pause))
    return model
"""


def test_warnings_of_the_fit_stand_below_the_table(tmp_path, capsys):
    run = toy_run(tmp_path / "run")
    said = [WarningEntry(detector=None, message="wrong order"), WarningEntry(detector="knn", message="too few")]
    print_run(replace(run, record=run.record.model_copy(update={"warnings": said})))
    assert capsys.readouterr().err == "warning: wrong order\nwarning: knn: too few\n"


@pytest.fixture
def place(tmp_path, monkeypatch):
    for seed, name in enumerate(("train", "held-out", "test", "shifted", "one", "two", "three")):
        toy_images(tmp_path / "data" / name, seed=seed)
    (tmp_path / "toy.toml").write_text(FILE)
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path


COMMAND = ["bench", "toy.toml", "--model", "python:net.py:build", "--device", "cpu"]


def run(*arguments, code=0):
    try:
        main([str(a) for a in arguments])
    except SystemExit as stop:
        assert stop.code in ((0, None) if code == 0 else (code,))
    else:
        assert code == 0


def test_tables_scores_and_record(place, capsys):
    run(*COMMAND)
    out = capsys.readouterr().out
    for sentence in (
        "Three colours of noise: python:net.py:build, 2 detectors",
        "AUROC (higher is better), %",
        "FPR@95TPR, ID positive",
        "FPR@95TPR, OOD positive",
        "Full spectrum: covariate-shifted ID data counts as ID",
        "left out knn: KNN(k=40) needs at least 40 training samples; 12 were seen",
        "wrote runs/toy",
    ):
        assert sentence in out
    assert all(word in out for word in ("(near)", "(far)", "mean", "pooled"))
    found = read_run("runs/toy")
    table = found.table()
    far = (table.value("msp", "auroc", "two") + table.value("msp", "auroc", "three")) / 2
    assert f"{100 * far:.2f}" in out
    assert f"{100 * far:.2f}" in Path("runs/toy/table.md").read_text()
    assert found.groups == {"near": ["one"], "far": ["two", "three"]}
    assert set(found.scores("held-out")) == {"msp", "second"}
    assert len(found.record.metrics) == 2 * 2 * 3
    with Path("runs/toy/table.csv").open() as file:
        assert {row["ood"] for row in csv.DictReader(file)} == {"one", "two", "three"}


def test_json_is_all_that_is_printed_and_a_second_run_computes_nothing(place, capsys):
    documents = []
    for number in range(2):
        run(*COMMAND, "--json", "-o", f"run{number}")
        documents.append(json.loads(capsys.readouterr().out))
    first, second = documents
    assert [s["cached"] for s in first["sets"]] == [False] * 7
    assert [s["cached"] for s in second["sets"]] == [True] * 7
    assert first["metrics"] == second["metrics"]
    assert first["failures"].keys() == {"knn"}
    assert second["output"] == "run1"
    assert (place / "home" / "oodline" / "activations").is_dir()


def test_no_cache_leaves_nothing_and_another_place_is_taken(place, capsys):
    run(*COMMAND, "--no-cache")
    assert not (place / "home").exists() and "earlier run" not in capsys.readouterr().out
    run(*COMMAND, "--cache", "mine")
    assert "wrote runs/toy, in place of the earlier run there" in capsys.readouterr().out
    assert (place / "mine" / "activations").is_dir()
    assert not (place / "home").exists()
    run(*COMMAND, "--cache", "mine", "--no-cache", code=1)
    assert "--cache and --no-cache contradict each other" in capsys.readouterr().err


def test_the_command_line_overrides_the_file(place, capsys):
    run(*COMMAND, "-d", "energy", "-d", "third=knn,k=2", "--limit", 6, "--batch-size", 3, "--json")
    record = json.loads(capsys.readouterr().out)
    assert list(record["detectors"]) == ["energy", "third"]
    assert {s["samples"] for s in record["sets"]} == {6}
    assert record["batch_size"] == 3
    (place / "elsewhere").mkdir()
    (place / "data").rename(place / "elsewhere" / "data")
    run(*COMMAND, "--data", "elsewhere/data", "--limit", 6, "-d", "energy", "--json")
    record = json.loads(capsys.readouterr().out)
    assert record["sets"][0]["spec"] == str(place / "elsewhere" / "data" / "train" / "images")


def test_missing_sets_can_be_done_without(place, capsys):
    (place / "data" / "three").rename(place / "gone")
    run(*COMMAND, code=1)
    error = capsys.readouterr().err
    assert "error: 1 of 7 data sets cannot be opened" in error
    assert "Get it: https://example.org/three" in error
    assert "--skip-missing" in error
    assert not (place / "runs").exists()
    run(*COMMAND, "--skip-missing")
    assert "without three: there is no file or folder" in capsys.readouterr().out
    assert read_run("runs/toy").sets("ood") == ["one", "two"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["bench", "toy.toml"],
            "a file may not say which code to run. If you trust it, name it yourself: --model python",
        ),
        (["bench", "no.toml"], "no.toml cannot be read"),
        ([*COMMAND, "-d", "lime"], "Did you mean 'line'"),
        ([*COMMAND, "-d", "msp", "-d", "msp"], "two detectors are called 'msp'"),
        ([*COMMAND, "--limit", "0"], "`--limit` must be at least 1; got 0."),
        ([*COMMAND, "-o", "data"], "other things in it"),
        ([*COMMAND[:2], "--model", "python:net.py:built"], "Did you mean 'build'"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(place, capsys, arguments, sentence):
    run(*arguments, code=1)
    error = capsys.readouterr().err
    assert sentence in error
    assert error.startswith("error: ")
    assert "Traceback" not in error
    assert sorted(p.name for p in place.iterdir() if p.name != "__pycache__") == ["data", "net.py", "toy.toml"]


def test_a_killed_benchmark_goes_on_where_it_was(place, capsys):
    slow = [sys.executable, "-m", "oodline", *COMMAND[:3], "python:net.py:build,pause=0.25", "--device", "cpu"]
    process = subprocess.Popen(slow, stderr=subprocess.DEVNULL)
    done: list[Path] = []
    for _ in range(900):
        time.sleep(0.05)
        done = list((place / "home").rglob("0*.safetensors"))
        if len(done) >= 3:
            break
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 3 <= len(done) < 7
    assert not (place / "runs").exists()
    run(*COMMAND, "--json")
    sets = json.loads(capsys.readouterr().out)["sets"]
    cached = [s["cached"] for s in sets]
    assert cached == sorted(cached, reverse=True)
    assert len(done) <= sum(cached) < 7
    run(*COMMAND, "--no-cache", "-o", "plain")
    assert read_run("runs/toy").record.metrics == read_run("plain").record.metrics
    assert [p.name for p in Path("runs").iterdir()] == ["toy"]
