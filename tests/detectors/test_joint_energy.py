"""JointEnergy."""

import numpy as np
import pytest
import torch

from oodline.detectors.joint_energy import JointEnergy
from oodline.detectors.max_logit import MaxLogit
from oodline.errors import SettingError
from oodline.testing import activations_of


@pytest.mark.parametrize("top", [None, 1, 2, 99])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_formula(draw, assert_equals, seed, top):
    case = draw(seed)
    expected = [sum(sorted((np.log1p(np.exp(z)) for z in row), reverse=True)[:top]) for row in case.logits]
    assert_equals(JointEnergy(top=top)(case.activations), np.array(expected))


def test_the_maximum_ranks_as_the_largest_logit(draw):
    activations = draw(0).activations
    assert torch.equal(JointEnergy(top=1)(activations).argsort(), MaxLogit()(activations).argsort())


def test_large_logits_neither_overflow_nor_vanish():
    scores = JointEnergy()(activations_of(torch.tensor([[1000.0, 1000.0], [-50.0, -50.0]])))
    assert scores[0] == 2000
    assert 0 < scores[1] < 1e-20


def test_at_least_one_label_counts():
    with pytest.raises(SettingError, match="`top` must be an integer of at least 1; got 0"):
        JointEnergy(top=0)
