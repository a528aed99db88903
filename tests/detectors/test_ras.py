"""RAS against ranks counted one by one."""

import numpy as np
import pytest
import torch

from oodline.detectors.msp import MSP
from oodline.detectors.ras import RAS
from oodline.testing import activations_of


def replaced(curve: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Each feature gives way to the entry of the curve at its rank: how many are smaller, or equal and before it."""
    return np.array([curve[sum(v < x[j] or (v == x[j] and i < j) for i, v in enumerate(x))] for j in range(len(x))])


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_ranks(draw, assert_equals, seed, signed):
    case, other = draw(seed, n=200, signed=signed), draw(seed + 100, signed=signed)
    curve = np.mean([sorted(x) for x in case.f], axis=0)
    expected = np.array([replaced(curve, x) for x in other.f])
    activations = activations_of(other.features, case.head)
    detector = case.fit(RAS())
    np.testing.assert_allclose(detector.rectify(activations).features.numpy(), expected, rtol=1e-5, atol=1e-6)
    z = expected @ case.W.T + case.b
    assert_equals(detector(activations), np.log(np.exp(z).sum(1)))
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    assert_equals(case.fit(RAS(scorer=MSP()))(activations), np.log(p.max(1)))


def test_only_the_order_is_left(draw):
    case = draw(0, n=200, signed=True)
    detector = case.fit(RAS())
    stretched = activations_of(torch.exp(case.features), case.head)
    assert torch.equal(detector(stretched), detector(case.activations))
