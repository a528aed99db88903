"""Per-image scores: one Parquet file, from which the table comes back; full-spectrum tables."""

from __future__ import annotations

import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from oodline.detectors.energy import Energy
from oodline.detectors.msp import MSP
from oodline.errors import DataError, SettingError
from oodline.evaluation.evaluate import score_sets, tabulate_sets
from oodline.evaluation.metrics import compute_metrics
from oodline.evaluation.scored_sets import ScoredSets, read_scores, write_scores
from oodline.testing import toy_problem


@pytest.fixture(scope="module")
def sets() -> ScoredSets:
    torch.manual_seed(0)
    classifier, loader = toy_problem()
    images, labels = loader[0]
    return score_sets(
        [Energy(), MSP()],
        classifier,
        loader,
        {"near": [torch.randn(20, 4)], "zeros": [torch.zeros(5, 4), torch.ones(3, 4)]},
        csid_loaders={"shifted": [(images + 0.5, labels)]},
        groups={"far": ["zeros"]},
    )


def test_one_row_an_image_comes_back_as_it_was(sets, tmp_path):
    path = write_scores(sets, tmp_path / "scores.parquet")
    rows = parquet.read_table(path).to_pylist()
    assert list(rows[0]) == ["set", "role", "group", "index", "label", "predicted", "energy", "msp"]
    assert len(rows) == 60 + 60 + 20 + 8
    assert {(r["role"], r["group"], r["label"]) for r in rows if r["set"] == "zeros"} == {("ood", "far", None)}
    again = read_scores(path)
    assert dict(again.groups) == {"far": ["zeros"]}
    for before, after in [
        (sets.id, again.id),
        (sets.csid["shifted"], again.csid["shifted"]),
        *zip(sets.ood.values(), again.ood.values(), strict=True),
    ]:
        assert torch.equal(before.index, after.index)
        assert torch.equal(before.predicted, after.predicted)
        assert all(torch.equal(before.scores[name], after.scores[name]) for name in ("energy", "msp"))
        assert (before.labels is None) == (after.labels is None)
    assert tabulate_sets(again).cells == tabulate_sets(sets).cells
    assert torch.equal(again.correct(), sets.correct())


def test_a_missing_label_is_told_and_costs_no_other_row_its_own(tmp_path):
    classifier, [(inputs, labels)] = toy_problem()
    given = torch.where(torch.arange(60) == 25, -1, labels)
    loader = [(inputs[:20], given[:20]), (inputs[20:40], given[20:40]), inputs[40:]]  # the last batch has none at all
    with pytest.warns(UserWarning, match=r"21 of the 60 ID samples have no label \(the first: sample 25\)"):
        found = score_sets("energy", classifier, loader, {"far": [inputs]})
    expected = [*given[:40].tolist(), *[-1] * 20]
    assert found.id.labels.tolist() == expected and found.correct() is None
    again = read_scores(write_scores(found, tmp_path / "scores.parquet"))
    assert again.id.labels.tolist() == expected and again.ood["far"].labels is None


def test_the_full_spectrum_counts_shifted_id_data_as_id(sets):
    plain = tabulate_sets(sets)
    full = plain.full_spectrum
    ours = torch.cat([sets.id.scores["msp"], sets.csid["shifted"].scores["msp"]])
    assert full.cells["msp"]["near"] == compute_metrics(ours, sets.ood["near"].scores["msp"])
    assert plain.cells["msp"]["near"] == compute_metrics(sets.id.scores["msp"], sets.ood["near"].scores["msp"])
    assert (plain.cells["msp"]["near"].n_id, full.cells["msp"]["near"].n_id) == (60, 120)


def test_bad_names_are_refused_before_the_passes():
    classifier, loader = toy_problem()
    classifier.model.register_forward_hook(lambda *_: pytest.fail("a pass was made"))
    ood = {"a": [torch.zeros(5, 4)]}
    with pytest.raises(SettingError, match="names 'b', which is not an OOD set: a"):
        score_sets(Energy(), classifier, loader, ood, groups={"far": ["b"]})
    with pytest.raises(SettingError, match="two data sets are called 'a'"):
        score_sets(Energy(), classifier, loader, ood, csid_loaders=ood)
    with pytest.raises(SettingError, match="two data sets are called 'id'"):
        score_sets(Energy(), classifier, loader, {"id": [torch.zeros(5, 4)]})


def test_other_files_are_refused(sets, tmp_path):
    path = tmp_path / "x.parquet"
    with pytest.raises(DataError, match=r"x\.parquet cannot be read as Parquet"):
        read_scores(path)
    path.write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_scores(path)
    parquet.write_table(pa.table({"set": ["a"]}), path)
    with pytest.raises(DataError, match="it has no column 'role'"):
        read_scores(path)
    written = parquet.read_table(write_scores(sets, path))
    parquet.write_table(written.filter(pa.compute.equal(written["role"], "id")), path)
    with pytest.raises(DataError, match="1 ID sets and 0 OOD sets"):
        read_scores(path)
    parquet.write_table(written.set_column(1, "role", pa.array(["test"] * len(written))), path)
    with pytest.raises(DataError, match="rows of the role 'test'"):
        read_scores(path)
