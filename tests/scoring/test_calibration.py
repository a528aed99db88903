"""The threshold and the p-values keep the promises of their docstrings."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from oodline.errors import InputError, SettingError
from oodline.scoring.calibration import ConstantScoresWarning, calibrate, check_enough, false_alarm_of, samples_needed
from oodline.scoring.class_calibration import calibrate_by_class

RATES = st.sampled_from([0.05, 0.07, 0.1, 0.3, 0.5, 0.99])
SCORES = st.lists(st.integers(-5, 5).map(float), min_size=19, max_size=60).map(torch.tensor)
HELD_OUT = SCORES.filter(lambda scores: bool(scores.min() < scores.max()))  # others warn


def in_each_place(pool, judge):
    """Let each sample of `pool` be the new one and all others the held-out ones; what `judge(others, new)` says."""
    return torch.stack([judge(torch.cat([pool[:i], pool[i + 1 :]]), pool[i : i + 1])[0] for i in range(len(pool))])


@given(HELD_OUT, SCORES, RATES)
@settings(deadline=None)
def test_a_score_is_flagged_exactly_where_its_p_value_is_at_most_the_rate(held_out, new, rate):
    calibration = calibrate(held_out, rate)
    assert torch.equal(calibration.is_ood(new), calibration.p_value(new) <= rate)
    assert torch.equal(calibration.is_ood(new), new.double() < calibration.threshold_of(torch.zeros(len(new)).long()))


@given(st.lists(st.integers(-5, 5).map(float), min_size=20, max_size=60).map(torch.tensor), RATES)
@pytest.mark.filterwarnings("ignore::oodline.ConstantScoresWarning")
@settings(deadline=None, max_examples=40)
def test_any_pool_of_scores_keeps_the_promise_exactly(pool, rate):
    # the theorem itself: whichever of n + 1 exchangeable scores is the new one, at most a fraction `rate` is flagged
    flagged = in_each_place(pool, lambda others, new: calibrate(others, rate).is_ood(new))
    assert Fraction(int(flagged.sum()), len(pool)) <= Fraction(str(rate))


@pytest.mark.parametrize("n", [19, 20, 38, 39, 40, 59, 60, 99, 100, 113])
def test_without_ties_the_promise_is_used_up_as_far_as_the_sample_allows(n):
    flagged = in_each_place(torch.randperm(n + 1).double(), lambda others, new: calibrate(others, 0.05).is_ood(new))
    assert int(flagged.sum()) == math.floor(Fraction("0.05") * (n + 1))


@given(HELD_OUT, SCORES)
@settings(deadline=None)
def test_p_values_count_held_out_scores_that_are_not_higher(held_out, new):
    found = calibrate(held_out).p_value(new)
    expected = [(1 + sum(h <= s for h in held_out.tolist())) / (len(held_out) + 1) for s in new.tolist()]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@given(HELD_OUT, SCORES, st.integers(0, 2**32))
@settings(deadline=None)
def test_random_p_values_lie_between_those_of_the_two_ways_to_count_ties(held_out, new, seed):
    calibration = calibrate(held_out)
    found = calibration.p_value(new, random=torch.Generator().manual_seed(seed))
    again = calibration.p_value(new, random=torch.Generator().manual_seed(seed))
    strictly = torch.tensor([sum(h < s for h in held_out.tolist()) / (len(held_out) + 1) for s in new.tolist()])
    assert torch.equal(found, again)
    assert ((found > strictly) & (found <= calibration.p_value(new))).all()


@pytest.mark.filterwarnings("ignore::oodline.ConstantScoresWarning")
@pytest.mark.parametrize("levels", [2, 5, 10**9])
def test_random_p_values_of_id_data_are_uniform_whatever_the_ties(levels):
    generator = torch.Generator().manual_seed(2)
    pools = torch.randint(levels, (2000, 20), generator=generator).double()
    p = torch.cat([calibrate(pool[:19]).p_value(pool[19:], random=generator) for pool in pools])
    # the largest gap between the empirical and the uniform distribution: above 1.95 / sqrt(N) once in a thousand runs
    ascending, steps = p.sort().values, torch.arange(1, len(p) + 1) / len(p)
    assert float((ascending - steps).abs().max()) < 1.95 / math.sqrt(len(p))
    assert float(ascending[0]) > 0
    assert float(ascending[-1]) <= 1


@pytest.mark.real
@pytest.mark.parametrize("rate", [0.01, 0.05, 0.1])
def test_real_scores_split_many_times_keep_the_promise(shared, rate):
    scores = load_file(shared / "golden" / "line_cifar10.safetensors")["line.signed.clipped.id_test"]
    n, splits = 500, 500
    rates = []
    for _ in range(splits):
        shuffled = scores[torch.randperm(len(scores))]
        rates.append(float(calibrate(shuffled[:n], rate).is_ood(shuffled[n:]).double().mean()))
    promised = math.floor(Fraction(str(rate)) * (n + 1)) / (n + 1)  # these scores have no ties
    # each split is off by the binomial spread of its held-out half and of its new half; the mean by that / sqrt(splits)
    spread = math.sqrt(promised * (1 - promised) * (1 / n + 1 / (len(scores) - n)) / splits)
    assert abs(sum(rates) / splits - promised) < 4 * spread
    assert sum(rates) / splits < rate + 4 * spread


@pytest.mark.parametrize(("rate", "needed"), [(0.5, 1), (0.1, 9), (0.07, 14), (0.05, 19), (0.01, 99), (0.001, 999)])
def test_the_fewest_samples_for_a_rate_are_enough_and_one_less_is_not(rate, needed):
    assert samples_needed(rate) == needed
    assert calibrate(torch.arange(float(needed)), rate).is_ood(torch.tensor([-1.0])).all()
    if needed > 1:
        with pytest.raises(SettingError, match=rf"is 1/{needed} = .* at least {needed} samples"):
            check_enough(needed - 1, rate)


def test_both_spellings_of_the_rate_are_one():
    assert false_alarm_of(None, 0.95) == 0.05
    assert false_alarm_of(0.01, None) == 0.01
    with pytest.raises(SettingError, match="say the same thing twice"):
        false_alarm_of(0.05, 0.95)
    with pytest.raises(SettingError, match="`tpr` must be a number between 0 and 1"):
        false_alarm_of(None, 1.0)


def test_bad_input_is_refused():
    for rate in (0.0, 1.0, -0.1, 5.0, math.nan):
        with pytest.raises(SettingError, match=r"`false_alarm` must be a (finite )?number between 0 and 1"):
            calibrate(torch.zeros(100), rate)
    with pytest.raises(InputError, match="was empty"):
        calibrate(torch.zeros(0))
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(InputError, match="1 of 20 held-out scores are NaN or infinite"):
            calibrate(torch.tensor([bad] + [0.0] * 19))
    with pytest.raises(SettingError, match=r"10 held-out samples are too few for .* of 0.05: .*1/11 = 0.0909"):
        calibrate(torch.zeros(10))


@pytest.mark.parametrize("by_class", [False, True])
def test_what_is_no_number_is_flagged(by_class):
    scores, predicted = torch.arange(99.0), torch.zeros(99).long()
    calibration = calibrate_by_class(scores, predicted, 1) if by_class else calibrate(scores)
    new, classes = torch.tensor([math.nan, -math.inf, math.inf, 50.0]), torch.zeros(4).long()
    assert calibration.is_ood(new, classes).tolist() == [True, True, False, False]
    assert calibration.p_value(new, classes).tolist() == [0.01, 0.01, 1.0, 0.52]
    smallest = calibration.p_value(new, classes, random=torch.Generator().manual_seed(0))[:2]
    assert (smallest > 0).all()
    assert (smallest <= 0.01).all()


def test_a_detector_that_gives_one_score_to_all_is_no_detector():
    with pytest.warns(ConstantScoresWarning, match="all 20 held-out scores are 1.5: the detector does not rank"):
        calibration = calibrate(torch.full((20,), 1.5))
    assert calibration.is_ood(torch.tensor([1.5, 1.4])).tolist() == [False, True]
    two, classes = torch.tensor([1.0, 2.0]).repeat(30), torch.arange(60) % 2
    calibrate_by_class(two, classes, 2)  # each class has one score, but all together do not
