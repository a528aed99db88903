"""What the plots are drawn from, against the whole data and the metrics of the same scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from oodline.errors import InputError
from oodline.evaluation.metrics import auroc, fpr_at_tpr_id_positive
from oodline.evaluation.risk_coverage import risk_coverage
from oodline.report.curves import accepting, bins, ladder, risk_curve, roc, tallest

# halves, so that there are ties
scores = hnp.arrays(np.float64, st.integers(1, 60), elements=st.integers(-20, 20).map(lambda v: v / 2))


@settings(max_examples=50, deadline=None)
@given(scores, scores, scores, st.integers(-20, 20))
def test_the_slider_counts_exactly_what_lies_below_each_threshold(ours, near, far, marked):
    found = ladder(ours, {"near": near, "far": far}, marked / 2, id_name="ours")
    assert found.thresholds[found.marked] == marked / 2
    assert (np.diff(found.thresholds) > 0).all()
    for name, values in (("ours", ours), ("near", near), ("far", far)):
        assert found.flagged[name].tolist() == [int((values < t).sum()) for t in found.thresholds]
    # from nothing to everything, wherever the marked threshold lies
    assert all(counts[0] == 0 for counts in found.flagged.values())
    assert {name: counts[-1] for name, counts in found.flagged.items()} == {
        "ours": len(ours), "near": len(near), "far": len(far),
    }  # fmt: skip


def test_the_slider_stops_at_every_half_percent_of_false_alarms_that_people_use():
    ours = np.random.default_rng(0).normal(size=2000)
    found = ladder(ours, {"other": ours - 1}, 0.0)
    rates = found.flagged["id"] / 2000
    for percent in np.arange(1, 39) / 2:
        assert np.abs(rates - percent / 100).min() <= 1 / 2000
    assert len(found.thresholds) < 120


@settings(max_examples=50, deadline=None)
@given(scores, scores)
def test_no_score_is_lost_from_the_bins(ours, other):
    found = bins(ours, {"other": other})["other"]
    assert found.low < found.high
    assert (found.id.sum(), found.other.sum()) == (len(ours), len(other))
    assert len(found.id) == len(found.other) <= 48


def test_the_bins_are_those_of_numpy_inside_and_hold_outliers_at_the_ends():
    rng = np.random.default_rng(1)
    ours, other = np.append(rng.normal(size=999), 1e9), np.append(rng.normal(-2, size=999), -1e9)
    found = bins(ours, {"other": other})["other"]
    assert -10 < found.low < found.high < 10
    edges = np.linspace(found.low, found.high, len(found.id) + 1)
    assert found.id[1:-1].tolist() == np.histogram(ours, edges)[0][1:-1].tolist()
    assert found.other[0] == (other < edges[1]).sum()


def test_all_sets_share_the_axis_and_one_that_is_far_away_does_not_stretch_it():
    ours = np.arange(101.0)  # from 1 to 99 without 1 % at either end
    found = bins(ours, {"near": ours - 50, "far": ours - 1e6}, number=20)
    assert {(each.low, each.high) for each in found.values()} == {(1 - 2 * 98, 99)}
    assert found["far"].other.tolist() == [101] + 19 * [0]
    assert found["near"].id.tolist() == found["far"].id.tolist()
    # the bin that holds all of "far" is left out, so that the others can be seen
    assert tallest(list(found.values())) == max(found["near"].id.max(), found["near"].other.max()) / 101


@settings(max_examples=50, deadline=None)
@given(scores, scores)
def test_a_thinned_roc_keeps_near_to_the_whole_one(ours, other):
    x, y = roc(ours, other, points=20)
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert (np.diff(x) >= 0).all() and (np.diff(y) >= 0).all()
    assert np.trapezoid(y, x) == pytest.approx(auroc(ours, other), abs=2 / 20)


def test_a_roc_of_many_scores_has_few_points_and_the_same_area():
    rng = np.random.default_rng(2)
    ours, other = rng.normal(size=20_000), rng.normal(-1.5, size=10_000)
    x, y = roc(ours, other)
    assert len(x) <= 101
    assert np.trapezoid(y, x) == pytest.approx(auroc(ours, other), abs=1e-3)
    assert np.interp(0.95, y, x) == pytest.approx(fpr_at_tpr_id_positive(ours, other), abs=0.02)


def test_few_scores_are_not_thinned():
    assert np.trapezoid(*roc([1.0, 2.0, 2.0], [0.0, 2.0])[::-1]) == auroc([1.0, 2.0, 2.0], [0.0, 2.0])


def test_a_thinned_curve_of_risk_holds_points_of_the_whole_one():
    rng = np.random.default_rng(3)
    whole = risk_coverage(rng.normal(size=3000), rng.random(3000) < 0.9, rng.normal(-2, size=2000))
    coverage, risk = risk_curve(whole, 5000)
    assert len(coverage) <= 101
    assert (coverage[-1], risk[-1]) == (whole.coverage[-1], whole.risk[-1])
    assert set(zip(coverage, risk, strict=True)) <= set(zip(whole.coverage, whole.risk, strict=True))
    assert np.diff(coverage, prepend=0).max() <= 2 / 100
    assert coverage[0] >= 0.01


@pytest.mark.parametrize(("samples", "first"), [(10, 10), (100, 20), (10_000, 100)])
def test_a_curve_of_risk_begins_where_enough_is_answered(samples, first):
    whole = risk_coverage(np.arange(samples), np.ones(samples, bool))
    coverage, _ = risk_curve(whole, samples, points=samples)
    assert (round(coverage[0] * samples), coverage[-1]) == (first, 1)


@settings(max_examples=50, deadline=None)
@given(scores, st.sampled_from([0.5, 0.9, 0.95, 1.0]))
def test_the_accepting_threshold_accepts_that_fraction_and_a_higher_one_does_not(ours, tpr):
    threshold = accepting(ours, tpr)
    assert (ours >= threshold).mean() >= tpr
    higher = ours[ours > threshold]
    assert len(higher) / len(ours) < tpr


@pytest.mark.parametrize("function", [lambda a, b: bins(a, {"x": b}), roc, lambda a, b: ladder(a, {"x": b}, 0.0)])
def test_nan_is_an_error(function):
    with pytest.raises(InputError, match="1 of 2 OOD"):
        function([1.0], [np.nan, 1.0])


def test_infinite_scores_are_drawn_and_counted_at_the_ends():
    found = ladder([0.0, np.inf], {"other": [-np.inf, 1.0]}, 0.5)
    assert np.isfinite(found.thresholds).all()
    assert [int(found.flagged[name][found.marked]) for name in ("id", "other")] == [1, 1]
    assert bins([0.0, np.inf], {"other": [-np.inf, 1.0]})["other"].id.sum() == 2
