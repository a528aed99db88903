"""`oodline watch --answer`: token scores of several answers at a time."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import oodline as ol
from oodline.cli import main
from oodline.guard.artifact import Artifact, write_artifact
from oodline.model.head import HeadInfo
from oodline.scoring.calibration import calibrate
from oodline.testing import toy_problem


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    classifier, _ = toy_problem()
    calibration = {"energy": calibrate(torch.randn(300, generator=torch.Generator().manual_seed(0)), 0.05)}
    head = HeadInfo.of(classifier.head)
    for name, rows in (("guard", "tokens,judged=running,window=2"), ("mean", "tokens"), ("plain", None)):
        artifact = Artifact({"energy": ol.Energy()}, head, calibration, rows=rows)
        write_artifact(artifact, tmp_path / f"{name}.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str, guard: str = "guard") -> Any:
    with pytest.raises(SystemExit) as stop:
        main(["watch", *arguments, "--guard", f"{guard}.safetensors"])
    return stop.value.code


ROWS = [
    {"answer": "a", "score": 0.5},
    {"answer": "b", "score": 0.5},
    {"answer": "a", "score": -4.0},
    {"answer": "b", "score": 0.7, "end": True},
    {"answer": "a", "score": -4.5},
    {"answer": "a", "score": -5.0},
    {"answer": "c", "score": 0.25},
]


def write(path: str, rows: list[dict[str, Any]]) -> None:
    if path.endswith(".csv"):
        with Path(path).open("w", newline="") as file:
            writer = csv.DictWriter(file, ["answer", "score", "end"])
            writer.writeheader()
            writer.writerows(rows)
    else:
        Path(path).write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def test_an_answer_that_turns_odd_is_named_when_it_does(place: Path, capsys: Any, monkeypatch: Any) -> None:
    outputs = []
    for source in ("tokens.jsonl", "tokens.csv"):
        write(source, ROWS)
        assert run(source, "--answer", "answer") == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    stop, last = outputs[0].splitlines()
    assert stop.startswith("STOP: answer a at token 2 (score -1.75, threshold -")
    assert last.startswith("inputs 1 to 3: 33.3% flagged")  # one score per answer: of a, b and c
    monkeypatch.setattr("sys.stdin", io.StringIO(Path("tokens.jsonl").read_text()))
    assert run("-", "--answer", "answer", "--json") == 0
    stop, *_, last = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (stop["answer"], stop["stopped_at"], stop["score"]) == ("a", 2, -1.75) and 0 < stop["p_value"] < 0.05
    assert (last["seen"], last["flagged"]) == (3, 1)


def test_open_answers_go_on_from_the_state(place: Path, capsys: Any) -> None:
    write("first.jsonl", ROWS[:3])
    write("second.jsonl", [*ROWS[3:6], {"answer": "a", "score": 0.0, "end": 1}])
    kept = ("--answer", "answer", "--state", "state.json")
    assert run("first.jsonl", *kept) == 0 and "STOP" in capsys.readouterr().out
    assert run("second.jsonl", *kept) == 0
    out = capsys.readouterr().out
    assert "STOP" not in out and out.startswith("inputs 1 to 2: 50.0% flagged")  # a has been stopped before
    assert list(json.loads(Path("state.json").read_text())["answers"]["answers"]) == []
    assert run("second.jsonl", "--state", "state.json") == 1
    assert "state.json was written with --answer" in capsys.readouterr().err


def test_a_drift_of_answers_is_an_alarm(place: Path, capsys: Any) -> None:
    write("drifted.jsonl", [{"answer": i, "score": -4.0, "end": True} for i in range(60)])
    assert run("drifted.jsonl", "--answer", "answer") == 3
    assert "ALARM: scores have drifted towards OOD" in capsys.readouterr().out
    write("quiet.jsonl", [{"answer": i, "score": 0.01 * i, "end": True} for i in range(60)])
    assert run("quiet.jsonl", "--answer", "answer", "--state", "state.json") == 0
    assert run("quiet.jsonl", "--answer", "answer", "--state", "state.json") == 1
    assert "quiet.jsonl has been watched before" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("guard", "row", "sentence"),
    [
        ("plain", {"answer": "a", "score": 1}, "`--answer` is for a guard of tokens"),
        ("mean", {"answer": "a", "score": 1}, "which only fall while an answer goes on"),
        ("guard", {"score": 1}, "row 1 has no answer as 'answer'"),
        ("guard", {"answer": "a"}, "row 1 has no finite number as 'score'"),
        ("guard", {"answer": "a", "score": "high"}, "row 1 has no finite number as 'score'"),
    ],
)
def test_bad_input_is_one_sentence(place: Path, capsys: Any, guard: str, row: dict[str, Any], sentence: str) -> None:
    write("bad.jsonl", [row])
    assert run("bad.jsonl", "--answer", "answer", guard=guard) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert sentence in line
