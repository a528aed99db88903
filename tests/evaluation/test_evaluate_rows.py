"""Metrics per row: streamed counts against the exact metrics of all scores at once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import oodline as ol
from oodline.errors import InputError, LabelError
from oodline.evaluation.evaluate_rows import RowCounts
from oodline.evaluation.metrics import EXACT, compute_metrics
from oodline.evaluation.rank_counts import RankCounts, ordered


@pytest.fixture(scope="module")
def classifier() -> ol.RowClassifier:
    torch.manual_seed(0)
    return ol.RowClassifier(nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.ReLU(), nn.Conv2d(6, 4, 1)).eval(), "pixels")


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    masks = torch.randint(0, 3, (6, 16, 24), generator=generator)
    return [(torch.randn(2, 3, 16, 24, generator=generator), masks[i : i + 2]) for i in (0, 2, 4)]


def test_every_pixel_of_the_mask_counts_with_the_score_of_its_row(classifier: ol.RowClassifier) -> None:
    detectors = {"msp": ol.MSP(), "energy": ol.Energy()}
    table = ol.evaluate_rows(detectors, classifier, {"data": batches()})
    for name, detector in detectors.items():
        whole, labels = [], []
        for images, masks in batches():
            scores = detector(classifier(images)).reshape(2, 4, 6)
            whole.append(scores.repeat_interleave(4, 1).repeat_interleave(4, 2))
            labels.append(masks)
        scores, labels = torch.cat(whole).flatten(), torch.cat(labels).flatten()
        expected = compute_metrics(scores[labels == 0], scores[labels == 1])
        assert table.cells[name]["data"] == expected
    assert expected.n_id + expected.n_ood < 6 * 16 * 24  # a third of the pixels is left out


def test_parts_merge_to_the_whole(classifier: ol.RowClassifier) -> None:
    detectors, parts = {"msp": ol.MSP()}, []
    for batch in batches():
        parts.append(RowCounts(detectors))
        for activations, labels in classifier.marking().stream([batch]):
            parts[-1].update(activations, labels)
    sent = parts[0].fresh()
    sent.load_state_dict(parts[2].state_dict())
    merged = parts[1].merge(parts[0]).merge(sent)
    table = ol.evaluate_rows(detectors, classifier, {"data": batches()})
    assert merged.metrics("msp", "data") == table.cells["msp"]["data"] and merged.inputs == 6


def test_many_scores_share_bins_whatever_their_order_and_metrics_stay_near() -> None:
    generator = torch.Generator().manual_seed(2)
    ours, theirs = torch.randn(4000, generator=generator), torch.randn(3000, generator=generator) - 1
    scores = torch.cat([ours, theirs])
    counts = torch.zeros(7000, 2, dtype=torch.int64)
    counts[:4000, 0] = counts[4000:, 1] = 1
    ranks = [RankCounts(1000), RankCounts(1000)]
    ranks[0].add(scores, counts)
    other = RankCounts(1000)
    order = torch.randperm(7000, generator=generator)
    for i, part in enumerate(order.split(700)):
        (ranks[1] if i % 3 else other).add(scores[part], counts[part])
    ranks[1].merge(other)
    whole, parts = ranks[0].counts(), ranks[1].counts()
    assert ranks[0].bits == ranks[1].bits > 0 and len(whole.id) <= 1000
    assert (whole.id == parts.id).all() and (whole.ood == parts.ood).all()
    exact, rates = compute_metrics(ours, theirs), EXACT.rates(whole)
    # pairs that share a bin count half, where they may count 0 or 1
    slack = float((whole.id * whole.ood).sum()) / (2 * 4000 * 3000)
    assert 0 < abs(rates["auroc"] - exact.auroc) <= slack < 1e-3
    for name in ("aupr_in", "aupr_out", "fpr95_id_positive", "fpr95_ood_positive"):
        assert abs(rates[name] - getattr(exact, name)) < 5e-3


def test_numbers_of_scores_are_in_their_order_and_scores_of_one_bin_are_near() -> None:
    special = torch.tensor([-torch.inf, torch.inf, 0.0, -1e-30])
    scores = torch.cat([torch.randn(500), special]).double().sort().values
    keys = ordered(scores)
    assert bool((keys.diff() >= 0).all()) and torch.equal(keys.diff() == 0, scores.diff() == 0)
    assert int((ordered(torch.tensor([1.0, 1 + 2**-11], dtype=torch.float64)) >> 41).diff()) == 1


def test_scores_in_double_precision_are_told_apart() -> None:
    ours, theirs = (1 + 1e-12 * torch.tensor(steps, dtype=torch.float64) for steps in ([2, 4, 6], [0, 3]))
    ranks = RankCounts()
    ranks.add(torch.cat([ours, theirs]), torch.tensor([[1, 0]] * 3 + [[0, 1]] * 2))
    assert EXACT.rates(ranks.counts())["auroc"] == 5 / 6


def test_tokens_to_come_are_marked_by_their_own_labels() -> None:
    torch.manual_seed(0)
    classifier = ol.RowClassifier(nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 9)), ol.Tokens(predicts="next"))
    texts, marks = torch.randint(0, 9, (10, 6)), torch.randint(0, 3, (10, 6))
    table = ol.evaluate_rows(ol.NLL(), classifier, {"texts": [(texts, marks)]})
    scores, of_rows = ol.NLL()(classifier(texts)), marks[:, 1:].flatten()
    assert table.cells["nll"]["texts"] == compute_metrics(scores[of_rows == 0], scores[of_rows == 1])


def test_more_pairs_than_an_integer_holds() -> None:
    ranks = RankCounts()
    ranks.add(torch.tensor([1.0, 2.0]), torch.tensor([[2**31, 2**32], [2**32, 2**31]]))
    assert EXACT.rates(ranks.counts())["auroc"] == pytest.approx((4 + 0.5 * 4) / 9)


def test_what_cannot_be_evaluated_is_refused(classifier: ol.RowClassifier) -> None:
    images = torch.zeros(2, 3, 16, 24)
    with pytest.raises(LabelError, match="the loader yields no labels"):
        ol.evaluate_rows("msp", classifier, {"data": images})
    with pytest.raises(InputError, match="'data' has no OOD row"):
        ol.evaluate_rows("msp", classifier, {"data": [(images, torch.zeros(2, 16, 24).long())]})
    with pytest.raises(InputError, match="at least one data set"):
        ol.evaluate_rows("msp", classifier, {})
