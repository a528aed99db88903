"""ASH and SCALE against a loop over samples."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oodline.detectors.ash import ASHB, ASHP, ASHS, SCALE, sharpen
from oodline.errors import SettingError
from oodline.model.head import LinearHead
from oodline.testing import activations_of


def shaped(features: np.ndarray, p: float) -> np.ndarray:
    """Algorithm 3 of the paper, row by row."""
    result = np.zeros_like(features)
    for row, f in zip(result, features, strict=True):
        kept = max(1, len(f) - round(len(f) * p))
        largest = np.argsort(f)[len(f) - kept :]
        if f[largest].sum() > 0:
            row[largest] = f[largest] * np.exp(f.sum() / f[largest].sum())
    return result


@pytest.mark.parametrize("p", [0.0, 0.3, 0.65, 0.9, 0.95])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_algorithm(draw, assert_equals, seed, p):
    case = draw(seed)
    reference = shaped(case.f, p)
    np.testing.assert_allclose(sharpen(case.features, p).numpy(), reference, rtol=1e-5)
    assert_equals(ASHS(p=p)(case.activations), np.logaddexp.reduce(reference @ case.W.T + case.b, axis=1))


def variant(name: str, features: np.ndarray, p: float) -> np.ndarray:
    result = np.zeros_like(features)
    for row, f in zip(result, features, strict=True):
        kept = max(1, len(f) - round(len(f) * p))
        largest = np.argsort(-f, kind="stable")[:kept]  # of equals the first
        if name == "ash-p":
            row[largest] = f[largest]
        elif name == "ash-b":
            row[largest] = f.sum() / kept
        else:
            row[:] = f * np.exp(f.sum() / f[largest].sum())
    return result


@pytest.mark.parametrize("cls", [ASHP, ASHB, SCALE])
@pytest.mark.parametrize("p", [0.0, 0.3, 0.65, 0.9])
@pytest.mark.parametrize("seed", range(2))
def test_variants_equal_their_formulas(draw, assert_equals, seed, p, cls):
    case = draw(seed)
    reference = variant(cls.name, case.f, p)
    assert_equals(cls(p=p)(case.activations), np.logaddexp.reduce(reference @ case.W.T + case.b, axis=1))


def test_scale_keeps_the_predicted_class(draw):
    case = draw(0)
    without_bias = replace(case, head=LinearHead(case.head.weight, torch.zeros(4)))
    activations = without_bias.activations
    assert torch.equal(SCALE().rectify(activations).logits.argmax(1), activations.logits.argmax(1))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.floats(0, 0.99), st.integers(0, 2**31))
def test_as_many_are_kept_as_the_fraction_says(width, p, seed):
    features = torch.rand(3, width, generator=torch.Generator().manual_seed(seed)) + 0.1
    kept = (sharpen(features, p) > 0).sum(1)
    assert kept.tolist() == [max(1, width - round(width * p))] * 3


def test_without_pruning_each_feature_is_multiplied_by_e(draw):
    features = draw(0).features
    torch.testing.assert_close(sharpen(features, 0.0), features * math.e)


def test_a_row_of_zeros_stays_zero(draw):
    case = draw(0)
    silent = activations_of(torch.zeros(2, 12), case.head)
    assert torch.equal(sharpen(silent.features, 0.9), torch.zeros(2, 12))
    torch.testing.assert_close(ASHS()(silent), case.head.bias.logsumexp(0).expand(2))


def test_signed_features_are_multiplied_by_no_more_than_non_negative_ones_could_be(draw):
    features = draw(0, signed=True).features
    largest = features.abs().amax() * math.exp(12 / 1)
    for p in (0.0, 0.5, 0.9):
        assert sharpen(features, p).abs().amax() <= largest


@pytest.mark.parametrize("p", [-0.1, 1.0, 90, math.nan])
def test_a_fraction_is_pruned(p):
    with pytest.raises(SettingError, match=r"`p` must be .*; got "):
        ASHS(p=p)
