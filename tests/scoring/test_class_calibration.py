"""By predicted class, the promise holds for each class, and for the small ones together."""

import math
from collections import Counter
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from oodline.errors import InputError, SettingError
from oodline.scoring.calibration import calibrate, samples_needed
from oodline.scoring.class_calibration import calibrate_by_class, check_classes

CLASSES = 4
POOLS = st.lists(
    st.tuples(st.integers(-5, 5).map(float), st.sampled_from([0, 0, 0, 0, 1, 1, 2, 3])), min_size=20, max_size=70
)


def leave_one_out(pool, rate):
    """For each sample: its class, whether it is flagged after all others, and whether its class was small then."""
    for i, (score, c) in enumerate(pool):
        others = pool[:i] + pool[i + 1 :]
        scores, predicted = torch.tensor([s for s, _ in others]), torch.tensor([k for _, k in others])
        calibration = calibrate_by_class(scores, predicted, CLASSES, rate)
        flagged = bool(calibration.is_ood(torch.tensor([score]), torch.tensor([c])))
        yield c, flagged, c in calibration.small


@given(POOLS, st.sampled_from([0.1, 0.2, 0.3]))
@settings(deadline=None, max_examples=40)
@pytest.mark.filterwarnings("ignore::oodline.ConstantScoresWarning")
def test_any_pool_keeps_the_promise_for_each_class_and_for_the_small_ones_together(pool, rate):
    found = list(leave_one_out(pool, rate))
    sizes, alarms = Counter(), Counter()
    for c, flagged, small in found:
        sizes["small" if small else c] += 1
        alarms["small" if small else c] += flagged
    needed, counts = samples_needed(rate), Counter(c for _, c in pool)
    # as documented: with too few even in the pool, nothing is promised for them by themselves
    alone = sizes["small"] - 1 < needed
    for kind in sizes:
        if kind != "small" or not alone:
            assert Fraction(alarms[kind], sizes[kind]) <= Fraction(str(rate))
    assert {c for c, _, small in found if small} == {c for c in counts if counts[c] - 1 < needed}


@given(POOLS)
@settings(deadline=None, max_examples=40)
@pytest.mark.filterwarnings("ignore::oodline.ConstantScoresWarning")
def test_a_class_is_judged_by_its_own_scores_where_it_has_enough(pool):
    scores, predicted = torch.tensor([s for s, _ in pool]), torch.tensor([c for _, c in pool])
    calibration = calibrate_by_class(scores, predicted, CLASSES, 0.1)
    new = torch.arange(-6.0, 7.0)
    for c in range(CLASSES):
        counts = [int((predicted == k).sum()) for k in range(CLASSES)]
        pooled = torch.tensor([counts[k] <= 9 for k in range(CLASSES)])[predicted]
        if counts[c] >= 9:
            expected = calibrate(scores[predicted == c], 0.1)
        else:
            expected = calibrate(scores[pooled] if int(pooled.sum()) >= 9 else scores, 0.1)
        label = torch.full((len(new),), c)
        assert torch.equal(calibration.p_value(new, label), expected.p_value(new))
        assert torch.equal(calibration.is_ood(new, label), expected.is_ood(new))
        assert torch.equal(calibration.is_ood(new, label), calibration.p_value(new, label) <= 0.1)
        assert (calibration.threshold_of(label) == expected.threshold).all()
        assert (c in calibration.small) == (counts[c] < 9)


def test_classes_of_different_spread_are_flagged_at_the_same_rate():
    generator = torch.Generator().manual_seed(0)
    predicted = torch.arange(4000) % CLASSES
    scores = torch.randn(8000, generator=generator) * (1 + 3 * predicted.repeat(2))
    calibration = calibrate_by_class(scores[:4000], predicted, CLASSES, 0.05)
    together = calibrate(scores[:4000], 0.05)
    rates = [
        [float(flags[predicted == c].double().mean()) for c in range(CLASSES)]
        for flags in (calibration.is_ood(scores[4000:], predicted), together.is_ood(scores[4000:]))
    ]
    assert max(rates[0]) < 0.05 + 4 * math.sqrt(0.05 * 0.95 * 2 / 1000)
    assert (
        rates[1][3] > 0.1 > 0.01 > rates[1][0]
    )  # one threshold for all spares the narrow class at the wide one's cost


@pytest.mark.real
@pytest.mark.parametrize("rate", [0.05, 0.1])
def test_real_scores_keep_the_promise_for_every_predicted_class(shared, rate):
    golden = load_file(shared / "golden" / "line_cifar10.safetensors")
    scores, splits, n = golden["line.signed.clipped.id_test"], 200, 600
    predicted = (golden["features.id_test"] @ golden["weight"].T + golden["bias"]).argmax(1)
    flagged, seen = torch.zeros(10), torch.zeros(10)
    for _ in range(splits):
        order = torch.randperm(len(scores))
        old, new = order[:n], order[n:]
        calibration = calibrate_by_class(scores[old], predicted[old], 10, rate)
        assert calibration.small == ()
        flags = calibration.is_ood(scores[new], predicted[new])
        flagged += torch.bincount(predicted[new], flags.float(), minlength=10)
        seen += torch.bincount(predicted[new], minlength=10)
    # about 60 held-out and 40 new ones a class and split
    spread = math.sqrt(rate * (1 - rate) * (1 / 60 + 1 / 40) / splits)
    assert (flagged / seen < rate + 4 * spread).all()
    assert (flagged / seen > rate - 1 / 60 - 4 * spread).all()  # and no lower than 60 samples can come


def test_scores_without_their_class_are_refused():
    calibration = calibrate_by_class(torch.arange(60.0), torch.arange(60) % 3, 3)
    for judge in (calibration.p_value, calibration.is_ood):
        with pytest.raises(InputError, match="pass predicted="):
            judge(torch.zeros(2))
    for predicted, sentence in (
        ([0, 3], r"1 of 2 predicted classes are outside \[0, 2\] \(first: 3\)"),
        ([-1, 0], r"first: -1"),
    ):
        for judge in (calibration.p_value, calibration.is_ood):
            with pytest.raises(InputError, match=sentence):
                judge(torch.zeros(2), torch.tensor(predicted))
    for predicted, sentence in (
        ([0, 1, 2], r"one class per score, shape \(2,\); got \(3,\)"),
        ([0.0, 1.9], r"must be integers; got torch\.float32"),
        ([True, False], r"must be integers; got torch\.bool"),
    ):
        with pytest.raises(InputError, match=sentence):
            check_classes(torch.tensor(predicted), torch.zeros(2), 3)
    with pytest.raises(InputError, match="first: 3"):
        calibrate_by_class(torch.zeros(60), torch.arange(60) % 4, 3)
    with pytest.raises(SettingError, match="10 held-out samples are too few"):
        calibrate_by_class(torch.zeros(10), torch.zeros(10).long(), 3)
