"""`oodline tune` end to end: what it prints, what it writes about the data it touched, and what it refuses."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from oodline.cli import main

FACTORY = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 24, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 3))
    with torch.no_grad():
        model[0].weight.add_(2 * torch.eye(3).repeat(8, 1)[:, :, None, None])
        model[4].weight.add_(torch.eye(3).repeat(1, 8))
    model.preprocessing = {"resize": 8, "crop": 8, "mean": [0.5] * 3, "std": [0.25] * 3}
    return model
"""
MODEL = ["--model", "python:models.py:build"]
TUNE = ["tune", *MODEL, "--data", "train.parquet", "--held-out", "val"]


def coloured(random: np.random.Generator, label: int) -> Image.Image:
    pixels = random.integers(0, 60, (10, 10, 3))
    pixels[..., label] += 150
    return Image.fromarray(pixels.astype("uint8"))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with a model factory, labelled images in Parquet, and others in class folders."""
    random = np.random.default_rng(0)
    rows = []
    for i in range(36):
        content = io.BytesIO()
        coloured(random, i % 3).save(content, "png")
        rows.append({"image": {"bytes": content.getvalue(), "path": None}, "label": i % 3})
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    for label, name in enumerate(("a-red", "b-green", "c-blue")):
        (tmp_path / "val" / name).mkdir(parents=True)
        for i in range(10):
            coloured(random, label).save(tmp_path / "val" / name / f"{i}.png")
    (tmp_path / "models.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> None:
    try:
        main(list(arguments))
    except SystemExit as stop:
        assert stop.code in (0, None)


def test_the_chosen_reference_is_one_that_fit_takes(place, capsys):
    run(*TUNE, "-o", "settings.json")
    out = capsys.readouterr().out
    assert "96 candidates" in out
    assert "from 36 training and 30 held-out images, and no OOD image" in out
    reference = out.partition("chosen: --detector ")[2].split()[0]
    document = json.loads(Path("settings.json").read_text())
    assert document["detector"] == reference
    run("fit", *MODEL, "--data", "train.parquet", "-d", reference, "-o", "guard.safetensors", "--json")
    assert json.loads(capsys.readouterr().out)["detectors"] == ["line"]


def test_the_file_says_which_data_was_touched(place, capsys):
    run(*TUNE, "-d", "react", "-o", "settings.json", "--json")
    document = json.loads(Path("settings.json").read_text())
    assert json.loads(capsys.readouterr().out) == document
    data = document["data"]
    assert data["ood"] == []
    assert data["fit"]["files"] == {"train.parquet": hashlib.sha256(Path("train.parquet").read_bytes()).hexdigest()}
    assert (data["fit"]["source"], data["fit"]["samples"]) == ("train.parquet", 36)
    assert (data["held_out"]["source"], data["held_out"]["samples"], data["held_out"]["files"]) == ("val", 30, {})
    assert len(data["held_out"]["sha256"]) == 64 != data["fit"]["sha256"]
    best = max(c["criterion"] for c in document["candidates"] if not c["failure"])
    assert document["criterion"] == best
    assert next(c["settings"] for c in document["candidates"] if c["criterion"] == best) == document["settings"]


def test_folders_sorted_by_class_are_sampled_from_all_of_them(place, capsys):
    run(*TUNE, "-d", "react", "--held-out-limit", "12", "--json")
    assert json.loads(capsys.readouterr().out)["data"]["held_out"]["samples"] == 12


def test_a_chosen_share_of_0_is_said_to_turn_pruning_off(place, capsys):
    run(*TUNE, "-d", "dice,p=0.0", "--try", "p=0")
    printed = capsys.readouterr().out
    assert "p=0 turns this pruning of DICE off: no larger share that was tried did better here." in printed


def test_values_to_try_may_be_named(place, capsys):
    run(*TUNE, "-d", "line,p_w=0.2", "--try", "clip=90%,1.5", "--try", "p_a=0.1,.5", "--try", "p_w=0.2", "--json")
    tried = [c["settings"] for c in json.loads(capsys.readouterr().out)["candidates"]]
    assert {"p_a": 0.5, "p_w": 0.2, "clip": "90%"} in tried
    assert len(tried) == 5  # two by two, and what was given


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["-d", "msp"], "MSP declares no setting to tune. Choose another detector."),
        (
            ["-d", "energy"],
            "to tune. Name values with `--try`, such as --try temperature=1,2",
        ),
        (["--held-out", "train.parquet"], "36 of 36 held-out samples are among the fit data"),
        (["--held-out", "val/a-red"], "held-out samples for one class"),
        (["--try", "p_a"], "`--try` must be a setting and its values, such as p_a=0.1,0.5,0.9; got p_a."),
        (["--try", "p_b=1"], "unknown setting of LINe 'p_b'"),
        (["-o", "nowhere/settings.json"], "there is no folder nowhere"),
        (["--held-out", "absent"], "no file or folder absent"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_cannot_work_is_an_error_that_says_so(place, capsys, change, message):
    arguments = [a for a in TUNE if change[0] != "--held-out" or a not in ("--held-out", "val")]
    with pytest.raises(SystemExit) as stop:
        main([*arguments, *change])
    assert stop.value.code == 1
    assert message in capsys.readouterr().err
    assert not list(place.glob("*.json"))
