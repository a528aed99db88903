"""The threshold and the p-values keep the promises of their docstrings."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oodline.calibration import calibrate
from oodline.errors import InputError, SettingError

SCORES = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=60).map(torch.tensor)


@given(SCORES, st.sampled_from([0.01, 0.5, 0.9, 0.95, 0.99, 1.0]))
def test_threshold_is_the_largest_that_accepts_the_rate(scores, tpr):
    calibration = calibrate(scores, tpr)
    accepted = [int((scores >= t).sum()) for t in scores.tolist()]
    reaching = [
        t
        for t, count in zip(scores.tolist(), accepted, strict=True)
        if Fraction(count, len(scores)) >= Fraction(str(tpr))
    ]
    assert calibration.threshold == max(reaching)


@pytest.mark.parametrize("n", range(1, 201))
def test_distinct_scores_are_accepted_in_exactly_the_number_asked_for(n):
    calibration = calibrate(torch.arange(float(n)), 0.95)
    assert n - int(calibration.is_ood(torch.arange(float(n))).sum()) == math.ceil(Fraction("0.95") * n)


@given(SCORES, SCORES)
def test_p_values_count_held_out_scores_that_are_not_higher(held_out, new):
    found = calibrate(held_out).p_value(new)
    expected = [(1 + sum(h <= s for h in held_out.tolist())) / (len(held_out) + 1) for s in new.tolist()]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_p_values_keep_the_false_alarm_rate():
    generator = torch.Generator().manual_seed(1)
    calibration = calibrate(torch.randn(999, generator=generator))
    p = calibration.p_value(torch.randn(20_000, generator=generator))
    for rate in (0.01, 0.05, 0.1, 0.5):
        # the promise is on average over calibration sets; one set of 999 deviates by a standard error of its own
        spread = 4 * math.sqrt(rate * (1 - rate) * (1 / 999 + 1 / 20_000))
        assert abs(float((p <= rate).double().mean()) - rate) < spread


def test_bad_input_is_refused():
    with pytest.raises(SettingError, match=r"TPR in \(0, 1\]; 1.5 is not"):
        calibrate(torch.zeros(3), 1.5)
    with pytest.raises(InputError, match="was empty"):
        calibrate(torch.zeros(0))
    with pytest.raises(InputError, match="1 of 3 held-out scores are NaN"):
        calibrate(torch.tensor([0.0, math.nan, 1.0]))
