"""`ol.metrics.OODMetrics` gives the numbers of `oodline.evaluation.metrics`, however the scores come."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryAUROC

import oodline as ol
from oodline.errors import InputError
from oodline.evaluation.metrics import compute_metrics

SCORES = torch.randn(200, dtype=torch.float64).mul(4).round() / 4  # with ties
IS_ID = torch.rand(200) < 0.6


def expected(scores, is_id):
    found = asdict(compute_metrics(scores[is_id].numpy(), scores[~is_id].numpy()))
    return {name: value for name, value in found.items() if not name.startswith("n_")}


def values(metric):
    return {name: float(value) for name, value in metric.compute().items()}


def test_batches_give_the_numbers_of_the_whole():
    metric = ol.metrics.OODMetrics()
    for part in torch.split(torch.arange(200), 37):
        metric.update(SCORES[part], IS_ID[part].long())
    assert values(metric) == expected(SCORES, IS_ID)
    metric.reset()
    metric.update(torch.tensor([2.0, 3.0]), is_id=True)
    metric.update(torch.tensor([1.0]), is_id=False)
    assert values(metric)["auroc"] == 1.0


def test_scores_of_any_precision_are_counted_as_they_are():
    metric = ol.metrics.OODMetrics()
    metric.update(SCORES[:100].bfloat16(), IS_ID[:100])
    metric.update(SCORES[100:].float(), IS_ID[100:])
    assert values(metric) == expected(SCORES, IS_ID)  # quarters up to 4 are exact in each


def test_two_metrics_are_merged():
    first, second = ol.metrics.OODMetrics(), ol.metrics.OODMetrics()
    first.update(SCORES[:50], IS_ID[:50])
    second.update(SCORES[50:], IS_ID[50:])
    first.merge_state(second)
    assert values(first) == expected(SCORES, IS_ID)


def test_it_is_one_of_a_collection():
    both = MetricCollection({"ood": ol.metrics.OODMetrics(), "theirs": BinaryAUROC()}, prefix="val/")
    both["ood"].update(SCORES, IS_ID)
    both["theirs"].update(SCORES.sigmoid(), IS_ID.long())
    found = both.compute()
    assert float(found["val/auroc"]) == pytest.approx(float(found["val/theirs"]), abs=1e-6)
    assert float(found["val/fpr95_ood_positive"]) == expected(SCORES, IS_ID)["fpr95_ood_positive"]


def test_forward_gives_the_metrics_of_a_batch():
    metric = ol.metrics.OODMetrics()
    batch = metric(SCORES[:50], IS_ID[:50])
    assert float(batch["auroc"]) == expected(SCORES[:50], IS_ID[:50])["auroc"]
    metric(SCORES[50:], IS_ID[50:])
    assert values(metric) == expected(SCORES, IS_ID)


def test_forward_keeps_all_scores_where_it_raises():
    metric = ol.metrics.OODMetrics()
    metric.update(SCORES[:50], IS_ID[:50])
    for kind in (IS_ID, ~IS_ID):
        part = kind & (torch.arange(200) >= 50)
        with pytest.raises(InputError, match="metrics need both"):
            metric(SCORES[part], IS_ID[part])
    with pytest.raises(InputError, match="must not be NaN"):
        metric(torch.tensor([torch.nan]), True)
    assert values(metric) == expected(SCORES, IS_ID)
    metric.reset()
    assert float(metric(SCORES, IS_ID)["auroc"]) == expected(SCORES, IS_ID)["auroc"]


def test_lists_and_arrays_are_taken():
    metric = ol.metrics.OODMetrics()
    metric.update(SCORES[:100].tolist(), IS_ID[:100].tolist())
    metric.update(SCORES[100:].numpy(), IS_ID[100:].numpy())
    assert values(metric) == expected(SCORES, IS_ID)


def test_two_processes_gather_their_scores(tmp_path):
    subprocess.run([sys.executable, str(Path(__file__).parent / "gather.py"), str(tmp_path)], check=True)
    scores, is_id = torch.tensor([3.0, 2.0, 2.0, 5.0, 1.0, 2.0, 4.0, 0.0]), torch.tensor([1, 1, 0, 1, 0, 1, 0, 0])
    for rank in (0, 1):
        assert json.loads((tmp_path / f"found.{rank}").read_text()) == [expected(scores, is_id.bool())] * 2


@pytest.mark.parametrize(
    ("scores", "is_id", "sentence"),
    [
        (torch.zeros(3), torch.ones(2), r"must be \(N,\); got \(3,\) and \(2,\)"),
        (torch.zeros(3, 1), True, r"must be \(N,\); got \(3, 1\)"),
        (torch.tensor([1.0, torch.nan]), True, "must not be NaN; got 1 of 2"),
        (torch.zeros(2), torch.tensor([1, -1]), "`is_id` must be true or 1"),
        (torch.zeros(2), "yes", "`is_id` must be a tensor, an array or a list of numbers; got str"),
        (torch.zeros(2), None, "`is_id` must be .*; got NoneType"),
        (["a"], True, "`scores` must be .*; got list"),
        (torch.tensor([True]), True, "`scores` must be real numbers; got torch.bool"),
    ],
)
def test_scores_that_are_none(scores, is_id, sentence):
    with pytest.raises(InputError, match=sentence):
        ol.metrics.OODMetrics().update(scores, is_id)


def test_metrics_need_both_kinds():
    metric = ol.metrics.OODMetrics()
    metric.update(torch.zeros(3), is_id=True)
    with pytest.raises(InputError, match="no OOD scores among the 3"):
        metric.compute()


def test_without_torchmetrics_the_functions_stay_and_the_class_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    monkeypatch.delitem(sys.modules, "oodline.integrations.torchmetrics")
    assert ol.metrics.auroc([2.0, 3.0], [1.0, 2.5]) == 0.75
    with pytest.raises(ImportError, match=r"pip install 'oodline\[torchmetrics\]'"):
        _ = ol.metrics.OODMetrics
