"""Metrics against scikit-learn on any scores, ties included, and against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from oodline.errors import InputError, SettingError
from oodline.evaluation.metrics import (
    aupr_in,
    aupr_out,
    auroc,
    compute_metrics,
    fpr_at_tpr_id_positive,
    fpr_at_tpr_ood_positive,
)

# few distinct values, so that ties within and across the two sets are the rule
tied = st.integers(-3, 3).map(float)
wild = st.floats(allow_nan=False, allow_infinity=False, width=32)
sets = st.one_of(*(st.tuples(*2 * [st.lists(kind, min_size=1, max_size=40)]) for kind in (tied, wild)))


def labelled(i, o, *, ood_positive=False):
    """Targets and scores as scikit-learn wants them: the positive class scores higher."""
    scores = np.concatenate([i, o])
    is_id = np.r_[np.ones(len(i)), np.zeros(len(o))]
    return (1 - is_id, -scores) if ood_positive else (is_id, scores)


def fpr_by_roc(i, o, tpr, *, ood_positive=False):
    """Smallest false-positive rate of a threshold of the ROC curve that reaches the rate."""
    fprs, tprs, _ = sk.roc_curve(*labelled(i, o, ood_positive=ood_positive), drop_intermediate=False)
    positives = len(o) if ood_positive else len(i)
    return fprs[np.round(tprs * positives) >= tpr * positives - 1e-9].min()


@settings(max_examples=400, deadline=None)
@given(sets)
def test_areas_equal_scikit_learn(pair):
    i, o = pair
    found = compute_metrics(i, o)
    assert found.auroc == pytest.approx(sk.roc_auc_score(*labelled(i, o)), abs=1e-10)
    assert found.aupr_in == pytest.approx(sk.average_precision_score(*labelled(i, o)), abs=1e-10)
    assert found.aupr_out == pytest.approx(sk.average_precision_score(*labelled(i, o, ood_positive=True)), abs=1e-10)
    assert (found.n_id, found.n_ood) == (len(i), len(o))


@settings(max_examples=400, deadline=None)
@given(sets, st.sampled_from([0.05, 0.5, 0.8, 0.95, 1.0]))
def test_false_positive_rates_equal_the_curve_of_scikit_learn(pair, tpr):
    i, o = pair
    assert fpr_at_tpr_id_positive(i, o, tpr) == pytest.approx(fpr_by_roc(i, o, tpr), abs=1e-10)
    assert fpr_at_tpr_ood_positive(i, o, tpr) == pytest.approx(fpr_by_roc(i, o, tpr, ood_positive=True), abs=1e-10)


@settings(max_examples=100, deadline=None)
@given(sets)
def test_negating_and_swapping_the_sets_swaps_the_conventions(pair):
    i, o = pair
    one, other = compute_metrics(i, o), compute_metrics([-x for x in o], [-x for x in i])
    assert one.auroc == pytest.approx(other.auroc, abs=1e-12)
    assert (one.aupr_in, one.aupr_out) == (other.aupr_out, other.aupr_in)
    assert (one.fpr95_id_positive, one.fpr95_ood_positive) == (other.fpr95_ood_positive, other.fpr95_id_positive)


@settings(max_examples=100, deadline=None)
@given(sets)
def test_only_the_order_of_scores_matters(pair):
    i, o = (np.array(part, dtype=np.float64) for part in pair)
    ranks = np.unique(np.concatenate([i, o]), return_inverse=True)[1].astype(float)
    assert compute_metrics(i, o) == compute_metrics(ranks[: len(i)], ranks[len(i) :])


def test_the_two_conventions_can_disagree_widely():
    # half of OOD is far below ID, and a twentieth of it far above
    i = np.linspace(0, 1, 1000)
    o = np.r_[np.full(500, -1.0), np.linspace(0.0, 0.6, 450), np.full(50, 2.0)]
    assert fpr_at_tpr_id_positive(i, o) == pytest.approx(0.462, abs=1e-3)
    assert fpr_at_tpr_ood_positive(i, o) == pytest.approx(0.6, abs=1e-2)
    o = np.r_[np.full(900, -1.0), np.full(100, 0.5)]
    assert fpr_at_tpr_id_positive(i, o) == 0.1
    assert fpr_at_tpr_ood_positive(i, o) == 0.5


def test_constant_scores_say_nothing():
    found = compute_metrics(np.zeros(70), np.zeros(30))
    assert found.auroc == 0.5
    assert found.fpr95_id_positive == found.fpr95_ood_positive == 1.0
    assert (found.aupr_in, found.aupr_out) == (0.7, 0.3)


def test_perfect_and_perfectly_wrong():
    right, wrong = compute_metrics([2.0, 3.0], [0.0, 1.0]), compute_metrics([0.0, 1.0], [2.0, 3.0])
    assert (right.auroc, right.aupr_in, right.aupr_out) == (1.0, 1.0, 1.0)
    assert (right.fpr95_id_positive, right.fpr95_ood_positive) == (0.0, 0.0)
    assert (wrong.auroc, wrong.fpr95_id_positive, wrong.fpr95_ood_positive) == (0.0, 1.0, 1.0)


def test_counts_of_95_percent_are_not_rounded_in_floating_point():
    # 0.95 * 20 is 19 exactly: the threshold is the second lowest ID score, and rejects nothing more
    i = np.arange(20.0)
    assert fpr_at_tpr_id_positive(i, [0.5, 1.0, 5.0, -1.0]) == 0.5


def test_scores_that_differ_beyond_single_precision_are_told_apart():
    assert auroc([1.0 + 1e-12], [1.0]) == 1.0


def test_infinite_scores_are_ordered_like_any_other():
    assert auroc([np.inf, 1.0], [-np.inf, 0.0]) == 1.0


def test_large_sets_do_not_overflow():
    i = np.arange(300_000.0)
    assert auroc(i, i) == 0.5


every_metric = pytest.mark.parametrize(
    "metric", [auroc, aupr_in, aupr_out, fpr_at_tpr_id_positive, fpr_at_tpr_ood_positive, compute_metrics]
)


@every_metric
def test_nan_empty_and_misshapen_scores_are_refused(metric):
    with pytest.raises(InputError, match="1 of 2 OOD scores are NaN"):
        metric([1.0], [2.0, float("nan")])
    with pytest.raises(InputError, match="ID"):
        metric([], [1.0])
    with pytest.raises(InputError, match="OOD"):
        metric([1.0], [[1.0], [2.0]])


@pytest.mark.parametrize("tpr", [0.0, -0.5, 1.5, float("nan"), 95])
def test_a_rate_outside_its_range_is_refused(tpr):
    for metric in (fpr_at_tpr_id_positive, fpr_at_tpr_ood_positive):
        with pytest.raises(SettingError, match=r"TPR lies in \(0, 1\]"):
            metric([1.0], [0.0], tpr)
