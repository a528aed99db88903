"""GMM against the density of one Gaussian per class, written out for each sample."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from oodline.detectors.gmm import GMM
from oodline.errors import LabelError, SettingError
from oodline.testing import activations_of

seeds = pytest.mark.parametrize("seed", range(3))
signs = pytest.mark.parametrize("signed", [False, True])
kinds = pytest.mark.parametrize("covariance", ["diagonal", "full"])


def gmm_of(case, f: np.ndarray, covariance: str, ridge: float) -> np.ndarray:
    parts = []
    for c in range(4):
        own = case.f[case.y == c]
        mean = own.mean(0)
        scatter = sum(np.outer(x - mean, x - mean) for x in own) / len(own)
        matrix = (np.diag(np.diag(scatter)) if covariance == "diagonal" else scatter) + ridge * np.eye(12)
        parts.append((len(own) / len(case.f), mean, matrix))
    scores = []
    for x in f:
        logs = []
        for share, mean, matrix in parts:
            distance = (x - mean) @ np.linalg.solve(matrix, x - mean)
            log_det = np.linalg.slogdet(2 * math.pi * matrix)[1]
            logs.append(math.log(share) - 0.5 * distance - 0.5 * log_det)
        scores.append(np.logaddexp.reduce(logs))
    return np.array(scores)


@seeds
@signs
@kinds
@pytest.mark.parametrize("ridge", [1e-6, 1e-3, 1.0])
@pytest.mark.parametrize("n", [200, 26])
def test_gmm_equals_the_formula(draw, assert_equals, seed, signed, covariance, ridge, n):
    case, other = draw(seed, n=n, signed=signed), draw(seed + 100, signed=signed)
    detector = case.fit(GMM(covariance=covariance, ridge=ridge))
    assert_equals(detector(activations_of(other.features, case.head)), gmm_of(case, other.f, covariance, ridge))


@kinds
def test_classes_count_by_their_share(draw, assert_equals, covariance):
    case = draw(0, n=200)
    case = replace(case, labels=torch.where(torch.arange(200) < 150, 0, 1 + torch.arange(200) % 3))
    scores = case.fit(GMM(covariance=covariance))(case.activations)
    assert_equals(scores, gmm_of(case, case.f, covariance, 1e-3))


@kinds
def test_a_feature_that_never_varies_has_the_variance_of_the_ridge(draw, assert_equals, covariance):
    case = draw(0, n=200)
    features = case.features.clone()
    features[:, 2], features[:, 9] = 0.0, 3.0
    case = replace(case, features=features)
    scores = case.fit(GMM(covariance=covariance, ridge=0.01))(activations_of(features + 0.2, case.head))
    assert_equals(scores, gmm_of(case, (features + 0.2).double().numpy(), covariance, 0.01))


@kinds
def test_far_and_silent_features_have_finite_scores(draw, covariance):
    case = draw(0)
    detector = case.fit(GMM(covariance=covariance))
    for features in (torch.zeros(2, 12), torch.full((2, 12), 1e25)):
        assert detector(activations_of(features, case.head)).isfinite().all()


@kinds
def test_every_class_is_needed(draw, covariance):
    with pytest.raises(LabelError, match=r"1 of 4 classes have no sample .*: 3\."):
        case = draw(0)
        replace(case, labels=case.labels.clamp(max=2)).fit(GMM(covariance=covariance))


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: GMM(covariance="tied"), "`covariance` must be 'diagonal' or 'full'; got 'tied'"),
        (lambda: GMM(ridge=0.0), r"`ridge` must be a number above 0; got 0\.0"),
        (lambda: GMM(ridge=float("nan")), "`ridge` must be a finite number above 0; got nan"),
    ],
)
def test_invalid_settings(build, sentence):
    with pytest.raises(SettingError, match=sentence):
        build()


@kinds
def test_features_over_their_length(draw, covariance):
    case, other = draw(0, n=200), draw(100)
    length = case.features.double().norm(dim=1, keepdim=True)
    given = replace(case, features=case.features.double() / length)
    there = other.f / np.sqrt((other.f**2).sum(1, keepdims=True))
    expected = gmm_of(given, there, covariance, 1e-5)
    scores = case.fit(GMM(covariance=covariance, ridge=1e-5, normalise=1.0))(other.activations)
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-4, atol=1e-3)
