"""A benchmark file to edit: it can be read as it is, holds what was given, and is never written over another."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from oodline.cli import main
from oodline.errors import DataError, SettingError
from oodline.evaluation.protocol import read_protocol
from oodline.evaluation.template import EDIT, write_template


def run(*arguments, code=0):
    with pytest.raises(SystemExit) as stop:
        main(["bench", *arguments])
    assert (stop.value.code or 0) == code


def test_nothing_given_gives_an_example_that_can_be_read(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run("--init")
    assert "wrote benchmark.toml. Edit it, then: oodline bench benchmark.toml" in capsys.readouterr().out
    text = Path("benchmark.toml").read_text()
    protocol = read_protocol("benchmark.toml")
    assert protocol.name == "benchmark" and protocol.classifier.model == "timm:resnet50"
    assert [(role, name) for role, name, _ in protocol.sets()] == [
        ("fit", "train"), ("id", "test"), ("ood", "near"), ("ood", "far"),
    ]  # fmt: skip
    assert text.count(EDIT) == 5


def test_what_the_comments_offer_can_be_used(tmp_path):
    path = write_template(tmp_path / "x.toml")
    path.write_text(re.sub(r"^# (?=\w+ = |\[)", "", path.read_text(), flags=re.MULTILINE))
    protocol = read_protocol(path)
    assert (protocol.limit, protocol.on_error, protocol.classifier.head) == (1000, "skip", "fc")
    assert [role for role, _, _ in protocol.sets()] == ["fit", "calibration", "id", "csid", "ood", "ood"]


def test_what_is_given_goes_in_with_paths_from_the_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("train", "held_out", "bench", "ood/a", "ood/b"):
        Path(name).mkdir(parents=True)
    Path("m.py").touch()
    run(
        "bench/mine.toml", "--init", "--model", "python:m.py:build", "--fit", "train", "--test", "torchvision:CIFAR10",
        "--calibrate", "held_out", "--near", "ood/a", "--near", "ood/b",
        "--ood", "torchvision:SVHN,root=d", "-d", "knn,k=5",
        "--limit", "9", "--batch-size", "3",
    )  # fmt: skip
    protocol = read_protocol("bench/mine.toml", model="timm:resnet18")
    found = {name: (role, part.data, getattr(part, "group", None)) for role, name, part in protocol.sets()}
    assert (Path(found["b"][1]).resolve(), found["b"][2], found["SVHN"][2]) == (tmp_path / "ood" / "b", "near", None)
    assert Path(protocol.fit.data).resolve() == tmp_path / "train"
    assert (protocol.detectors, protocol.limit, protocol.batch_size) == (("knn,k=5",), 9, 3)
    text, said = Path("bench/mine.toml").read_text(), "oodline bench bench/mine.toml --model python:m.py:build\n"
    assert EDIT not in text and text.splitlines(keepends=True)[0].endswith(f"Run it with: {said}")
    assert capsys.readouterr().out.endswith(f"Edit it, then: {said}")


def test_sets_of_one_stem_are_told_apart_by_their_folders_or_by_a_name(tmp_path):
    ood = {"near": ["a/noise", "b/noise", "cifar100/test.parquet"], "far": ["mine=c/noise", "my (odd) set", "x/val"]}
    path = write_template(tmp_path / "x.toml", fit="cifar10/train", test="cifar10/test.parquet", ood=ood)
    protocol = read_protocol(path)
    assert [name for _, name, _ in protocol.sets()] == [
        "train", "cifar10-test", "a-noise", "b-noise", "cifar100-test", "mine", "my _odd_ set", "x-val",
    ]  # fmt: skip
    assert Path(protocol.ood[3].data) == tmp_path / "c" / "noise"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ood": {"": ["noise", "noise"]}}, "two data sets are called 'noise'"),
        ({"fit": "a\nb"}, r"must be text without control characters; got 'a\\nb'"),
        ({"test": "a\x7fb"}, "control characters"),
        ({"test": "hf:x,trust_remote_code=true"}, "would run code"),
        ({"ood": {"": ["(=a"]}}, "must be"),
        ({"limit": -1}, "limit"),
    ],
)
def test_what_the_benchmark_would_refuse_is_not_written(tmp_path, given, message):
    with pytest.raises(SettingError, match=message):
        write_template(tmp_path / "x.toml", **given)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_there_is_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text("mine")
    run("mine.toml", "--init", code=1)
    assert "mine.toml is there already, and is not overwritten" in capsys.readouterr().err
    assert Path("mine.toml").read_text() == "mine"
    run(code=1)
    assert "oodline bench --init mine.toml" in capsys.readouterr().err
    run("mine.toml", "--near", "x", code=1)
    assert "`--near` is for --init" in capsys.readouterr().err
    with pytest.raises(DataError, match="there is no folder"):
        write_template(tmp_path / "none" / "x.toml")
