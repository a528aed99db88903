"""MCM."""

import numpy as np
import pytest
import torch

import oodline as ol
from oodline.detectors.mcm import MCM


def cosines(case):
    f, w = (np.asarray(x, dtype=np.float64) for x in (case.features, case.head.weight))
    return f @ w.T / np.linalg.norm(f, axis=1, keepdims=True) / np.linalg.norm(w, axis=1)


@pytest.mark.parametrize("temperature", [1.0, 0.01])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_formula(draw, assert_equals, seed, temperature):
    case = draw(seed)
    e = np.exp(cosines(case) / temperature)
    assert_equals(MCM(temperature=temperature)(case.activations), np.log((e / e.sum(1, keepdims=True)).max(1)))


def test_is_msp_at_the_temperature_of_the_scale():
    torch.manual_seed(0)
    classifier = ol.Classifier.zero_shot(torch.nn.Flatten(), torch.randn(5, 8), scale=20)
    activations = classifier(torch.randn(50, 8))
    torch.testing.assert_close(MCM(temperature=1 / 20)(activations).float(), ol.MSP()(activations))
