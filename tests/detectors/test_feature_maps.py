"""NAP, alone and combined, and MODE-CSD against loops over channels, views and neighbours."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oodline.detectors.catalog import create_detector
from oodline.detectors.energy import Energy
from oodline.detectors.feature_norm import FeatureNorm
from oodline.detectors.mode_csd import ModeCSD
from oodline.detectors.nap import NAP
from oodline.detectors.nap_combined import NAPCombined
from oodline.errors import InputError, SettingError
from oodline.model.activations import Activations
from oodline.model.classifier import Classifier
from oodline.passes.fit import reads
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


# positive scores of logits and features, by the reference of the scorer that gives them or their logarithm
POSITIVE = {
    "msp": lambda f, z: np.exp(z).max(1) / np.exp(z).sum(1),
    "energy": lambda f, z: np.log(np.exp(z).sum(1)),
    "feature-norm": lambda f, z: np.sqrt((f**2).sum(1)),
    "react,clip=9.0,scorer=msp": lambda f, z: np.exp(z).max(1) / np.exp(z).sum(1),
    "odin,temperature=1.0,epsilon=0.0": lambda f, z: np.exp(z).max(1) / np.exp(z).sum(1),
}


def plain_classifier() -> Classifier:
    """A classifier that takes maps as they are, and whose logits are their means and a little more than zero."""
    head = nn.Linear(5, 5)
    with torch.no_grad():
        head.weight.copy_(torch.eye(5))
        head.bias.fill_(0.3)
    return Classifier(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), head))


@pytest.mark.parametrize("w", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("scorer", POSITIVE)
def test_nap_combined_is_a_product_of_powers(scorer, w):
    A = random_map(0).abs()
    classifier = plain_classifier()
    detector = NAPCombined(w=w, epsilon=0.5, scorer=create_detector(scorer))
    detector.fit(classifier, [A])
    f = A.double().numpy().mean((2, 3))
    base = POSITIVE[scorer](f, f + 0.3)
    expected = [s**w * n ** (1 - w) for s, n in zip(base, nap_of(A.double().numpy(), 0.5), strict=True)]
    np.testing.assert_allclose(detector(classifier(A, **reads([detector]))).exp(), expected, rtol=1e-4)


def test_a_negative_score_has_no_power():
    scores = -torch.arange(6.0)[:, None, None, None].expand(6, 5, 2, 2)
    with pytest.raises(InputError, match=r"'energy' gave 4 of 6 below zero \(first: -0\.39056\d* for sample 2 "):
        NAPCombined(scorer=Energy())(with_map(scores))


def test_zero_counts_as_the_smallest_positive_number():
    dark = with_map(torch.zeros(3, 5, 4, 4))
    tiny = np.log(torch.finfo(torch.float32).tiny)
    np.testing.assert_allclose(NAPCombined(w=0.25, scorer=FeatureNorm())(dark), np.full(3, tiny), rtol=1e-5)


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
    statistics = detector._requests(activations.head)
    statistics["bank"].update(activations, None)
    detector._settle(statistics, activations.head)
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
    builds = [lambda: NAP(epsilon=0), lambda: NAPCombined(epsilon=0), lambda: NAPCombined(w=1.1)]
    for build in (*builds, lambda: ModeCSD(k=0), lambda: ModeCSD(k=7, bank=1)):
        with pytest.raises(SettingError, match=r"`(epsilon|w|k|bank)` must be .*; got "):
            build()
