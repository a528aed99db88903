"""`oodline methods`: one line per detector, all of one, and a suggestion for a name that is misspelt."""

from __future__ import annotations

import json

import pytest

import oodline as ol
from oodline.cli import main
from oodline.detectors.catalog import CATALOG


def run(*arguments, code=0):
    with pytest.raises(SystemExit) as stop:
        main(["methods", *arguments])
    assert (stop.value.code or 0) == code


def test_the_list_has_one_line_per_method(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "90")
    run()
    lines = capsys.readouterr().out.splitlines()
    methods = [line.split() for line in lines if line.startswith("  ")]
    assert sorted(words[0] for words in methods) == sorted(CATALOG)
    assert next(words[1:3] for words in methods if words[0] == "line") == ["CVPR", "2023"]
    assert max(map(len, lines)) <= 90
    assert lines.index("logits") < next(i for i, line in enumerate(lines) if line.startswith("  energy "))


def test_one_method_is_shown_as_python_shows_it(capsys):
    run("energy")
    assert capsys.readouterr().out.strip() == str(ol.describe_method("energy"))


def test_json_of_all_and_of_one_agree(capsys):
    run("--json")
    listed = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    run("line", "--json")
    assert json.loads(capsys.readouterr().out) == listed["line"]
    assert listed["line"]["venue"] == "CVPR 2023"
    assert listed["line"]["settings"]["p_w"]["default"] == 0.1
    assert listed["line"]["presets"]["cifar10-densenet100"]["p_a"] == 0.9


def test_a_misspelt_name_suggests_another(capsys):
    run("enregy", code=1)
    assert "Did you mean 'energy'?" in capsys.readouterr().err
    run("energy", "--markdown", code=1)
    assert "Leave out the name" in capsys.readouterr().err
