"""The table: one pass a data set, every detector on every set."""

from __future__ import annotations

import csv
import io
import time

import pytest
import torch

from oodline.detectors.energy import Energy
from oodline.detectors.knn import KNN
from oodline.detectors.msp import MSP
from oodline.errors import InputError, LabelError, SettingError
from oodline.evaluation.evaluate import Table, evaluate, tabulate
from oodline.evaluation.metric_table import METRICS
from oodline.evaluation.metrics import Metrics, compute_metrics
from oodline.evaluation.paper import PAPER
from oodline.scoring.score import score
from oodline.testing import toy_problem


@pytest.fixture
def table() -> Table:
    random = torch.Generator().manual_seed(0)
    drawn = {name: torch.randn(50, generator=random) for name in ("good", "bad")}
    return tabulate(
        {"good": drawn["good"] + 2, "bad": drawn["bad"]},
        {ood: {name: torch.randn(40, generator=random) for name in drawn} for ood in ("near", "far")},
    )


def test_each_data_set_is_passed_once_for_all_detectors():
    classifier, loader = toy_problem()
    detectors = [Energy(), MSP(), KNN(k=3).fit(classifier, loader)]
    passes = []
    classifier.model.register_forward_hook(lambda _m, args, _out: passes.append(len(args[0])))
    near, far = torch.randn(20, 4), 9 * torch.randn(30, 4)
    table = evaluate(detectors, classifier, loader, {"near": [near], "far": [far[:10], far[10:]]})
    assert passes == [60, 20, 10, 20]
    for detector in detectors:
        scores = [score(detector, classifier, data)[detector.name] for data in (loader, [near], [far])]
        assert table.cells[detector.name] == {
            "near": compute_metrics(scores[0], scores[1]),
            "far": compute_metrics(scores[0], scores[2]),
        }


def test_the_mean_counts_every_set_the_same(table):
    cells = table.cells["good"]
    assert table.mean("good", "auroc") == pytest.approx((cells["near"].auroc + cells["far"].auroc) / 2, abs=1e-15)
    assert table.value("good", "auroc", None) == table.mean("good", "auroc")


@pytest.mark.parametrize("metric", METRICS)
def test_the_best_is_the_highest_area_and_the_lowest_rate(table, metric):
    values = [table.value(name, metric, "near") for name in ("good", "bad")]
    assert table.best(metric, "near") == (min(values) if metric.startswith("fpr") else max(values))
    assert table.best(metric, "near") == table.value("good", metric, "near")


def test_csv_holds_every_number_in_full(table):
    rows = list(csv.DictReader(io.StringIO(table.to_csv())))
    assert [(r["detector"], r["ood"]) for r in rows] == [
        ("good", "near"), ("good", "far"), ("bad", "near"), ("bad", "far"),
    ]  # fmt: skip
    for row in rows:
        found = Metrics(**{k: (int if k[:2] == "n_" else float)(row[k]) for k in Metrics.__dataclass_fields__})
        assert found == table.cells[row["detector"]][row["ood"]]


def test_markdown_marks_the_best_of_each_column(table):
    header, rule, good, bad = table.to_markdown("fpr95_id_positive").splitlines()
    assert header == "| detector | near | far | mean |"
    assert rule == "|---|---|---|---|"
    assert good.count("**") == 6
    values = [100 * table.value("bad", "fpr95_id_positive", ood) for ood in ("near", "far", None)]
    assert bad == f"| bad | {values[0]:.2f} | {values[1]:.2f} | {values[2]:.2f} |"


def test_bad_input_is_refused():
    classifier, loader = toy_problem()
    with pytest.raises(InputError, match="at least one OOD data set"):
        evaluate(Energy(), classifier, loader, {})
    with pytest.raises(InputError, match="at least one OOD data set"):
        tabulate({"energy": torch.zeros(1)}, {})
    with pytest.raises(InputError, match="no batch"):
        evaluate(Energy(), classifier, loader, {"empty": []})
    with pytest.raises(InputError, match=r"2 of 3 rows .*sample 1"):
        evaluate(
            Energy(), classifier, loader, {"nan": [torch.tensor([[0.0] * 4, [float("nan")] * 4, [torch.inf] * 4])]}
        )


def test_the_own_time_of_each_detector_is_measured():
    classifier, loader = toy_problem()

    class Slow(Energy):
        """Energy that takes ten milliseconds a batch. Higher = more in-distribution."""

        def score(self, activations):
            time.sleep(0.01)
            return super().score(activations)

    found = evaluate({"slow": Slow(), "fast": Energy()}, classifier, loader, {"same": loader}).milliseconds
    assert list(found) == ["slow", "fast"]
    assert found["slow"] >= 2 * 10 / 120  # two batches, 120 samples; a sleep is never shorter
    assert found["fast"] > 0


def test_python_gives_what_the_command_line_gives(tmp_path):
    classifier, loader = toy_problem()
    inputs, labels = loader[0]
    shifted, near = [(0.9 * inputs, labels)], [0.3 * torch.randn(40, 4)]
    table = evaluate(
        Energy(),
        classifier,
        [(inputs, labels)],
        {"blob": near},
        csid_loaders={"shrunk": shifted},
        groups={"near": ["blob"]},
        convention="paper",
        bootstrap=20,
    )
    ours, theirs, more = (score(Energy(), classifier, data)["energy"] for data in (loader, near, shifted))
    assert table.cells["energy"]["blob"] == PAPER.measure(ours[: len(inputs)], theirs)
    assert table.full_spectrum.cells["energy"]["blob"] == PAPER.measure(torch.cat([ours[: len(inputs)], more]), theirs)
    assert table.interval("energy", "auroc", "blob").low <= table.value("energy", "auroc", "blob")
    assert table.accuracy == float((classifier(inputs).logits.argmax(1) == labels).double().mean())
    with pytest.raises(SettingError, match="`convention` must be a Convention or 'exact' or 'paper'; got 'papers'"):
        evaluate(Energy(), classifier, loader, {"blob": near}, convention="papers")
    with pytest.raises(SettingError, match="at least 2 resamples"):
        evaluate(Energy(), classifier, loader, {"blob": near}, bootstrap=1)


def test_labels_that_the_classifier_does_not_have_are_refused():
    classifier, loader = toy_problem()
    (inputs, labels) = loader[0][:2]
    with pytest.raises(LabelError, match=r"60 of the 60 ID samples have labels outside \[0, 2\].*empty class folder"):
        evaluate(Energy(), classifier, [(inputs, labels + 3)], {"zeros": [torch.zeros(5, inputs.shape[1])]})
