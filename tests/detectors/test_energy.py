"""Energy against the sum of exponentials."""

import math

import numpy as np
import pytest
import torch

from oodline.detectors.energy import Energy
from oodline.errors import SettingError
from oodline.testing import activations_of


@pytest.mark.parametrize("temperature", [0.5, 1, 1.0, 10.0, 1000.0])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_log_of_the_sum(draw, assert_equals, seed, temperature):
    case = draw(seed)
    reference = temperature * np.log(np.exp(case.logits / temperature).sum(1))
    assert_equals(Energy(temperature=temperature)(case.activations), reference)


def test_logits_that_overflow_an_exponential():
    scores = Energy()(activations_of(torch.tensor([[1e4, 1e4], [-1e4, -1e4]])))
    torch.testing.assert_close(scores, torch.tensor([1e4, -1e4]) + math.log(2))


def test_a_cold_energy_is_the_largest_logit(draw):
    activations = draw(0).activations
    scores = Energy(temperature=1e-3)(activations)
    torch.testing.assert_close(scores, activations.logits.amax(1), rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("temperature", [0, -1.0, math.nan])
def test_a_temperature_must_be_positive(temperature):
    with pytest.raises(SettingError, match=r"`temperature` must be .*; got "):
        Energy(temperature=temperature)
