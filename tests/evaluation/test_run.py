"""The record of a finished run: what is written is what is read, and every damage is said."""

from __future__ import annotations

import hashlib
import json
import re

import numpy as np
import pytest
import torch
from pyarrow import parquet
from pydantic import ValidationError

from oodline.errors import ArtifactError, DataError, InputError, UnknownNameError
from oodline.evaluation.evaluate import tabulate
from oodline.evaluation.metrics import compute_metrics
from oodline.evaluation.record import SetRecord
from oodline.evaluation.run import Run, read_run, write_run
from oodline.guard.artifact import Artifact
from oodline.model.head import HeadInfo
from oodline.scoring.score import score_all
from oodline.testing import toy_problem, toy_run


@pytest.fixture
def run(tmp_path) -> Run:
    return toy_run(tmp_path / "run")


def sign(document: dict) -> dict:
    """What a careful forger would do: change the document and its digest."""
    rest = {k: v for k, v in document.items() if k != "sha256"}
    return {**rest, "sha256": hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()}


def rewrite(run: Run, **changes: object) -> None:
    path = run.folder / "run.json"
    path.write_text(json.dumps(sign({**json.loads(path.read_text()), **changes})))


def test_what_is_written_is_what_is_read(run):
    classifier, loader = toy_problem()
    again = read_run(run.folder)
    assert again.record == run.record
    assert again.sets() == ["test", "halved", "origin"]
    assert again.sets("id") == ["test"]
    assert again.groups == {"near": ["halved"], "far": ["origin"]}
    inputs, labels = loader[0]
    live = score_all(again.artifact().detectors, classifier, [inputs / 2])
    for name, values in again.scores("halved").items():
        assert np.array_equal(values, live.scores[name].numpy())
    assert np.array_equal(again.predicted("halved"), live.predicted.numpy())
    assert np.array_equal(again.index("halved"), np.arange(60))
    assert np.array_equal(again.labels("test"), labels.numpy())
    assert again.labels("halved") is None


def test_the_table_and_the_rows_are_those_of_the_scores(run):
    scores = {name: {k: torch.tensor(v) for k, v in run.scores(name).items()} for name in run.sets()}
    expected = tabulate(scores["test"], {name: scores[name] for name in ("halved", "origin")})
    table = run.table()
    assert table.cells == expected.cells
    assert table.milliseconds == {"energy": 0.01, "msp": 0.01}
    [row] = [r for r in run.record.metrics if r["detector"] == "msp" and r["set"] == "origin"]
    assert row["auroc"] == table.value("msp", "auroc", "origin")
    assert (row["group"], row["id"], row["n_id"]) == ("far", "id", 60)
    assert table.groups == {"near": ["halved"], "far": ["origin"]}
    assert table.value("msp", "auroc", "near mean") == table.value("msp", "auroc", "halved")
    right = np.mean(run.predicted("test") == run.labels("test"))
    assert table.accuracy == pytest.approx(right)
    page = (run.folder / "table.md").read_text()
    assert "FPR@95TPR, ID positive" in page
    assert "FPR@95TPR, OOD positive" in page
    assert f"{100 * row['auroc']:.2f}" in page
    assert "| detector | halved (near) | origin (far) | mean |" in page
    assert f"gets {100 * right:.2f} % right" in page
    assert (run.folder / "table.csv").read_text() == table.to_csv()


def test_shifted_id_counts_as_id_in_the_full_spectrum(run, tmp_path):
    classifier, loader = toy_problem()
    detectors = run.artifact().detectors
    inputs = loader[0][0]
    data = {"test": loader, "shifted": [inputs[:30] * 0.7], "origin": [inputs / 20]}
    sets = [s for s in run.record.sets if s.name in data]
    shifted = sets[0].model_copy(update={"name": "shifted", "role": "csid", "samples": 30})
    record = run.record.model_copy(update={"sets": [*sets, shifted]})
    scores = {name: score_all(detectors, classifier, batches) for name, batches in data.items()}
    wider = write_run(tmp_path / "wider", record, scores, Artifact(detectors, HeadInfo.of(classifier.head)))
    both = np.concatenate([wider.scores("test")["msp"], wider.scores("shifted")["msp"]])
    expected = compute_metrics(both, wider.scores("origin")["msp"])
    assert wider.table().full_spectrum.cells["msp"]["origin"] == expected
    assert wider.table().cells["msp"]["origin"].n_id == 60
    assert [(r["id"], r["n_id"]) for r in wider.record.metrics if r["detector"] == "msp"] == [
        ("id", 60), ("id+csid", 90),
    ]  # fmt: skip
    assert "Full spectrum" in (wider.folder / "table.md").read_text()


def test_the_scores_are_plain_parquet(run):
    rows = parquet.read_table(run.folder / "scores" / "test.parquet").to_pylist()
    assert list(rows[0]) == ["index", "label", "predicted", "energy", "msp"]
    assert rows[7]["energy"] == run.scores("test")["energy"][7]


@pytest.mark.parametrize("name", ["run.json", "guard.safetensors", "scores/halved.parquet"])
def test_a_missing_file_is_named(run, name):
    (run.folder / name).unlink()
    with pytest.raises(ArtifactError, match=re.escape(name.rpartition("/")[2])):
        read_run(run.folder)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("run.json", "is not the record of a run that oodline wrote, or is truncated"),
        ("scores/halved.parquet", "was changed after it was written, or is truncated"),
    ],
)
def test_a_truncated_file_is_refused(run, name, sentence):
    path = run.folder / name
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ArtifactError, match=sentence):
        read_run(run.folder)


def test_a_changed_number_is_refused(run):
    path = run.folder / "run.json"
    path.write_text(path.read_text().replace('"tpr": 0.95', '"tpr": 0.94'))
    with pytest.raises(ArtifactError, match="was changed after it was written"):
        read_run(run.folder)


def test_a_newer_format_is_refused(run):
    rewrite(run, format_version=2)
    with pytest.raises(ArtifactError, match=r"has format 2; this oodline .* reads up to 1\. Upgrade"):
        read_run(run.folder)


def test_a_record_of_before_warnings_were_kept_is_read(run):
    path = run.folder / "run.json"
    path.write_text(json.dumps(sign({k: v for k, v in json.loads(path.read_text()).items() if k != "warnings"})))
    assert read_run(run.folder).record.warnings == []


def test_a_record_that_does_not_describe_a_run_is_refused(run):
    rewrite(run, tpr="high")
    with pytest.raises(ArtifactError, match="does not describe a run: `tpr` must "):
        read_run(run.folder)


def test_a_name_that_leads_out_of_the_folder_is_refused(run):
    sets = [s.model_dump(mode="json") for s in run.record.sets]
    rewrite(run, sets=[{**sets[0], "name": "../run/scores/test"}, *sets[1:]])
    with pytest.raises(ArtifactError, match=r"does not describe a run: `sets\[0\].name` must"):
        read_run(run.folder)


def test_files_that_do_not_belong_together_are_refused(run):
    sets = [s.model_dump(mode="json") for s in run.record.sets]
    rewrite(run, sets=[{**sets[0], "samples": 59}, *sets[1:]])
    with pytest.raises(ArtifactError, match=r"has 60 rows of index, .*; run.json says 59"):
        read_run(run.folder)


def test_the_guard_of_another_run_is_refused_when_it_is_asked_for(run, tmp_path):
    other = toy_run(tmp_path / "other")
    classifier, loader = toy_problem(seed=1)
    scores = {name: score_all(other.artifact().detectors, classifier, loader) for name in other.sets()}
    changed = Artifact(other.artifact().detectors, HeadInfo.of(classifier.head))
    write_run(other.folder, other.record, scores, changed)
    (run.folder / "guard.safetensors").write_bytes((other.folder / "guard.safetensors").read_bytes())
    with pytest.raises(ArtifactError, match="is not the one that"):
        read_run(run.folder).artifact()


def test_scores_that_the_record_does_not_describe_are_not_written(run, tmp_path):
    classifier, loader = toy_problem()
    scores = {name: score_all(run.artifact().detectors, classifier, loader) for name in run.sets()}
    for changed, sentence in [
        ({"test": scores["test"]}, "but scores of"),
        ({**scores, "test": score_all(run.artifact().detectors["msp"], classifier, loader)}, "no scores of energy"),
        ({**scores, "test": score_all(run.artifact().detectors, classifier, [loader[0][0][:5]])}, "60 samples, but 5"),
    ]:
        with pytest.raises(ArtifactError, match=sentence):
            write_run(tmp_path / "new", run.record, changed, run.artifact())
    assert not (tmp_path / "new").exists()


def test_an_earlier_run_is_replaced_and_other_folders_are_not(run, tmp_path):
    (run.folder / "notes.txt").write_text("from before")
    assert toy_run(run.folder).record.name == "toy"
    assert not (run.folder / "notes.txt").exists()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("dear")
    with pytest.raises(DataError, match="other things in it"):
        toy_run(tmp_path / "photos")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photos", "run"]
    assert (tmp_path / "photos" / "cat.jpg").read_text() == "dear"


def test_a_failed_write_leaves_the_earlier_run(run, monkeypatch):
    before = (run.folder / "run.json").read_bytes()

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("oodline.evaluation.run.write_artifact", full)
    with pytest.raises(DataError, match="No space left on device"):
        toy_run(run.folder)
    assert (run.folder / "run.json").read_bytes() == before
    assert [p.name for p in run.folder.parent.iterdir()] == ["run"]


def test_unknown_sets_and_roles_end_in_sentences(run):
    with pytest.raises(UnknownNameError, match="Did you mean 'origin'"):
        run.scores("orign")
    with pytest.raises(InputError, match="no data set of the role csid"):
        run.pooled(("csid",))


def test_a_record_needs_unique_names_and_an_id_set(run):
    document = run.record.model_dump()
    twice = {**document, "sets": [*document["sets"], document["sets"][1]]}
    with pytest.raises(ValidationError, match="two data sets are called halved"):
        type(run.record).model_validate(twice)
    with pytest.raises(ValidationError, match="no data set has the role 'id'"):
        type(run.record).model_validate({**document, "sets": document["sets"][1:]})
    with pytest.raises(ValidationError, match="extra"):
        SetRecord.model_validate({**document["sets"][0], "colour": "red"})
