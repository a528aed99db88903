"""NAP and MODE-CSD against loops over channels, views and neighbours."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from oodline.activations import Activations
from oodline.detectors.mode_csd import ModeCSD
from oodline.detectors.nap import NAP
from oodline.errors import InputError, SettingError
from oodline.testing import activations_of


def with_map(feature_map: Tensor) -> Activations:
    return activations_of(feature_map.mean((2, 3))).replace(feature_map=feature_map)


def random_map(seed: int, n: int = 12, *size: int) -> Tensor:
    return torch.randn(n, 5, *(size or (4, 4)), generator=torch.Generator().manual_seed(seed))


def nap_of(A: np.ndarray, epsilon: float) -> list[float]:
    return [
        float(np.mean([(np.maximum(c, 0).max() / (np.maximum(c, 0).mean() + epsilon)) ** 2 for c in image]))
        for image in A
    ]


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (7, 3)])
@pytest.mark.parametrize("epsilon", [0.1, 1.0])
def test_nap_equals_the_formula(size, epsilon):
    A = random_map(0, 12, *size)
    np.testing.assert_allclose(NAP(epsilon=epsilon)(with_map(A)), nap_of(A.double().numpy(), epsilon), rtol=1e-5)


def unit(v: np.ndarray) -> np.ndarray:
    return v / np.linalg.norm(v)


def views_of(image: np.ndarray) -> list[np.ndarray]:
    """Quarters, whole and centre of a map whose sides are multiples of four."""
    h, w = image.shape[1:]
    parts = [image[:, i : i + h // 2, j : j + w // 2] for i in (0, h // 2) for j in (0, w // 2)]
    parts += [image, image[:, h // 4 : 3 * h // 4, w // 4 : 3 * w // 4]]
    return [unit(part.mean((1, 2))) for part in parts]


def mode_of(train: np.ndarray, test: np.ndarray, k: int) -> list[float]:
    bank = [view for image in train for view in views_of(image)]
    return [
        max(-sorted(np.sum((view - other) ** 2) for other in bank)[k - 1] for view in views_of(image)) for image in test
    ]


def fitted(train: Tensor, **settings: int) -> ModeCSD:
    detector, activations = ModeCSD(**settings), with_map(train)
    statistics = detector.requests(activations.head)
    statistics["bank"].update(activations, None)
    detector.settle(statistics, activations.head)
    return detector


@pytest.mark.parametrize("k", [1, 10, 72])
@pytest.mark.parametrize("size", [(4, 4), (8, 12)])
def test_mode_csd_equals_sorting(size, k):
    train, test = random_map(0, 12, *size), random_map(1, 9, *size)
    expected = mode_of(train.double().numpy(), test.double().numpy(), k)
    np.testing.assert_allclose(fitted(train, k=k)(with_map(test)), expected, rtol=1e-4, atol=1e-5)


def test_maps_of_any_size_have_six_views():
    for size in ((1, 1), (2, 2), (3, 5), (7, 7)):
        assert fitted(random_map(0, 4, *size), k=1).neighbours.shape == (24, 5)


def test_fewer_views_than_k():
    with pytest.raises(InputError, match="needs at least 25 views, 6 an image; 24 were seen"):
        fitted(random_map(0, 4), k=25)


@pytest.mark.parametrize("detector", [NAP(), fitted(random_map(0), k=1)], ids=["nap", "mode-csd"])
def test_activations_without_a_map_are_refused(detector):
    with pytest.raises(InputError, match="hold none"):
        detector(replace(with_map(random_map(0)), feature_map=None))


def test_invalid_settings():
    for build in (lambda: NAP(epsilon=0), lambda: ModeCSD(k=0), lambda: ModeCSD(k=7, bank=1)):
        with pytest.raises(SettingError, match="needs"):
            build()
