"""KNN against sorting all distances."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from oodline.detectors.knn import KNN
from oodline.errors import InputError, SettingError
from oodline.statistics import Reservoir
from oodline.testing import activations_of


def scores_of(bank: np.ndarray, f: np.ndarray, k: int) -> np.ndarray:
    """Minus the k-th smallest distance between normalised features."""
    bank = np.array([x / np.linalg.norm(x) for x in bank])
    return np.array([-sorted(np.linalg.norm(x / np.linalg.norm(x) - n) for n in bank)[k - 1] for x in f])


@pytest.mark.parametrize("k", [1, 5, 48])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_equals_sorting(draw, assert_equals, seed, signed, k):
    case, other = draw(seed, signed=signed), draw(seed + 100, signed=signed)
    assert_equals(case.fit(KNN(k=k))(other.activations), scores_of(case.f, other.f, k))


def test_a_training_sample_is_its_own_neighbour(draw):
    case = draw(0)
    torch.testing.assert_close(case.fit(KNN(k=1))(case.activations), torch.zeros(48), rtol=0, atol=1e-6)


def test_a_close_neighbour_is_measured_without_cancellation(draw):
    case = draw(0, n=8, width=3)
    near = torch.tensor([[1.0, 0.0, 0.0]])
    bank = replace(case, features=near + 1e-4 * torch.tensor([[0.0, 1.0, 0.0]]), labels=case.labels[:1])
    # 2 - 2 cos would be 1e-8, which single precision cannot tell from zero
    scores = bank.fit(KNN(k=1))(activations_of(near, case.head))
    torch.testing.assert_close(scores, torch.tensor([-1e-4]), rtol=1e-3, atol=0)


def test_the_size_of_the_features_does_not_matter(draw):
    case = draw(0)
    detector = case.fit(KNN(k=5))
    larger = activations_of(1000 * case.features, case.head)
    torch.testing.assert_close(detector(larger), detector(case.activations), rtol=1e-4, atol=1e-6)


def test_a_full_bank_keeps_the_sample_of_the_reservoir(draw, assert_equals):
    case = draw(0)
    reservoir = Reservoir(10)
    reservoir.update(case.activations, case.labels)
    detector = case.fit(KNN(k=3, bank=10))
    assert detector.neighbours.shape == (10, 12)
    assert_equals(detector(case.activations), scores_of(case.f[reservoir.index.numpy()], case.f, 3))


def test_fewer_samples_than_k(draw):
    with pytest.raises(InputError, match=r"KNN\(k=49\) needs at least 49 training samples; 48 were seen"):
        draw(0).fit(KNN(k=49))


@pytest.mark.parametrize("setting", [{"k": 0}, {"k": -1}, {"k": 6, "bank": 5}, {"bank": 0}])
def test_invalid_settings(setting):
    with pytest.raises(SettingError, match="1 <= k <= bank"):
        KNN(**setting)
