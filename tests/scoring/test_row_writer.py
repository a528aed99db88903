"""Rows are on disk while the pass goes on, whole or not at all."""

from __future__ import annotations

import csv
import json
import os
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from pyarrow import parquet
from torch import Tensor, nn

import oodline as ol
from oodline.cli import main
from oodline.detectors.energy import Energy
from oodline.detectors.msp import MSP
from oodline.errors import DataError, InputError, SettingError
from oodline.passes.fit import reads
from oodline.passes.local import Local
from oodline.scoring import row_writer as module
from oodline.scoring.calibration import calibrate
from oodline.scoring.class_calibration import calibrate_by_class
from oodline.scoring.row_writer import RowWriter, check_output
from oodline.scoring.score import score_all
from oodline.testing import toy_problem

CLASSIFIER, [(INPUTS, _)] = toy_problem()
DETECTORS = {"energy": Energy(), "msp": MSP()}
BATCHES = INPUTS.split(7)
# The very batches that are written: a network in float32 may differ in its last digits with the size of the batch.
FOUND = score_all(DETECTORS, CLASSIFIER, BATCHES)
FLOAT32 = {"rtol": 1e-4, "atol": 1e-4}
CALIBRATION = calibrate(FOUND.scores["energy"])


def write(rows: RowWriter, inputs: Tensor = INPUTS) -> None:
    Local().fill([rows], CLASSIFIER, inputs.split(len(BATCHES[0])), reads(DETECTORS.values()), task="scoring")


def read(path: Path) -> list[dict]:
    if path.suffix == ".parquet":
        return parquet.read_table(path).to_pylist()
    with path.open() as file:
        return list(csv.DictReader(file)) if path.suffix == ".csv" else [json.loads(line) for line in file]


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_what_has_nothing_to_judge_has_no_score(tmp_path, suffix):
    torch.manual_seed(0)
    classifier = ol.RowClassifier(nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 9)), ol.Tokens(predicts="next"))
    path, guard = tmp_path / f"rows{suffix}", ol.Guard(classifier, ol.NLL()).calibrate(torch.randint(0, 9, (30, 5)))
    with RowWriter(path, {"nll": guard.detector}, guard.calibration) as rows:
        for batch in (torch.tensor([[1, 2, 3]]), torch.tensor([[4]])):  # no token comes after one
            rows.update(classifier(batch), None)
    whole, nothing = read(path)
    assert float(whole["score"]) == float(guard(torch.tensor([[1, 2, 3]])).score)
    assert nothing["score"] in (None, "") and nothing["is_ood"] in (False, "false")
    with suppress(SystemExit):
        main(
            [
                "watch",
                str(path),
                "--guard",
                str(guard.save(tmp_path / "g.safetensors")),
                "--state",
                f"{tmp_path}/s.json",
            ]
        )
    assert json.loads((tmp_path / "s.json").read_text())["seen"] == 1


@pytest.mark.parametrize("group", [1, 20, 10_000])
@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_rows_are_what_the_scores_in_memory_are(tmp_path, monkeypatch, suffix, group):
    monkeypatch.setattr(module, "ROW_GROUP", group)
    path = tmp_path / f"rows{suffix}"
    with RowWriter(path, DETECTORS, CALIBRATION, ["a", "b"], lambda i: f"image {i}") as rows:
        write(rows)
        assert not path.exists()
    assert rows.count == 60
    assert rows.flagged == int(CALIBRATION.is_ood(FOUND.scores["energy"]).sum())
    found = read(path)
    assert [float(row["score"]) for row in found] == FOUND.scores["energy"].tolist()
    assert [float(row["score_msp"]) for row in found] == FOUND.scores["msp"].tolist()
    assert [float(row["p_value"]) for row in found] == CALIBRATION.p_value(FOUND.scores["energy"]).tolist()
    assert [int(row["label"]) for row in found] == FOUND.predicted.tolist()
    assert [row["name"] for row in found] == [f"image {i}" for i in range(60)]
    names = ["a", "b", "" if suffix == ".csv" else None]
    assert [row["class_name"] for row in found] == [names[label] for label in FOUND.predicted.tolist()]
    if suffix == ".parquet":
        assert parquet.ParquetFile(path).num_row_groups == {1: 9, 20: 3, 10_000: 1}[group]


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_a_file_name_that_is_not_utf8_is_escaped(tmp_path, suffix):
    path = tmp_path / f"rows{suffix}"
    with RowWriter(path, DETECTORS, name=lambda i: os.fsdecode(b"caf\xe9.png")) as rows:
        write(rows)
    assert {row["name"] for row in read(path)} == {r"caf\udce9.png"}


def test_without_a_calibration_there_is_no_verdict(tmp_path):
    with RowWriter(tmp_path / "rows.parquet", DETECTORS) as rows:
        write(rows)
    assert rows.flagged == 0
    first = read(tmp_path / "rows.parquet")[0]
    assert first["score"] == float(FOUND.scores["energy"][0])
    assert first["p_value"] is first["threshold"] is first["is_ood"] is first["class_name"] is None


def test_an_error_in_the_middle_leaves_nothing(tmp_path):
    inputs = INPUTS.clone()
    inputs[40] = torch.nan
    with pytest.raises(InputError, match="sample 40"), RowWriter(tmp_path / "rows.csv", DETECTORS) as rows:
        write(rows, inputs)
    assert list(tmp_path.iterdir()) == []


def test_writers_of_a_folder_write_parts_and_add_up(tmp_path):
    whole = RowWriter(tmp_path, DETECTORS, CALIBRATION)
    for start in (30, 0):
        part = whole.fresh()
        for k in range(start, start + 30, 10):
            part.update(CLASSIFIER(INPUTS[k : k + 10], index=torch.arange(k, k + 10)), None)
        other = whole.fresh()
        other.load_state_dict(part.state_dict())
        whole.merge(other)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "part-000000000000.parquet",
        "part-000000000030.parquet",
    ]
    assert (whole.count, whole.flagged) == (60, int(CALIBRATION.is_ood(FOUND.scores["energy"]).sum()))
    found = parquet.read_table(tmp_path)
    assert found["index"].to_pylist() == list(range(60))
    torch.testing.assert_close(torch.tensor(found["score"].to_pylist()).double(), FOUND.scores["energy"], **FLOAT32)


def test_where_rows_cannot_go_is_said_before_the_work(tmp_path):
    with pytest.raises(SettingError, match=r"must end in \.parquet, \.csv, \.jsonl; got rows"):
        check_output(tmp_path / "rows", divided=False)
    with pytest.raises(SettingError, match=r"must be a folder, without an ending, .*; got rows\.csv"):
        check_output(tmp_path / "rows.csv", divided=True)
    check_output(tmp_path / "rows", divided=True)
    check_output(tmp_path / "rows", divided=True)
    (tmp_path / "rows" / "part-0.parquet").touch()
    with pytest.raises(DataError, match=r"holds Parquet files, which would mix with the new ones\. Name another\."):
        check_output(tmp_path / "rows", divided=True)


def test_the_key_tells_calibrations_by_class_apart(tmp_path):
    scores, classes = torch.arange(80.0), torch.arange(80) % 2

    def key(calibration):
        return RowWriter(tmp_path / "rows", {"energy": Energy()}, calibration).key

    one = calibrate_by_class(scores, classes, 2)
    same, other = calibrate_by_class(scores, classes, 2), calibrate_by_class(scores, 1 - classes, 2)
    assert torch.equal(one.scores, other.scores)
    assert key(one) == key(same)
    assert key(one) != key(other)
    assert key(one) != key(one.overall)
