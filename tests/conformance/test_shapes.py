"""Shapes in signatures are checked while tests run."""

import jaxtyping
import pytest
import torch

from oodline.detectors.line import weight_thresholds
from oodline.detectors.msp import log_max_softmax
from oodline.testing import activations_of


def test_an_argument_of_the_wrong_rank_is_refused():
    with pytest.raises(jaxtyping.TypeCheckError, match=r"log_max_softmax"):
        log_max_softmax(torch.zeros(3))


def test_sizes_of_one_name_must_agree():
    with pytest.raises(jaxtyping.TypeCheckError, match=r"weight_thresholds"):
        weight_thresholds(torch.ones(2, 5), torch.ones(3, 4), 0.1, 0.1, absolute=False)


def test_the_fields_of_a_record_are_checked():
    with pytest.raises(jaxtyping.TypeCheckError, match=r"index"):
        activations_of(torch.zeros(3, 2)).replace(index=torch.arange(4))
