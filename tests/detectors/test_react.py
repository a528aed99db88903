"""ReAct against clipping at NumPy's quantile."""

import math

import numpy as np
import pytest
import torch

from oodline.detectors.max_logit import MaxLogit
from oodline.detectors.react import ReAct
from oodline.errors import SettingError
from oodline.statistics.quantiles import RELATIVE_ERROR


@pytest.mark.parametrize("quantile", [0.0, 0.3, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_clip_is_the_quantile_of_all_activations(draw, seed, quantile):
    case = draw(seed)
    clip = float(case.fit(ReAct(clip=f"{100 * quantile}%")).largest)
    assert clip == pytest.approx(np.quantile(case.f, quantile), rel=1.01 * RELATIVE_ERROR)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("quantile", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_formula(draw, assert_equals, seed, quantile, signed):
    case = draw(seed, signed=signed)
    detector = case.fit(ReAct(clip=f"{100 * quantile}%"))
    clipped = np.minimum(case.f, float(detector.largest))
    assert_equals(detector(case.activations), np.logaddexp.reduce(clipped @ case.W.T + case.b, axis=1))


def test_the_lowest_quantile_of_sparse_features_leaves_the_bias(draw):
    case = draw(0)
    detector = case.fit(ReAct(clip="0%"))
    assert float(detector.largest) == 0.0
    torch.testing.assert_close(detector(case.activations), case.head.bias.logsumexp(0).expand(48))


def test_the_highest_quantile_clips_next_to_nothing(draw):
    case = draw(0)
    rectified = case.fit(ReAct(clip="100%")).rectify(case.activations)
    torch.testing.assert_close(rectified.features, case.features, rtol=1.01 * RELATIVE_ERROR, atol=0)


def test_another_scorer_reads_the_clipped_activations(draw, assert_equals):
    case = draw(0)
    detector = case.fit(ReAct(scorer=MaxLogit()))
    clipped = np.minimum(case.f, float(detector.largest))
    assert_equals(detector(case.activations), (clipped @ case.W.T + case.b).max(1))


def test_a_clip_of_a_given_value_needs_no_data(draw, assert_equals):
    case = draw(0)
    detector = case.fit(ReAct(clip=0.7))
    assert_equals(detector(case.activations), np.logaddexp.reduce(np.minimum(case.f, 0.7) @ case.W.T + case.b, axis=1))
    assert detector.statistics(case.head) == {}


@pytest.mark.parametrize("clip", ["-1%", "101%", "much", "%", math.nan])
def test_a_clip_is_a_value_or_a_percentile(clip):
    with pytest.raises(SettingError, match=r"`clip` must be .*; got "):
        ReAct(clip=clip)
