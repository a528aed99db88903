"""`oodline doctor` prints what `oodline.doctor` finds, and the commands to type next, which parse."""

from __future__ import annotations

import json
import shlex

import pytest

from oodline.cli import app, main
from oodline.testing import toy_images

NETWORK = """
from torch import nn
from oodline.testing import toy_network

def build():
    model = toy_network()
    model.preprocessing = {"resize": 8, "crop": 8}
    model.class_names = ["0", "1", "2"]
    return model

def unsaid():
    return toy_network()

def headless():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    toy_images(tmp_path, count=30)
    (tmp_path / "net.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)


def run(*arguments, code=0):
    with pytest.raises(SystemExit) as stop:
        main(["doctor", *arguments])
    assert (stop.value.code or 0) == code


def test_it_shows_the_model_and_what_to_type_next(place, capsys):
    run("python:net.py:build", "--data", "images", "--head", "4", "--json", "--false-alarm", "0.1")
    found = json.loads(capsys.readouterr().out)
    assert (found["head"]["name"], found["head"]["classes"], found["head"]["features"]) == ("4", 3, 16)
    assert found["preprocessing"].endswith("as the model states it") and found["class_names"] == ["0", "1", "2"]
    assert found["backbone"]["samples"] == 30 and found["fits"]
    fit, score = map(shlex.split, found["next"])
    _, bound, _ = app.parse_args(fit[1:], exit_on_error=False, print_error=False)
    assert (bound.arguments["model"].head, bound.arguments["data"]) == ("4", "images")
    assert bound.arguments["false_alarm"] == 0.1
    app.parse_args(score[1:], exit_on_error=False, print_error=False)
    assert "python:net.py:build" in score


def test_a_model_alone_is_examined_by_noise_of_its_size(place, capsys, monkeypatch):
    monkeypatch.setenv("OODLINE_MODEL", "python:net.py:build")
    run()
    text = " ".join(capsys.readouterr().out.split())
    assert "3 classes x 16 features; found: W f + b are the logits" in text
    assert "features: not looked at: no data was given" in text and "next: oodline fit --model python:net.py" in text


@pytest.mark.filterwarnings("ignore:python.net.py.unsaid states no preprocessing")
def test_where_nothing_says_how_images_are_prepared_the_next_command_asks_for_it(place, capsys):
    run("python:net.py:unsaid", "--data", "images", "--json")
    found = json.loads(capsys.readouterr().out)
    fit, score = map(shlex.split, found["next"])
    assert fit[fit.index("--preprocessing") + 1] == '{"resize": ..., "crop": ..., "mean": [...], "std": [...]}'
    assert "--preprocessing" not in score
    assert len(found["class_names"]) == 3, "those of the folders"
    assert not any("order of the classes" in text for text in found["warnings"])


def test_only_a_model_that_cannot_be_used_ends_in_an_error(place, capsys):
    run("python:net.py:headless", code=1)
    assert capsys.readouterr().err.startswith("error: ")
    run(code=1)
    assert "no classifier is named" in capsys.readouterr().err
