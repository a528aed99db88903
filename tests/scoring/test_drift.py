"""The monitor's alarm keeps its promise for small calibrations and long streams, and comes soon after a change."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from oodline.errors import InputError, MismatchError, SettingError
from oodline.scoring.calibration import calibrate
from oodline.scoring.class_calibration import calibrate_by_class
from oodline.scoring.drift import DriftMonitor, wilson


class FixedRanks(DriftMonitor):
    """The monitor that would suggest itself: each score ranked among the held-out ones alone."""

    def _p_value(self, score):
        held_out = list(self._ranked)
        p = super()._p_value(score)
        self._ranked = held_out
        return p


def alarms(kind, n, alpha, streams, length):
    generator = torch.Generator().manual_seed(0)
    found = 0
    for seed in range(streams):
        scores = torch.randn(n + length, generator=generator)
        monitor = kind(calibrate(scores[:n]), alpha=alpha, seed=seed)
        found += monitor.update(scores[n:]).alarm_at is not None
    return found / streams


@pytest.mark.parametrize("memory", [0, 10_000])
def test_few_streams_without_drift_ever_alarm_after_a_small_calibration(memory, monkeypatch):
    monkeypatch.setattr("oodline.scoring.drift.MEMORY", memory)
    alpha, streams = 0.1, 300
    assert alarms(DriftMonitor, 20, alpha, streams, 200) <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / streams)


def test_ranks_among_the_held_out_scores_alone_would_break_the_promise():
    assert alarms(FixedRanks, 20, 0.1, 150, 600) > 0.15


@pytest.mark.parametrize("memory", [0, 12, 1000])
def test_p_values_are_uniform_and_independent_whatever_is_forgotten(memory, monkeypatch):
    monkeypatch.setattr("oodline.scoring.drift.MEMORY", memory)
    generator, rows = torch.Generator().manual_seed(1), []
    for seed in range(2000):
        scores = torch.randint(6, (11 + 19,), generator=generator).double()  # full of ties
        monitor = DriftMonitor(calibrate(scores[:19]), seed=seed)
        rows.append([monitor._p_value(score) for score in scores[19:].tolist()])
    p = np.array(rows)
    assert ((p > 0) & (p <= 1)).all()
    for i, j in [(0, 1), (0, 10), (4, 5), (9, 10)]:
        counts = np.histogram2d(p[:, i], p[:, j], 4, [[0, 1], [0, 1]])[0]
        # chi-square of 15 degrees of freedom: above 37.7 once in a thousand runs
        assert np.square(counts - 125).sum() / 125 < 37.7


def test_every_bet_is_fair():
    monitor = DriftMonitor(calibrate(torch.arange(19.0)))
    for p in (0.9, 0.03, 0.5, 0.2, 0.01):
        monitor._bet(p)
    before, state, total = monitor.report.evidence, monitor.state_dict(), 0.0
    points = 2000
    for v in (np.arange(points) + 0.5) / points:
        again = DriftMonitor.from_state_dict(monitor.calibration, state)
        again._bet(v ** (10 / 3))  # p-values crowd where the bet pays much
        total += again.report.evidence * (10 / 3) * v ** (7 / 3) / points
    assert total == pytest.approx(before, rel=1e-4)


@pytest.mark.parametrize(("before", "share", "most"), [(0, 1.0, 15), (3000, 1.0, 25), (3000, 0.3, 120)])
def test_a_change_is_found_soon_however_long_it_was_quiet(before, share, most):
    waits = []
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        monitor = DriftMonitor(calibrate(torch.randn(1000, generator=generator)), seed=seed)
        assert monitor.update(torch.randn(before, generator=generator)).alarm_at is None
        strange = torch.rand(500, generator=generator) < share
        alarm = monitor.update(torch.randn(500, generator=generator) - 3 * strange).alarm_at
        waits.append(alarm - before)
    assert sorted(waits)[2] <= most


def test_scores_that_rise_are_no_alarm():
    assert DriftMonitor(calibrate(torch.randn(500))).update(torch.randn(2000) + 3).peak < 2


def test_the_window_shows_the_rate_of_flagged_scores():
    monitor = DriftMonitor(calibrate(torch.arange(99.0), 0.05), window=10)
    assert monitor.report.to_dict() | {"seen": 0, "rate": 0.0, "low": 0.0, "high": 0.0} == monitor.report.to_dict()
    monitor.update(torch.full((7,), 50.0))
    report = monitor.update(torch.tensor([3.0, 4.0, 3.9, 50.0, 50.0]))
    assert (report.seen, report.window, report.flagged, report.rate, report.promised) == (12, 10, 2, 0.2, 0.05)
    assert (report.low, report.high) == wilson(2, 10)
    assert json.loads(json.dumps(report.to_dict())) == report.to_dict()


@given(st.integers(1, 500), st.data())
def test_intervals_are_those_of_scipy(n, data):
    k = data.draw(st.integers(0, n))
    interval = binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert wilson(k, n, 1.959963984540054) == pytest.approx((interval.low, interval.high), abs=1e-9)


@pytest.mark.parametrize("memory", [0, 10_000])
def test_a_monitor_goes_on_from_its_state_as_if_there_had_been_no_break(memory, monkeypatch):
    monkeypatch.setattr("oodline.scoring.drift.MEMORY", memory)
    calibration, stream = calibrate(torch.randn(100)), torch.randn(400)
    stream[300:] -= 3
    whole, part = DriftMonitor(calibration, window=50), DriftMonitor(calibration, window=50)
    whole.update(stream)
    part.update(stream[:123])
    state = json.loads(json.dumps(part.state_dict(), allow_nan=False))
    rest = DriftMonitor.from_state_dict(calibration, state)
    assert rest.update(stream[123:]) == whole.report
    assert rest.state_dict() == whole.state_dict()
    assert 300 < whole.alarm_at <= 400  # the change, and not chance before it


def test_the_state_does_not_grow_with_the_stream(monkeypatch):
    monkeypatch.setattr("oodline.scoring.drift.MEMORY", 200)
    monitor = DriftMonitor(calibrate(torch.randn(100)), window=50, alpha=1e-9)
    sizes = []
    for _ in range(3):
        monitor.update(torch.randn(1000))
        sizes.append((len(monitor.state_dict()["ranked"]), len(monitor.state_dict()["flags"])))
    assert sizes == [(200, 50)] * 3


def test_after_a_reset_the_test_begins_anew():
    calibration = calibrate(torch.randn(200))
    monitor = DriftMonitor(calibration)
    alarm = monitor.update(torch.randn(100) - 4).alarm_at
    assert monitor.update(torch.randn(100)).alarm_at == alarm
    frozen = monitor.report.evidence
    assert frozen >= 100
    monitor.reset()
    assert (monitor.report.evidence, monitor.report.alarm_at, monitor.seen) == (1.0, None, 200)
    assert monitor.update(torch.randn(300)).alarm_at is None
    assert monitor.update(torch.randn(30) - 4).alarm_at > 500


def test_a_calibration_by_class_flags_by_class():
    scores, predicted = torch.cat([torch.arange(50.0), torch.arange(50.0) + 100]), torch.arange(100) // 50
    monitor = DriftMonitor(calibrate_by_class(scores, predicted, 2))
    assert monitor.update(torch.tensor([90.0, 90.0]), torch.tensor([0, 1])).flagged == 1
    with pytest.raises(InputError, match="pass predicted="):
        monitor.update(torch.tensor([90.0]))
    assert monitor.seen == 2


def test_bad_input_is_refused():
    calibration = calibrate(torch.randn(100))
    for settings, sentence in [
        ({"alpha": 0.0}, r"`alpha` must be a number between 0 and 1, both excluded; got 0\.0"),
        ({"window": 0}, "`window` must be an integer from 1 to"),
        ({"window": 10**30}, "`window` must be an integer from 1 to"),
    ]:
        with pytest.raises(SettingError, match=sentence):
            DriftMonitor(calibration, **settings)
    monitor = DriftMonitor(calibration)
    with pytest.raises(InputError, match="1 of 2 scores are NaN"):
        monitor.update(torch.tensor([0.0, math.nan]))
    assert monitor.seen == 0
    state = monitor.state_dict()
    with pytest.raises(MismatchError, match="another calibration"):
        DriftMonitor.from_state_dict(calibrate(torch.randn(100)), state)
    with pytest.raises(MismatchError, match="another calibration"):
        DriftMonitor.from_state_dict(calibrate(calibration.scores, 0.3), state)
    for change in (
        {"alpha": 2.0},
        {"window": 10**30},
        {"since_reset": -5},
        {"stakes": [1e308] * 4},
        {"window": "many"},
        {"random": {"bit_generator": "MT19937"}},
        {"random": {}},
        {"stakes": [1.0]},
        {"ranked": [2.0, 1.0]},
        {"format_version": 2},
        {"format": "another"},
        {"unheard_of": 1},
    ):
        with pytest.raises(InputError, match="state of a drift monitor"):
            DriftMonitor.from_state_dict(calibration, {**state, **change})
    with pytest.raises(InputError, match="not a state of a drift monitor"):
        DriftMonitor.from_state_dict(calibration, [])
