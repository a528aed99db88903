"""`oodline watch` on files and on a stream: what it prints, how it exits, what it remembers."""

import io
import json
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pyarrow as pa
import pytest
import torch
from pyarrow import csv, parquet

import oodline as ol
from oodline.cli import main
from oodline.guard.artifact import Artifact, read_artifact, write_artifact
from oodline.model.head import HeadInfo
from oodline.scoring.calibration import calibrate
from oodline.scoring.class_calibration import calibrate_by_class
from oodline.testing import toy_problem


def write_columns(columns, path):
    if path.suffix == ".jsonl":
        rows = pa.table(columns).to_pylist()
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    else:
        (csv.write_csv if path.suffix == ".csv" else parquet.write_table)(pa.table(columns), path)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A guard's file with a calibration, and scores with a change at 1,000."""
    classifier, _ = toy_problem()
    detectors = {"energy": ol.Energy(), "msp": ol.MSP(), "max-logit": ol.MaxLogit()}
    held_out, predicted = torch.randn(300), torch.arange(300) % 3
    calibrations = {"energy": calibrate(held_out), "msp": calibrate_by_class(held_out, predicted, 3)}
    write_artifact(Artifact(detectors, HeadInfo.of(classifier.head), calibrations), tmp_path / "guard.safetensors")
    scores = torch.randn(1200)
    columns = {"label": [0] * 1200, "score_msp": scores.tolist()}
    scores[1000:] -= 4
    for suffix in ("parquet", "csv", "jsonl"):
        write_columns(columns | {"score": scores.tolist()}, tmp_path / f"scores.{suffix}")
    write_columns({"score": scores[:1000].tolist()}, tmp_path / "quiet.csv")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments):
    with pytest.raises(SystemExit) as stop:
        main(["watch", *arguments, "--guard", "guard.safetensors"])
    return stop.value.code


def test_windows_and_the_alarm_are_printed_whatever_the_format(place, capsys, monkeypatch):
    outputs = []
    for suffix in ("parquet", "csv", "jsonl"):
        assert run(f"scores.{suffix}") == 3
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] == outputs[2]
    lines = outputs[0].splitlines()
    assert lines[0].startswith("inputs 1 to 500: ") and "promised 0.05); evidence of drift" in lines[0]
    assert lines[1].startswith("inputs 501 to 1000: ")
    assert lines[2].startswith("inputs 701 to 1200: ")
    assert lines[3].startswith("ALARM: scores have drifted towards OOD (at input 10")
    assert len(lines) == 4
    monkeypatch.setattr("sys.stdin", io.StringIO(Path("scores.jsonl").read_text()))
    assert run("-", "--json") == 3
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["seen"] for row in rows if row["alarm_at"] is None] == [500, 1000]
    assert rows[2]["seen"] == rows[2]["alarm_at"]  # a stream's alarm does not wait for the window
    assert f"(at input {rows[2]['alarm_at']})" in lines[3]


def test_without_a_drift_it_exits_with_0(place, capsys):
    assert run("quiet.csv") == 0
    assert run("scores.parquet", "--detector", "msp") == 0
    assert "ALARM" not in capsys.readouterr().out


def test_it_goes_on_from_its_state(place, capsys):
    lines = Path("scores.jsonl").read_text().splitlines(keepends=True)
    Path("first.jsonl").write_text("".join(lines[:700]))
    Path("second.jsonl").write_text("".join(lines[700:]))
    assert run("first.jsonl", "--state", "state.json", "--window", "300") == 0
    assert run("second.jsonl", "--state", "state.json") == 3
    resumed = capsys.readouterr().out.splitlines()
    assert run("scores.jsonl", "--window", "300") == 3
    assert [line for line in capsys.readouterr().out.splitlines() if line not in resumed] == []
    assert run("second.jsonl", "--state", "state.json", "--window", "200") == 1
    assert "`--window` must be 300, as in state.json; got 200." in capsys.readouterr().err


def test_a_live_stream_is_answered_as_it_comes_and_shown_to_prometheus(place):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "oodline", "watch", "-", "--guard", "guard.safetensors", "--window", "20"]
    command += ["--prometheus", str(port), "--state", "state.json"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        for _ in range(20):
            process.stdin.write("0.5\n")
        process.stdin.flush()
        assert process.stdout.readline().startswith("inputs 1 to 20: 0.0% flagged")
        page = urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
        assert "oodline_drift_inputs_total 20.0" in page
        for _ in range(3):
            process.stdin.write('{"score": 0.1}\n')
        process.stdin.close()
        assert process.stdout.readline().startswith("inputs 4 to 23: ")
        assert process.wait(timeout=30) == 0
    assert json.loads(Path("state.json").read_text())["seen"] == 23


def test_an_alarm_is_said_once_and_then_stands(place, capsys):
    scores = torch.cat([torch.randn(200), torch.randn(400) - 5])
    write_columns({"score": scores.tolist()}, Path("drifted.csv"))
    assert run("drifted.csv", "--window", "100", "--state", "state.json") == 3
    out = capsys.readouterr().out
    assert out.count("ALARM") == 1
    lines = [line for line in out.splitlines() if not line.startswith("ALARM")]
    at = json.loads(Path("state.json").read_text())["alarm_at"]
    assert 200 < at <= 300
    standing = [line.endswith(f"; drifting since the alarm at input {at}") for line in lines]
    assert standing == [False, False, False, True, True, True]  # the third is followed by the alarm itself
    # a later run goes on from there: it still drifts, and says so quietly
    write_columns({"score": (torch.randn(100) - 5).tolist()}, Path("next.csv"))
    assert run("next.csv", "--state", "state.json") == 3
    out = capsys.readouterr().out
    assert "ALARM" not in out and f"drifting since the alarm at input {at}" in out
    write_columns({"score": (torch.randn(100) - 5).tolist()}, Path("third.csv"))
    assert run("third.csv", "--state", "state.json", "--json") == 3
    assert {json.loads(line)["alarm_at"] for line in capsys.readouterr().out.splitlines()} == {at}


def test_the_csv_that_score_writes_is_read_from_a_file_and_from_a_pipe(place, capsys, monkeypatch):
    threshold = read_artifact("guard.safetensors").calibrations["energy"].threshold
    text = (
        '"name","index","label","class_name","score","p_value","threshold","is_ood"\n'
        f'"a,b.png",0,2.0,"cat, small",-1.5,0.2,{threshold},false\n'
        '"c.png",1,,,2.5e-1,,,\n'
    )
    Path("written.csv").write_text(text)
    Path("excel.CSV").write_bytes(b"\xef\xbb\xbf" + text.encode())
    outputs = []
    for source in ("written.csv", "excel.CSV", "-"):
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        assert run(source) == 0
        outputs.append(capsys.readouterr().out.splitlines()[-1])
    assert outputs[0] == outputs[1] == outputs[2]
    assert outputs[0].startswith("inputs 1 to 2: ")


def test_a_folder_of_parquet_files_is_read_in_the_order_of_their_names(place, capsys):
    assert run("scores.parquet") == 3
    expected = capsys.readouterr().out
    Path("rows").mkdir()
    table = parquet.read_table("scores.parquet")
    parquet.write_table(table.slice(700), "rows/part-000000000700.parquet")
    parquet.write_table(table.slice(0, 700), "rows/part-000000000000.parquet")
    assert run("rows") == 3
    assert capsys.readouterr().out == expected


def test_the_same_scores_fed_again_are_noticed_whatever_the_file(place, capsys):
    assert run("quiet.csv", "--state", "state.json") == 0
    before = Path("state.json").read_text()
    scores = [float(row) for row in Path("quiet.csv").read_text().split()[1:]]
    write_columns({"score": scores}, Path("renamed.jsonl"))
    write_columns({"score": [*scores, 0.25, 0.5]}, Path("grown.csv"))
    for again in ("quiet.csv", "renamed.jsonl", "grown.csv"):
        assert run(again, "--state", "state.json") == 1
        error = capsys.readouterr().err
        assert f"{again} has been watched before: its first 1,000 scores are those of quiet.csv" in error
        assert "--again" in error
    assert Path("state.json").read_text() == before
    write_columns({"score": scores[::-1]}, Path("new.csv"))
    assert run("new.csv", "--state", "state.json") == 0
    assert run("quiet.csv", "--state", "state.json", "--again") == 0
    state = json.loads(Path("state.json").read_text())
    assert state["seen"] == 3000
    assert [(s["name"], s["count"]) for s in state["sources"]] == [
        ("quiet.csv", 1000),
        ("new.csv", 1000),
        ("quiet.csv", 1000),
    ]
    # a state of before this was remembered is read, and without one nothing is refused
    del state["sources"]
    Path("old.json").write_text(json.dumps(state))
    assert run("quiet.csv", "--state", "old.json") == 0
    assert run("quiet.csv") == 0 and run("quiet.csv") == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere.csv"], "nowhere.csv cannot be read"),
        (["scores.txt"], "`scores` must be a .parquet, .csv or .jsonl file, or - for standard input; got scores.txt."),
        (["bad.jsonl"], "line 2 is not JSON: nonsense"),
        (["words.jsonl"], "row 1 of words.jsonl has no number as 'score'"),
        (["nan.jsonl"], "1 of 1 scores are NaN"),
        (["deep.jsonl"], "line 1 is not JSON"),
        (["half.jsonl"], "or no integer as label"),
        (["long.csv"], "long.csv cannot be read: field larger than field limit"),
        (["twice.csv"], "twice.csv names the column 'score' twice"),
        (["open.csv"], "open.csv cannot be read: unexpected end of data"),
        (["quiet.csv", "--state", "deep.jsonl"], "deep.jsonl is not a state of a drift monitor"),
        (["bad.parquet"], "bad.parquet cannot be read"),
        (["quiet.csv", "--detector", "msp"], "has no number as 'score_msp'"),
        (["quiet.csv", "--detector", "max-logit"], "holds no calibration of 'max-logit'"),
        (["quiet.csv", "--detector", "mps"], "Did you mean 'msp'"),
        (["quiet.csv", "--alpha", "2"], "`--alpha` must be between 0 and 1, both excluded; got 2."),
        (["quiet.csv", "--state", "bad.jsonl"], "bad.jsonl is not a state of a drift monitor"),
        (["quiet.csv", "--state", "nowhere/state.json"], "there is no folder nowhere"),
        (["quiet.csv", "--prometheus", "99999"], "`--prometheus` must be at most 65535; got 99999"),
    ],
)
def test_bad_input_is_one_sentence(place, capsys, arguments, sentence):
    Path("bad.jsonl").write_text("1.0\nnonsense\n")
    Path("words.jsonl").write_text('{"score": "high"}\n')
    Path("nan.jsonl").write_text("NaN\n")
    Path("deep.jsonl").write_text("[" * 100_000)
    Path("half.jsonl").write_text('{"score": 1.0, "label": 1.9}\n')
    Path("long.csv").write_text(f"score\n{'1' * 200_000}\n")
    Path("twice.csv").write_text("score, score\n1,2\n")
    Path("open.csv").write_text('score,name\n1,"a\n2,b\n')
    Path("bad.parquet").write_bytes(b"PAR1")
    assert run(*arguments) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_scores_of_another_guard_are_refused_by_their_threshold(place, capsys, suffix):
    threshold = read_artifact("guard.safetensors").calibrations["energy"].threshold
    scores = torch.zeros(9).tolist()
    for value, name in ((threshold, "own"), (threshold + 0.5, "other")):
        write_columns(
            {"label": 9 * [0], "score": scores, "score_msp": scores, "threshold": 9 * [value]},
            place / f"{name}.{suffix}",
        )
    assert run(f"own.{suffix}") == 0
    assert run(f"other.{suffix}", "--detector", "msp") == 0  # the column is of the first detector
    capsys.readouterr()
    assert run(f"other.{suffix}") == 1
    assert f"the scores must be of this guard, whose threshold is {threshold:.6g}; row 1 has" in capsys.readouterr().err
