"""Maximum logit."""

import pytest
import torch

from oodline.detectors.max_logit import MaxLogit
from oodline.testing import activations_of


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_largest_logit(draw, assert_equals, seed):
    case = draw(seed)
    assert_equals(MaxLogit()(case.activations), case.logits.max(1))


def test_logits_may_be_negative_and_tied():
    scores = MaxLogit()(activations_of(torch.tensor([[-3.0, -1.0], [2.0, 2.0]])))
    assert scores.tolist() == [-1.0, 2.0]
