"""Relation against sums over pairs of samples."""

import numpy as np
import pytest

from oodline.detectors.relation import Relation
from oodline.errors import SettingError
from oodline.testing import activations_of


def kernel(u: np.ndarray, p: np.ndarray, v: np.ndarray, q: np.ndarray) -> float:
    return max(0.0, float(u @ v) / float(np.linalg.norm(u) * np.linalg.norm(v))) * float(p @ q)


def softmax(z: np.ndarray) -> np.ndarray:
    return np.exp(z - z.max()) / np.exp(z - z.max()).sum()


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("power", "threshold"), [(1.0, 0.03), (4.0, 0.03), (1.0, 0.0), (2.0, 0.5)])
def test_equals_the_sum_over_pairs(draw, assert_equals, power, threshold, signed):
    case, other = draw(0, n=100, signed=signed), draw(100, signed=signed)
    known = [(f, softmax(case.W @ f + case.b)) for f in case.f]
    expected = []
    for f in other.f:
        found = [kernel(f, softmax(case.W @ f + case.b), v, q) for v, q in known]
        expected.append(sum(k**power for k in found if k > threshold) / len(known))
    detector = case.fit(Relation(power=power, threshold=threshold))
    assert_equals(detector(activations_of(other.features, case.head)), np.array(expected))


def test_the_bank_is_a_sample(draw):
    case = draw(0, n=200)
    detector = case.fit(Relation(bank=50))
    assert detector.directions.shape == (50, 12) and detector.probabilities.shape == (50, 4)
    np.testing.assert_allclose(detector.directions.norm(dim=1), 1, rtol=1e-6)
    np.testing.assert_allclose(detector.probabilities.sum(1), 1, rtol=1e-6)


@pytest.mark.parametrize("settings", [{"power": 0.0}, {"threshold": 1.5}, {"bank": 0}])
def test_settings_out_of_range(settings):
    with pytest.raises(SettingError, match=next(iter(settings))):
        Relation(**settings)
