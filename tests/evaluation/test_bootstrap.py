"""Bootstrap intervals: each resample against drawing and measuring by hand, DeLong's variance, coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from oodline.errors import InputError, SettingError
from oodline.evaluation.bootstrap import Bootstrap
from oodline.evaluation.counts import Counts
from oodline.evaluation.metrics import EXACT, Convention, compute_metrics
from oodline.evaluation.paper import PAPER, paper_metrics


def draw(seed, n=300, m=200, shift=1.5, decimals=None):
    random = np.random.default_rng(seed)
    i, o = random.normal(shift, 1, n), random.normal(0, 1.3, m)
    return (i, o) if decimals is None else (i.round(decimals), o.round(decimals))


def delong_deviation(i, o):
    """Standard deviation of AUROC by DeLong, DeLong and Clarke-Pearson (Biometrics 1988)."""
    wins = (i[:, None] > o).astype(float) + 0.5 * (i[:, None] == o)
    return np.sqrt(wins.mean(1).var(ddof=1) / len(i) + wins.mean(0).var(ddof=1) / len(o))


@pytest.mark.parametrize(("convention", "measure"), [(EXACT, compute_metrics), (PAPER, paper_metrics)])
@pytest.mark.parametrize("decimals", [None, 0])
def test_every_resample_is_measured_as_a_sample_would_be(convention, measure, decimals):
    i, o = draw(0, n=70, m=45, decimals=decimals)
    drawn = []

    def spy(counts: Counts):
        drawn.append(counts)
        return convention.rates(counts)

    values = Bootstrap(resamples=40).resample(i, {"svhn": o}, Convention("spied", spy))["svhn"]
    grid = np.unique(np.r_[i, o])
    rows = [(a, b) for counts in drawn for a, b in zip(counts.id, counts.ood, strict=True)]
    assert len(rows) == 40
    for r, (a, b) in enumerate(rows):
        by_hand = measure(np.repeat(grid, a), np.repeat(grid, b))
        assert (by_hand.n_id, by_hand.n_ood) == (70, 45)
        for name, found in values.items():
            assert found[r] == pytest.approx(getattr(by_hand, name), abs=1e-12), name


def test_samples_are_drawn_evenly_each_from_its_own_set():
    i, o = draw(1, n=40, m=30)
    total = Counts(np.zeros(70, int), np.zeros(70, int))

    def spy(counts: Counts):
        total.id[:] += counts.id.sum(0)
        total.ood[:] += counts.ood.sum(0)
        return {"n": counts.n_id}

    Bootstrap(resamples=4000).resample(i, {"svhn": o}, Convention("spied", spy))
    is_id = np.isin(np.unique(np.r_[i, o]), i)
    assert (total.id[~is_id] == 0).all()
    assert (total.ood[is_id] == 0).all()
    for drawn in (total.id[is_id], total.ood[~is_id]):
        assert drawn == pytest.approx(4000, abs=5 * np.sqrt(4000))


def test_the_spread_of_auroc_is_delongs():
    i, o = draw(2, n=500, m=300)
    values = Bootstrap(resamples=4000).resample(i, {"svhn": o})["svhn"]["auroc"]
    assert values.std() == pytest.approx(delong_deviation(i, o), rel=0.06)
    assert values.mean() == pytest.approx(compute_metrics(i, o).auroc, abs=3e-3)


def test_the_seed_decides_and_nothing_else_does():
    i, o = draw(3)
    _, other = draw(4)
    one = Bootstrap(resamples=50).resample(i, {"a": o, "b": other})
    again = Bootstrap(resamples=50).resample(i, {"b": other, "a": o})
    alone = Bootstrap(resamples=50).resample(i, {"a": o})
    changed = Bootstrap(resamples=50, seed=1).resample(i, {"a": o})
    assert all(np.array_equal(one["a"][name], again["a"][name]) for name in one["a"])
    assert np.array_equal(one["a"]["auroc"], alone["a"]["auroc"])
    assert not np.array_equal(one["a"]["auroc"], changed["a"]["auroc"])
    # fewer resamples are the first of more, whatever the size of a block
    assert np.array_equal(Bootstrap(resamples=20).resample(i, {"a": o})["a"]["auroc"], one["a"]["auroc"][:20])


def test_detectors_see_the_same_resamples():
    # a strictly increasing map leaves every order, and so every resampled metric, as it was
    i, o = draw(5)
    plain = Bootstrap(resamples=30).resample(i, {"a": o})["a"]
    mapped = Bootstrap(resamples=30).resample(np.exp(i), {"a": np.exp(o)})["a"]
    assert all(np.array_equal(plain[name], mapped[name]) for name in plain)


def test_sets_share_the_resamples_of_id_data():
    i, _ = draw(6)
    # with a single OOD score, its own resamples do not vary: what varies is ID data alone
    values = Bootstrap(resamples=60).resample(i, {"a": [1.0], "b": [1.0]})
    assert np.array_equal(values["a"]["auroc"], values["b"]["auroc"])
    assert len(np.unique(values["a"]["auroc"])) > 10


def test_intervals_are_the_central_percentiles():
    found = Bootstrap(level=0.9).interval(np.arange(101.0))
    assert (found.low, found.high) == (pytest.approx(5.0), pytest.approx(95.0))
    assert found.half_width == pytest.approx(45.0)


def test_perfect_separation_has_an_interval_without_width():
    found = Bootstrap(resamples=20).resample([2.0, 3.0], {"a": [0.0, 1.0]})["a"]
    assert set(found["auroc"]) == {1.0}


def test_bad_settings_and_scores_are_refused():
    for settings in ({"resamples": 1}, {"level": 1.0}, {"level": float("nan")}, {"seed": -1}):
        with pytest.raises(SettingError):
            Bootstrap(**settings)
    with pytest.raises(InputError, match=r"1 of 2 OOD \('svhn'\) scores are NaN"):
        Bootstrap().resample([1.0], {"svhn": [0.0, float("nan")]})
    with pytest.raises(InputError, match="1 of 1 ID scores are NaN"):
        Bootstrap().resample([float("nan")], {"svhn": [0.0]})


@pytest.mark.long
def test_intervals_cover_the_truth_as_often_as_they_say():
    # ID ~ N(1.5, 1), OOD ~ N(0, 1.3^2): both truths are known in closed form
    truth = {
        "auroc": norm.cdf(1.5 / np.hypot(1, 1.3)),
        "fpr95_id_positive": norm.sf((1.5 + norm.ppf(0.05)) / 1.3),
        "fpr95_ood_positive": norm.cdf(1.3 * norm.ppf(0.95) - 1.5),
    }
    covered = dict.fromkeys(truth, 0)
    trials = 400
    for trial in range(trials):
        i, o = draw(1000 + trial, n=500, m=300)
        values = Bootstrap(resamples=400, seed=trial).resample(i, {"a": o})["a"]
        for name, value in truth.items():
            found = Bootstrap().interval(values[name])
            covered[name] += found.low <= value <= found.high
    # 95 % of 400 is 380, give or take 3 x 4.4; the bootstrap of a quantile is a little too narrow at this size
    assert min(covered.values()) > 360, covered
    assert covered["auroc"] > 367, covered
