"""MSP against the softmax written out."""

import math

import numpy as np
import pytest
import torch

from oodline.detectors.msp import MSP, log_max_softmax
from oodline.testing import activations_of


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_softmax(draw, assert_equals, seed):
    case = draw(seed)
    reference = [np.log(max(np.exp(z) / np.exp(z).sum())) for z in case.logits]
    assert_equals(MSP()(case.activations), np.array(reference))


def test_the_score_is_the_log_of_the_probability():
    scores = MSP()(activations_of(torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, math.log(3), -1e9, -1e9]])))
    torch.testing.assert_close(scores.exp(), torch.tensor([0.25, 0.75]))


def test_confident_samples_whose_probability_rounds_to_one_still_rank():
    logits = torch.tensor([[60.0, 0.0, 0.0], [50.0, 0.0, 0.0], [0.0, 20.0, 1.0]])
    assert (logits.softmax(1).amax(1) == 1).all()
    scores = log_max_softmax(logits)
    assert scores[0] > scores[1] > scores[2]
    torch.testing.assert_close(scores[:2].double(), -2 * torch.tensor([-60.0, -50.0]).double().exp(), rtol=1e-4, atol=0)


def test_logits_of_any_size():
    logits = torch.tensor([[1e38, -1e38], [-1e38, -1e38], [1e30, 1e30]])
    torch.testing.assert_close(log_max_softmax(logits), torch.tensor([0.0, -math.log(2), -math.log(2)]))


def test_a_constant_added_to_the_logits_changes_nothing(draw):
    logits = draw(0).activations.logits.double()
    torch.testing.assert_close(log_max_softmax(logits + 100), log_max_softmax(logits))
