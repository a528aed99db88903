"""Mistakes that need no torch are found before it is imported; none ends in a traceback."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import oodline.cli
from oodline.cli import main
from oodline.evaluation.protocol import parse_protocol

FIT = ["fit", "--model", "timm:resnet18", "--data", "images", "-o", "g.safetensors"]
SCORE = ["score", "guard.safetensors", "images", "-o", "s.csv"]
EVALUATE = ["evaluate", "guard.safetensors", "--id", "images", "--ood", "far=images"]
TUNE = ["tune", "--model", "timm:resnet18", "--data", "images", "--held-out", "images"]
EXPLAIN = ["explain", "guard.safetensors", "images"]
EXPORT = ["export", "guard.safetensors", "-o", "g.onnx"]
BENCH = ["bench", "good.toml"]
WATCH = ["watch", "scores.csv", "--guard", "guard.safetensors"]


def test_names_cannot_control_the_terminal(capsys):
    with pytest.raises(SystemExit):
        main(["score", "\x1b[2J\x9b1m\u202eguard.safetensors", "images", "-o", "s.csv"])
    assert "no file \\x1b[2J\\x9b1m\\u202eguard.safetensors" in capsys.readouterr().err
    for module in Path(oodline.cli.__file__).parent.glob("*.py"):
        printed = re.findall(r"^\s+print\(", module.read_text(encoding="utf-8"), re.MULTILINE)
        assert len(printed) == (module.name == "printing.py"), f"{module.name} prints other than by `say`"


CASES = [
    *[
        ([*command[:1], none, *command[2:]], none)
        for command in (SCORE, EVALUATE, EXPLAIN, EXPORT)
        for none in ("none.safetensors", "folder", "empty.safetensors")
    ],
    *[
        ([*command, "--model", "resnet50"], "does not say where")
        for command in (FIT, SCORE, EVALUATE, TUNE, EXPLAIN, EXPORT)
    ],
    *[
        ([*command, "--weights", "none.pt"], "no weight file none.pt")
        for command in (FIT, SCORE, EVALUATE, TUNE, EXPORT)
    ],
    *[
        ([*command, "--batch-size", "0"], "`--batch-size` must be at least 1; got 0.")
        for command in (FIT, SCORE, EVALUATE, TUNE, EXPORT, BENCH)
    ],
    *[
        ([*command, "--workers", "-1"], "`--workers` must be at least 0; got -1.")
        for command in (FIT, SCORE, EVALUATE, TUNE, EXPORT, BENCH)
    ],
    *[
        ([*command, "--limit", "0"], "`--limit` must be at least 1; got 0.")
        for command in (FIT, SCORE, EVALUATE, TUNE, EXPORT, BENCH)
    ],
    *[
        ([*command, "--preprocessing", text], "--preprocessing must be")
        for command in (FIT, SCORE, TUNE)
        for text in ("none.json", "[1]", "folder", "{", "empty.safetensors", "junk.bin")
    ],
    *[([*command, "-d", "lime"], "Did you mean 'line'") for command in (FIT, TUNE, BENCH)],
    *[([*command, "-d", "msp", "-d", "msp"], "msp'") for command in (FIT, BENCH)],
    *[
        ([*command, "-o", "none/x" + ending], "there is no folder ")
        for command, ending in (
            (FIT, ".safetensors"),
            (SCORE, ".csv"),
            (EVALUATE, ".csv"),
            (TUNE, ".json"),
            (EXPLAIN, ".png"),
            (EXPORT, ".onnx"),
        )
    ],
    *[([*command, "-o", "x.html"], "`--output` must end in") for command in (SCORE, EVALUATE, EXPLAIN, EXPORT)],
    *[([*FIT, "--data", none], "there is no file or folder none") for none in ("none", "none.npz", "list:none.txt")],
    ([*FIT, "--calibrate", "none"], "there is no file or folder none"),
    ([*FIT, "--false-alarm", "5"], "`--false-alarm` must be between 0 and 1, both excluded; got 5."),
    ([*FIT, "--false-alarm", "nan"], "got nan"),
    ([*FIT, "--tpr", "1"], "`--tpr` must be between 0 and 1, both excluded; got 1."),
    ([*FIT, "--tpr", "0.9", "--false-alarm", "0.1"], "the same thing twice"),
    ([*FIT, "--neurons", "-1"], "`--neurons` must be at least 0; got -1."),
    ([*FIT, "--neuron-pictures", "5"], "Add --neurons 3."),
    ([*FIT, "--engine", "rya"], "Did you mean 'ray'"),
    ([*FIT, "--model", "python:none.py:build"], "no Python file none.py"),
    ([*FIT, "--model", "python:none"], "a file or module and a factory"),
    ([*FIT, "--model", "features:none.npz"], "no head file none.npz"),
    (["fit", "--data", "images", "-o", "g.safetensors"], "no classifier is named"),
    ([*EVALUATE, "--bootstrap", "1"], "`--bootstrap` must be at least 2, or 0 for no intervals; got 1."),
    ([*EVALUATE, "--near", "far=images"], "two data sets are called 'far'"),
    (["evaluate", "guard.safetensors", "--id", "images"], "there is no OOD data set"),
    ([*TUNE, "--held-out-limit", "1"], "`--held-out-limit` must be at least 2; got 1."),
    ([*TUNE, "--try", "p_a"], "`--try` must be a setting and its values"),
    ([*EXPLAIN, "--top", "0"], "`--top` must be at least 1; got 0."),
    ([*EXPLAIN, "--index", "-1"], "`--index` must be at least 0; got -1."),
    (["bench", "none.toml"], "none.toml cannot be read"),
    (["bench", "folder"], "folder cannot be read"),
    (["bench", "junk.bin"], "is not TOML"),
    ([*BENCH, "--cache", "c", "--no-cache"], "contradict"),
    (["watch", "none.csv", "--guard", "guard.safetensors"], "none.csv cannot be read"),
    (["watch", "scores.txt", "--guard", "guard.safetensors"], "`scores` must be a .parquet, .csv or .jsonl file"),
    (["watch", "folder", "--guard", "guard.safetensors"], "holds no .parquet"),
    (["watch", "scores.csv", "--guard", "none.safetensors"], "no file none.safetensors"),
    ([*WATCH, "--alpha", "2"], "`--alpha` must be between 0 and 1, both excluded; got 2."),
    ([*WATCH, "--window", "0"], "`--window` must be at least 1; got 0."),
    ([*WATCH, "--prometheus", "99999"], "`--prometheus` must be at most 65535; got 99999."),
    ([*WATCH, "--state", "none/state.json"], "there is no folder "),
    (["report", "none"], "there is no folder none. Pass one that `oodline bench` wrote."),
    (["report", "folder", "--images", "-1"], "`--images` must be at least 0; got -1."),
    (["report", "folder", "--tables", "t.docx"], "`--tables` must end in"),
    (["report", "folder", "--published", "cifar10"], "`--published` must be ID data and network"),
]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("images", "folder"):
        Path(folder).mkdir()
    Path("images/a.png").write_bytes(b"no picture")
    Path("empty.safetensors").touch()
    Path("guard.safetensors").write_bytes(b"junk" * 20)
    Path("junk.bin").write_bytes(b"\xff\xfe\x00" * 20)
    Path("scores.csv").write_text("score\n1.0\n")
    Path("good.toml").write_text("name = 'x'\n")
    return tmp_path


def last_of_each(arguments):
    """The arguments in which what an option was first given is left out where it is given again."""
    single = ("--model", "--data", "-o", "--guard")
    kept = []
    for i, argument in enumerate(arguments):
        before = arguments[i - 1] if i else ""
        if (argument in single and argument in arguments[i + 1 :]) or (
            before in single and before in arguments[i + 1 :]
        ):
            continue
        kept.append(argument)
    return kept


def test_cheap_errors_come_before_torch(place):
    script = """
import contextlib, io, json, sys
import oodline.cli
from oodline.cli import main
found = []
for arguments in json.load(sys.stdin):
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        try:
            main(arguments)
            code = 0
        except SystemExit as stop:
            code = stop.code
        except BaseException as error:
            code = repr(error)
    found.append([code, err.getvalue(), "torch" in sys.modules])
print(json.dumps(found))
"""
    given = json.dumps([last_of_each(arguments) for arguments, _ in CASES])
    done = subprocess.run([sys.executable, "-c", script], input=given, capture_output=True, text=True, check=True)
    wrong = [
        (arguments, sentence, answer)
        for (arguments, sentence), answer in zip(CASES, json.loads(done.stdout), strict=True)
        if answer[0] != 1 or not answer[1].startswith("error: ") or sentence not in answer[1] or answer[2]
    ]
    assert wrong == []
    assert sorted(path.name for path in place.iterdir()) == sorted(
        ["images", "folder", "empty.safetensors", "guard.safetensors", "junk.bin", "scores.csv", "good.toml"]
    )


FUZZ = [
    [*FIT, "--limit", "many"],
    [*FIT, "--false-alarm", "few"],
    [*FIT, "--by", "class"],
    [*FIT, "--on-error", "ignore"],
    [*FIT, "--nothing"],
    [*WATCH, "--window", "1.5"],
    [*EVALUATE, "--convention", "mine"],
    ["frobnicate"],
    ["fit"],
    ["score", "guard.safetensors"],
]


@pytest.mark.parametrize("arguments", FUZZ, ids=lambda arguments: " ".join(arguments[-2:]))
def test_wrong_usage_is_said_without_a_traceback(place, capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code in (1, 2)
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err + captured.out and captured.err + captured.out


@pytest.mark.parametrize(
    "arguments",
    [
        SCORE,
        EVALUATE,
        EXPLAIN,
        EXPORT,
        WATCH,
        [*FIT[:2], "torchvision:resnet18,pretrained=false", *FIT[3:], "-d", "msp", "--calibrate", "images"],
        [*FIT[:2], "features", "--data", "junk.bin", "-o", "g.safetensors", "-d", "knn"],
        ["fit", "--model", "features", "--data", "guard.safetensors", "-o", "g.safetensors", "-d", "knn"],
        ["bench", "good.toml"],
        ["report", "folder"],
    ],
    ids=lambda arguments: " ".join(arguments[:4]),
)  # fmt: skip
def test_junk_in_place_of_files_ends_in_one_sentence(place, capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert "error: " in error and "Traceback" not in error


def test_malformed_benchmarks_never_end_in_a_raw_error():
    """Every entry of a good file, replaced by values of every other kind: a sentence that names it, or accepted."""
    from oodline.errors import OodlineError

    good = tomllib.loads(
        """
        name = "x"
        detectors = ["energy"]
        tpr = 0.9
        [classifier]
        model = "timm:resnet18"
        preprocessing = {resize = 8, crop = 8}
        [fit]
        data = "train"
        [test]
        data = "test"
        limit = 3
        [[ood]]
        data = "a"
        group = "far"
        """
    )
    paths = [("name",), ("detectors",), ("detectors", 0), ("tpr",), ("classifier",), ("classifier", "model"),
             ("classifier", "preprocessing"), ("classifier", "preprocessing", "crop"), ("fit",), ("fit", "data"),
             ("test", "limit"), ("ood",), ("ood", 0), ("ood", 0, "data"), ("ood", 0, "group")]  # fmt: skip
    refused = 0
    for path in paths:
        for value in (None, True, -1, 2.5, "", "\x00", [], [1], {}, {"x": 1}, float("nan"), 10**30):
            document = json.loads(json.dumps(good))
            inside = document
            for part in path[:-1]:
                inside = inside[part]
            inside[path[-1]] = value
            try:
                parse_protocol(document, "x.toml")
            except OodlineError as error:
                refused += 1
                text = str(error)
                assert "x.toml" in text and "^" not in text and "pydantic" not in text
                assert (
                    str(path[-1] if isinstance(path[-1], str) else path[-2]) in text
                    or "unknown key" in text
                    or "lacks" in text
                )
    assert refused > 100


def test_a_guard_file_is_not_written_over_what_is_read(tmp_path, capsys):
    features = tmp_path / "features.safetensors"
    save_file({"features": torch.rand(30, 4), "labels": torch.arange(30) % 3}, features)
    before = features.read_bytes()
    for output, words in ((tmp_path / "0.png", "must end in .safetensors"), (features, "must not be a file that is")):
        with pytest.raises(SystemExit) as end:
            main(["fit", "--model", "features", "--data", str(features), "-d", "knn", "-o", str(output)])
        assert end.value.code != 0
        assert words in " ".join(capsys.readouterr().err.split())
    assert features.read_bytes() == before


def test_an_empty_name_is_no_data_set(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["fit", "--model", "features", "--data", "", "-d", "knn", "-o", str(tmp_path / "a.safetensors")])
    assert "must not be empty" in " ".join(capsys.readouterr().err.split())
