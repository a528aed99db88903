"""Risk, coverage and the threshold curve, against averaging over orders and thresholds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from oodline.errors import InputError
from oodline.evaluation.risk_coverage import autc, risk_coverage

few = st.lists(st.tuples(st.integers(0, 2).map(float), st.booleans()), min_size=1, max_size=3)
scores = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None)
@given(few, few)
def test_ties_count_in_the_mean_of_all_orders(ids, oods):
    answers = [(score, not right) for score, right in ids] + [(score, True) for score, _ in oods]
    areas = []
    for order in itertools.permutations(answers):
        if all(a[0] >= b[0] for a, b in itertools.pairwise(order)):
            wrong = np.cumsum([w for _, w in order])
            areas.append((wrong / np.arange(1, len(order) + 1)).mean())
    curve = risk_coverage([s for s, _ in ids], [right for _, right in ids], [s for s, _ in oods])
    assert curve.aurc == pytest.approx(np.mean(areas), abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(scores, scores, st.randoms(use_true_random=False))
def test_every_point_is_what_its_threshold_gives(i, o, random):
    correct = np.array([random.random() < 0.7 for _ in i])
    curve = risk_coverage(i, correct, o)
    i, o = np.array(i), np.array(o)
    assert (np.diff(curve.threshold) < 0).all()
    for threshold, coverage, risk in zip(curve.threshold, curve.coverage, curve.risk, strict=True):
        answered = (i >= threshold).sum() + (o >= threshold).sum()
        assert coverage == pytest.approx(answered / (len(i) + len(o)), abs=1e-12)
        assert risk == pytest.approx(((i >= threshold) & ~correct).sum() / answered + (o >= threshold).sum() / answered)
    assert curve.coverage[-1] == 1.0


def test_without_ood_it_is_the_curve_of_misclassification():
    curve = risk_coverage([4.0, 3.0, 2.0, 1.0], [True, True, False, True])
    assert curve.risk == pytest.approx([0, 0, 1 / 3, 1 / 4])
    assert curve.aurc == pytest.approx((1 / 3 + 1 / 4) / 4)
    assert curve.coverage_at(0.0) == 0.5
    assert curve.coverage_at(0.26) == 1.0
    assert risk_coverage([1.0], [False]).coverage_at(0.5) == 0.0


def test_a_perfect_order_has_the_least_risk():
    right = np.arange(50) >= 10
    best = risk_coverage(np.arange(50.0), right, np.arange(-20.0, 0)).aurc
    random = np.random.default_rng(0)
    assert all(best < risk_coverage(70 * random.random(50), right, 70 * random.random(20)).aurc for _ in range(20))


@settings(max_examples=100, deadline=None)
@given(scores, scores)
def test_the_threshold_curve_is_the_mean_of_both_error_rates_over_all_thresholds(i, o):
    together = np.r_[i, o]
    found = autc(i, o)
    if together.min() == together.max():
        assert found == 0.5
        return
    # both rates are steps, so the integral over thresholds is a sum over the gaps between scores
    grid = np.unique(together)
    middle, width = (grid[1:] + grid[:-1]) / 2, np.diff(grid) / (grid[-1] - grid[0])
    flagged = (np.array(i)[:, None] < middle).mean(0)
    accepted = (np.array(o)[:, None] > middle).mean(0)
    assert found == pytest.approx(((flagged + accepted) / 2 * width).sum(), abs=1e-6)


def test_the_threshold_curve_equals_pytorch_ood():
    peer = pytest.importorskip("pytorch_ood.metrics", reason="comparisons with pytorch-ood: pip install 'oodline[dev]'")
    import torch

    random = np.random.default_rng(0)
    i, o = random.normal(1, 1, 200), random.normal(0, 1, 150)
    is_ood = torch.tensor(np.r_[np.zeros(200), -np.ones(150)])
    theirs = peer.AUTC().update(-torch.tensor(np.r_[i, o]), is_ood).compute()["AUTC"]
    assert autc(i, o) == pytest.approx(theirs, abs=1e-6)


def test_the_threshold_curve_survives_the_largest_numbers():
    assert autc([1e308, 1e308], [-1e308]) == 0.0


def test_aurc_is_near_one_minus_accuracy_where_scores_say_nothing():
    random = np.random.default_rng(1)
    right = random.random(20_000) < 0.8
    assert risk_coverage(random.random(20_000), right).aurc == pytest.approx(0.2, abs=0.01)
    assert risk_coverage(np.zeros(20_000), right).aurc == pytest.approx(1 - right.mean(), abs=1e-12)
    assert sk.accuracy_score(np.ones(20_000), right) == pytest.approx(1 - risk_coverage(np.zeros(20_000), right).aurc)


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="1 of 2 ID scores are NaN"):
        risk_coverage([1.0, float("nan")], [True, True])
    with pytest.raises(InputError, match="2 of 2 OOD scores are NaN"):
        risk_coverage([1.0], [True], [float("nan")] * 2)
    with pytest.raises(InputError, match=r"2 ID scores, and `correct` has shape \(1,\)"):
        risk_coverage([1.0, 2.0], [True])
    with pytest.raises(InputError, match="true or false, not a label"):
        risk_coverage([1.0, 2.0], [0, 7])
    with pytest.raises(InputError, match="1 of 3 scores are infinite"):
        autc([1.0, np.inf], [0.0])
    with pytest.raises(InputError, match="1 of 1 OOD scores are NaN"):
        autc([1.0], [float("nan")])
