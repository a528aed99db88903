"""Mahalanobis distance against a loop over classes and the inverse of NumPy."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from oodline.detectors.mahalanobis import Mahalanobis, whitening
from oodline.errors import LabelError


def scores_of(case, f: np.ndarray) -> np.ndarray:
    """Minus the distance to the nearest class mean, under the covariance pooled over the classes."""
    means = [case.f[case.y == c].mean(0) for c in range(len(case.W))]
    pooled = sum(np.outer(x - means[c], x - means[c]) for x, c in zip(case.f, case.y, strict=True)) / len(case.f)
    precision = np.linalg.pinv(pooled, hermitian=True)
    return np.array([-min((x - m) @ precision @ (x - m) for m in means) for x in f])


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_formula(draw, assert_equals, seed, signed):
    case, other = draw(seed, n=200, signed=signed), draw(seed + 100, signed=signed)
    scores = case.fit(Mahalanobis())(other.activations)
    assert_equals(scores, scores_of(case, other.f))


def test_features_far_from_the_origin_cost_no_precision(draw):
    case = draw(0, n=200, signed=True)
    # multiples of 1/64 near 100 are exact in single precision, so that shifting loses nothing
    case = replace(case, features=(64 * case.features).round() / 64)
    far = replace(case, features=case.features + 100)
    torch.testing.assert_close(
        far.fit(Mahalanobis())(far.activations), case.fit(Mahalanobis())(case.activations), rtol=1e-3, atol=1e-4
    )


def test_dead_features_are_left_out(draw, assert_equals):
    case = draw(0, n=200)
    features = case.features.clone()
    features[:, [2, 7]] = 0
    dead = replace(case, features=features)
    detector = dead.fit(Mahalanobis())
    assert detector.whiten.shape == (12, 10)
    scores = detector(dead.activations)
    assert_equals(scores, scores_of(dead, dead.f))
    # they have no variance to measure a distance by, so they do not count when they come alive either
    assert_equals(detector(case.activations), scores.double().numpy())


def test_a_feature_given_twice_counts_once(draw, assert_equals):
    case = draw(0, n=200)
    twice = replace(case, features=torch.cat([case.features, case.features[:, :1]], 1))
    twice = replace(twice, head=draw(0, width=13).head)
    assert_equals(twice.fit(Mahalanobis())(twice.activations), scores_of(case, case.f))


def test_fewer_samples_than_features(draw):
    case = draw(0, n=16, width=40)
    detector = case.fit(Mahalanobis())
    assert detector.whiten.shape == (40, 16 - 4)
    assert detector(case.activations).isfinite().all()


@pytest.mark.parametrize("seed", range(3))
def test_whitening_is_a_root_of_the_inverse(seed):
    root = np.random.default_rng(seed).normal(size=(6, 9))
    covariance = root @ root.T
    whiten = whitening(torch.from_numpy(covariance)).numpy()
    np.testing.assert_allclose(whiten @ whiten.T, np.linalg.inv(covariance), rtol=1e-8)


def test_one_sample_a_class_gives_no_covariance(draw):
    with pytest.raises(LabelError, match=r"the 4 samples of 4 classes do not vary within a class"):
        draw(0, n=4).fit(Mahalanobis())


@pytest.mark.parametrize("copies", [2, 5, 7, 49])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_copies_of_one_sample_a_class_give_no_covariance(draw, dtype, copies):
    case = draw(0, n=4)
    # a third has no end in binary, so that the mean of copies is rounded
    features = (case.features.to(dtype) / 3).repeat(copies, 1)
    copied = replace(case, features=features, labels=case.labels.repeat(copies), head=case.head.to(features))
    with pytest.raises(LabelError, match="do not vary within a class"):
        copied.fit(Mahalanobis(), batch=len(features))


def test_a_class_without_samples_is_named(draw):
    case = draw(0)
    with pytest.raises(LabelError, match=r"1 of 4 classes .*: 3\."):
        replace(case, labels=case.labels.clamp(max=2)).fit(Mahalanobis())
