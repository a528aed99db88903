"""DICE against a loop over weights."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from oodline.detectors.dice import DICE
from oodline.detectors.msp import MSP
from oodline.errors import HeadError, SettingError
from oodline.model.classifier import Classifier
from oodline.model.head import LinearHead


def mask_of(case, p: float) -> np.ndarray:
    """Keep a weight where its mean contribution over all samples is above the percentile of all of them."""
    classes, width = case.W.shape
    mean = sum(case.f) / len(case.f)
    contribution = [[case.W[c, d] * mean[d] for d in range(width)] for c in range(classes)]
    threshold = np.percentile(contribution, 100 * p)
    return np.array(contribution) > threshold


@pytest.mark.parametrize("p", [0.0, 0.35, 0.7, 0.9])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_formula(draw, assert_equals, seed, p):
    case = draw(seed)
    detector = case.fit(DICE(p=p))
    mask = mask_of(case, p)
    assert np.array_equal(detector.mask.numpy(), mask)
    sparse = case.f @ (case.W * mask).T + case.b
    assert_equals(detector(case.activations), np.logaddexp.reduce(sparse, axis=1))
    assert_equals(
        case.fit(DICE(p=p, scorer=MSP()))(case.activations), (sparse.T - np.logaddexp.reduce(sparse, 1)).T.max(1)
    )


def test_a_contribution_at_the_percentile_is_pruned(draw):
    weight = torch.tensor([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])
    case = draw(0, classes=2, width=3)
    ones = type(case)(torch.ones(4, 3), case.labels[:4], LinearHead(weight, torch.zeros(2)))
    # five steps between six values: the percentile is the value 2 itself
    assert ones.fit(DICE(p=0.4)).mask.tolist() == [[False, False, False], [True, True, True]]
    assert ones.fit(DICE(p=0.0)).mask.tolist() == [[False, True, True], [True, True, True]]


def test_labels_do_not_matter(draw):
    case = draw(0)
    other = type(case)(case.features, torch.zeros_like(case.labels), case.head)
    assert torch.equal(case.fit(DICE()).mask, other.fit(DICE()).mask)


def test_a_head_of_several_layers_is_refused():
    model = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)))
    with pytest.raises(HeadError, match=r"DICE needs one linear layer.*head='NAME'"):
        DICE().fit(Classifier(model, head="1"), [torch.randn(8, 3)])


@pytest.mark.parametrize("p", [-0.1, 1.0, 90, math.nan])
def test_a_fraction_is_pruned(p):
    with pytest.raises(SettingError, match=r"`p` must be .*; got "):
        DICE(p=p)
