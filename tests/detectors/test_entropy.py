"""Entropy and GEN against sums over classes."""

import numpy as np
import pytest
import torch

from oodline.detectors.entropy import GEN, Entropy, generalised_entropy
from oodline.errors import SettingError
from oodline.testing import activations_of


def softmax(z: np.ndarray) -> np.ndarray:
    return np.exp(z - np.logaddexp.reduce(z))


@pytest.mark.parametrize("seed", range(3))
def test_entropy_equals_the_formula(draw, assert_equals, seed):
    case = draw(seed)
    expected = [sum(p * np.log(p) for p in softmax(z)) for z in case.logits]
    assert_equals(Entropy()(case.activations), np.array(expected))


@pytest.mark.parametrize(("gamma", "top"), [(0.1, 100), (0.1, 2), (0.5, 4), (0.9, 1)])
def test_gen_equals_the_formula(draw, assert_equals, gamma, top):
    case = draw(0)
    expected = []
    for z in case.logits:
        p = sorted(softmax(z), reverse=True)[:top]
        expected.append(-sum(q**gamma * (1 - q) ** gamma for q in p))
    assert_equals(GEN(gamma=gamma, top=top)(case.activations), np.array(expected))


def test_certainties_are_told_apart_where_single_precision_says_one():
    logits = torch.tensor([[0.0, 20.0], [0.0, 30.0], [0.0, 40.0]])
    assert (torch.softmax(logits, 1).amax(1) == 1).all()
    scores = -generalised_entropy(logits, 0.1, 2)
    assert (scores.diff() > 0.01).all()


def test_impossible_classes_do_not_give_nan():
    logits = torch.tensor([[0.0, 1e4, -1e4]])
    for detector in (Entropy(), GEN()):
        assert float(detector(activations_of(logits))) == 0


@pytest.mark.parametrize("setting", [{"gamma": 0}, {"gamma": 1}, {"gamma": -0.1}, {"top": 0}])
def test_invalid_settings(setting):
    with pytest.raises(SettingError, match=r"`(gamma|top)` must (be|have) .*; got "):
        GEN(**setting)
