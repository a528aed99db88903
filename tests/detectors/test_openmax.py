"""OpenMax against loops over samples and classes, its Weibull distributions against a search of the likelihood."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from oodline.detectors.openmax import TRANSLATION, OpenMax, weibull_of_tail
from oodline.errors import LabelError, SettingError
from oodline.model.head import LinearHead
from oodline.testing import activations_of

seeds = pytest.mark.parametrize("seed", range(3))
signs = pytest.mark.parametrize("signed", [False, True])


def log_likelihood(x: np.ndarray, shape: float) -> tuple[float, float]:
    """Of a Weibull distribution with the best scale for its shape; and the logarithm of that scale."""
    logs = np.log(x)
    power = shape * logs.max() + np.log(np.mean(np.exp(shape * (logs - logs.max()))))  # of the mean of x^shape
    return len(x) * (np.log(shape) - power - 1) + (shape - 1) * logs.sum(), power / shape


def weibull_of(distances: np.ndarray, tail: int) -> tuple[float, float, float]:
    """Smallest distance, shape and logarithm of the scale, the shape narrowed down by thirds."""
    largest = sorted(distances)[-tail:]
    x = np.array([d - largest[0] + TRANSLATION for d in largest])
    low, high = 1e-3, 1e12
    for _ in range(300):
        left, right = low ** (2 / 3) * high ** (1 / 3), low ** (1 / 3) * high ** (2 / 3)
        if log_likelihood(x, left)[0] < log_likelihood(x, right)[0]:
            low = left
        else:
            high = right
    return largest[0], low, log_likelihood(x, low)[1]


@pytest.mark.parametrize("tail", [2, 5, 20])
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
@seeds
def test_the_tail_has_the_most_likely_weibull_distribution(seed, tail, scale):
    distances = scale * np.random.default_rng(seed).gamma(5.0, size=100)
    smallest, shape, log_scale = weibull_of_tail(distances, tail)
    expected = weibull_of(distances, tail)
    assert smallest == expected[0]
    np.testing.assert_allclose(shape, expected[1], rtol=1e-3)  # the likelihood is flat at its top
    np.testing.assert_allclose(log_scale + np.log(TRANSLATION), expected[2], rtol=1e-7)
    x = np.sort(distances)[-tail:] - smallest + TRANSLATION
    assert log_likelihood(x, shape)[0] >= log_likelihood(x, expected[1])[0] - 1e-6


def openmax_of(case, logits: np.ndarray, tail: int, alpha: int) -> np.ndarray:
    classes = case.W.shape[0]
    alpha = min(alpha, classes)
    fits = {}
    for c in range(classes):
        own = case.logits[(case.y == c) & (case.logits.argmax(1) == c)]
        if len(own):
            mean = own.mean(0)
            fits[c] = mean, weibull_of(np.array([np.linalg.norm(z - mean) for z in own]), tail)
    scores = []
    for z in logits:
        known, unknown = z.copy(), 0.0
        for i, c in enumerate(np.argsort(-z)[:alpha], start=1):
            outlier = 1.0
            if c in fits:
                mean, (smallest, shape, log_scale) = fits[c]
                x = np.linalg.norm(z - mean) - smallest + TRANSLATION
                outlier = 1 - np.exp(-np.exp(shape * (np.log(x) - log_scale)))
            known[c] = z[c] * (1 - outlier * (alpha + 1 - i) / alpha)
            unknown += z[c] - known[c]
        scores.append(np.logaddexp.reduce(known) - unknown)
    return np.array(scores)


def nearest_centre(case):
    """The case with a head that gets most of the samples right."""
    centres = torch.stack([case.features[case.labels == c].mean(0) for c in range(4)])
    return replace(case, head=LinearHead(centres, -0.5 * centres.square().sum(1)))


@seeds
@signs
@pytest.mark.parametrize(("tail", "alpha"), [(20, 10), (5, 2), (3, 1), (1000, 4)])
def test_openmax_equals_the_formula(draw, seed, signed, tail, alpha):
    case, other = nearest_centre(draw(seed, n=120, signed=signed)), draw(seed + 100, signed=signed)
    activations = activations_of(other.features, case.head)
    scores = case.fit(OpenMax(tail=tail, alpha=alpha))(activations)
    expected = openmax_of(case, activations.logits.double().numpy(), tail, alpha)
    np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-3)  # the search for the shape ends there


def test_a_class_that_is_never_right_is_an_outlier(draw):
    case = nearest_centre(draw(0, n=120))
    case = replace(case, head=LinearHead(case.head.weight, torch.tensor([-1e3, 0.0, 0.0, 0.0]) + case.head.bias))
    expected = openmax_of(case, case.logits, 20, 10)
    np.testing.assert_allclose(case.fit(OpenMax())(case.activations), expected, rtol=1e-3, atol=1e-3)


def test_samples_that_are_wrong_do_not_count(draw):
    case = nearest_centre(draw(0, n=120))
    right = case.logits.argmax(1) == case.y
    assert 0 < right.sum() < 120
    alone = replace(case, features=case.features[right], labels=case.labels[right])
    torch.testing.assert_close(case.fit(OpenMax())(case.activations), alone.fit(OpenMax())(case.activations))


def test_without_any_right_sample_there_is_nothing_to_measure_from(draw):
    case = draw(0)
    wrong = replace(case, labels=torch.from_numpy((case.logits.argmax(1) + 1) % 4))
    with pytest.raises(LabelError, match="none of the 48 sampled images is classified correctly"):
        wrong.fit(OpenMax())


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e4])
def test_logits_of_any_size_have_finite_scores(draw, scale):
    case = nearest_centre(draw(0))
    assert case.fit(OpenMax())(activations_of(scale * case.features, case.head)).isfinite().all()


def test_where_all_distances_are_equal_whatever_is_farther_is_an_outlier(draw):
    case = nearest_centre(draw(0, n=4))
    detector = replace(case, features=case.features.repeat(3, 1), labels=case.labels.repeat(3)).fit(OpenMax())
    moved = activations_of(case.features + 1, case.head)
    expected = []
    for z in moved.logits.double().numpy():
        share = np.zeros(4)
        share[np.argsort(-z)] = [1.0, 0.75, 0.5, 0.25]
        expected.append(np.logaddexp.reduce(z * (1 - share)) - sum(z * share))
    np.testing.assert_allclose(detector(moved), expected, rtol=1e-5)
    assert detector(case.activations).isfinite().all()


@pytest.mark.parametrize("setting", [{"tail": 0}, {"alpha": 0}, {"samples": 0}])
def test_invalid_settings(setting):
    with pytest.raises(SettingError, match=r"`(alpha|samples|tail)` must (be|have) .*; got "):
        OpenMax(**setting)
