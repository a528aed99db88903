"""LTS against a loop over samples."""

import numpy as np
import pytest
import torch

from oodline import LTS, MSP
from oodline.errors import SettingError
from oodline.testing import activations_of


def factor_of(x: np.ndarray, p: float) -> float:
    positive = np.maximum(x, 0)
    kept = np.sort(positive)[::-1][: max(1, len(x) - round(len(x) * p))]
    return (positive.sum() / kept.sum()) ** 2


def logsumexp(z: np.ndarray) -> float:
    return float(np.log(np.exp(z - z.max()).sum()) + z.max())


@pytest.mark.parametrize("p", [0.0, 0.3, 0.95])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_formula(draw, assert_equals, seed, signed, p):
    case = draw(seed, signed=signed)
    expected = [logsumexp(factor_of(x, p) * z) for x, z in zip(case.f, case.logits, strict=True)]
    assert_equals(LTS(p=p)(case.activations), np.array(expected))


def test_another_scorer_sees_the_scaled_logits_and_the_features_as_they_are(draw, assert_equals):
    case = draw(0)
    scaled = np.array([factor_of(x, 0.5) * z for x, z in zip(case.f, case.logits, strict=True)])
    assert_equals(LTS(p=0.5, scorer=MSP())(case.activations), [z.max() - logsumexp(z) for z in scaled])
    rectified = LTS(p=0.5).rectify(case.activations)
    assert torch.equal(rectified.features, case.activations.features)
    assert torch.equal(rectified.predicted, case.activations.predicted)


def test_a_sample_without_positive_features_keeps_its_logits():
    features = torch.tensor([[0.0, 0.0, 0.0], [-1.0, -2.0, 0.0]])
    torch.testing.assert_close(LTS(p=0.5)(activations_of(features)), features.logsumexp(1))


@pytest.mark.parametrize("p", [-0.1, 1.0, "half"])
def test_invalid_settings(p):
    with pytest.raises(SettingError, match=r"`p` must be .*; got "):
        LTS(p=p)
