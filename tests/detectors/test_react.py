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
    clip = float(case.fit(ReAct(quantile=quantile)).clip)
    assert clip == pytest.approx(np.quantile(case.f, quantile), rel=1.01 * RELATIVE_ERROR)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("quantile", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_formula(draw, assert_equals, seed, quantile, signed):
    case = draw(seed, signed=signed)
    detector = case.fit(ReAct(quantile=quantile))
    clipped = np.minimum(case.f, float(detector.clip))
    assert_equals(detector(case.activations), np.logaddexp.reduce(clipped @ case.W.T + case.b, axis=1))


def test_the_lowest_quantile_of_sparse_features_leaves_the_bias(draw):
    case = draw(0)
    detector = case.fit(ReAct(quantile=0.0))
    assert float(detector.clip) == 0.0
    torch.testing.assert_close(detector(case.activations), case.head.bias.logsumexp(0).expand(48))


def test_the_highest_quantile_clips_next_to_nothing(draw):
    case = draw(0)
    rectified = case.fit(ReAct(quantile=1.0)).rectify(case.activations)
    torch.testing.assert_close(rectified.features, case.features, rtol=1.01 * RELATIVE_ERROR, atol=0)


def test_another_scorer_reads_the_clipped_activations(draw, assert_equals):
    case = draw(0)
    detector = case.fit(ReAct(scorer=MaxLogit()))
    clipped = np.minimum(case.f, float(detector.clip))
    assert_equals(detector(case.activations), (clipped @ case.W.T + case.b).max(1))


@pytest.mark.parametrize("quantile", [-0.1, 1.1, 90, math.nan])
def test_a_quantile_lies_in_the_unit_interval(quantile):
    with pytest.raises(SettingError, match=r"quantile in \[0, 1\]"):
        ReAct(quantile=quantile)
