"""`oodline evaluate`: groups, full spectrum, intervals, conventions, and the files that it writes."""

import json

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from oodline.cli import main

FACTORY = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3))
    model.preprocessing = {"resize": 8, "crop": 8, "mean": [0.5] * 3, "std": [0.25] * 3}
    return model
"""
MODEL = ["--model", "python:models.py:build"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a fitted file, images of three colours, paler ones, and three kinds of noise."""
    random = np.random.default_rng(0)

    def save(path, pixels):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype("uint8")).save(path)

    for label, name in enumerate(("red", "green", "blue")):
        for i in range(8):
            pixels = random.integers(0, 60, (10, 10, 3))
            pixels[..., label] += 150
            save(tmp_path / "id" / name / f"{i}.png", pixels)
            save(tmp_path / "pale" / name / f"{i}.png", pixels // 2 + 60)
    for name, top in (("dark", 40), ("grey", 128), ("noise", 255)):
        for i in range(9):
            save(tmp_path / name / f"{i}.png", random.integers(0, top, (10, 10, 3)))
    (tmp_path / "models.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    run("fit", *MODEL, "--data", "id", "-d", "energy", "-d", "msp", "-o", "g.safetensors")
    return tmp_path


def run(*arguments):
    try:
        main(list(arguments))
    except SystemExit as stop:
        assert stop.code in (0, None)


def evaluate(*arguments):
    run("evaluate", "g.safetensors", *MODEL, "--id", "id", *arguments)


def test_groups_spectrum_intervals_and_every_form_in_one_pass(place, capsys):
    files = ("t.md", "t.tex", "t.csv", "t.json", "s.parquet")
    capsys.readouterr()
    evaluate(
        "--near", "grey", "--near", "dark", "--far", "noise", "--csid", "pale", "--bootstrap", "20",
        *(part for name in files for part in ("-o", name)), "--json",
    )  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    assert found["groups"] == {"near": ["grey", "dark"], "far": ["noise"]}
    assert {row["average"] for row in found["averages"]} == {"near mean", "mean", "near pooled", "pooled"}
    assert all(row["auroc_low"] <= row["auroc"] <= row["auroc_high"] for row in found["rows"])
    full = found["full_spectrum"]
    assert {row["n_id"] for row in found["rows"]} == {24}
    assert {row["n_id"] for row in full["rows"]} == {48}
    del found["skipped"]
    assert json.loads((place / "t.json").read_text()) == found
    assert (place / "t.md").read_text().count(
        "| detector | grey (near) | dark (near) | near mean | noise (far) | mean | near pooled |"
    ) == 6
    assert (place / "t.tex").read_text().count(r"\multicolumn{3}{c}{near}") == 6
    rows = parquet.read_table(place / "s.parquet").to_pylist()
    assert {(r["set"], r["role"], r["group"]) for r in rows} == {
        ("id", "id", None), ("pale", "csid", None),
        ("grey", "ood", "near"), ("dark", "ood", "near"), ("noise", "ood", "far"),
    }  # fmt: skip
    assert len(rows) == 24 + 24 + 27


def test_printed_tables_say_how_they_count(place, capsys):
    evaluate("--ood", "noise", "--convention", "paper", "--bootstrap", "20")
    out = capsys.readouterr().out
    assert "AUROC (higher is better) [as the paper counts], %" in out
    assert out.count("[") > 6  # intervals are shown, not taken for markup


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "there is no OOD data set"),
        (("--ood", "noise", "--near", "noise"), "two data sets are called 'noise'"),
        (("--ood", "noise", "-o", "t.html"), "`--output` must end in .md, .tex, .csv, .json, .parquet; got t.html."),
        (("--ood", "noise", "-o", "t.csv", "-o", "nowhere/t.md"), "there is no folder nowhere"),
        (("--ood", "noise", "--bootstrap", "1"), "`--bootstrap` must be at least 2, or 0 for no intervals; got 1."),
        (("--ood", "noise", "--bootstrap", "9", "--seed", "-1"), "`--seed` must be at least 0; got -1."),
        (("--ood", "id=noise"), "two data sets are called 'id'"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(place, capsys, arguments, sentence):
    before = sorted(p.name for p in place.iterdir())
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "g.safetensors", *MODEL, "--id", "id", *arguments])
    assert stop.value.code == 1
    assert sentence in capsys.readouterr().err
    assert sorted(p.name for p in place.iterdir()) == before
