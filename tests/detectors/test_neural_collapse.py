"""NECO and NCI against loops over samples."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from oodline.detectors.nci import NCI
from oodline.detectors.neco import NECO
from oodline.errors import InputError, SettingError
from oodline.model.head import LinearHead
from oodline.testing import activations_of

seeds = pytest.mark.parametrize("seed", range(3))
signs = pytest.mark.parametrize("signed", [False, True])


def neco_of(case, f: np.ndarray, dimension: int | None) -> np.ndarray:
    mean, deviation = case.f.mean(0), case.f.std(0)
    deviation[deviation == 0] = 1.0
    _, singular, right = np.linalg.svd((case.f - mean) / deviation, full_matrices=False)
    if dimension is None:
        share = np.cumsum(singular**2) / np.sum(singular**2)
        dimension = next(d for d in range(1, 13) if share[d - 1] >= 0.9)
    scores = []
    for x in f:
        standard = (x - mean) / deviation
        inside = [direction @ standard for direction in right[:dimension]]
        scores.append(np.linalg.norm(inside) / np.linalg.norm(standard))
    return np.array(scores)


@seeds
@signs
@pytest.mark.parametrize("dimension", [None, 1, 5, 12])
@pytest.mark.parametrize("times_max_logit", [False, True])
def test_neco_equals_the_formula(draw, assert_equals, seed, signed, dimension, times_max_logit):
    case, other = draw(seed, signed=signed), draw(seed + 100, signed=signed)
    detector = case.fit(NECO(dimension=dimension, times_max_logit=times_max_logit))
    expected = neco_of(case, other.f, dimension)
    if times_max_logit:
        expected = expected * (other.f @ case.W.T + case.b).max(1)
    assert_equals(detector(activations_of(other.features, case.head)), expected)


def test_the_whole_space_holds_all_of_every_feature(draw):
    case = draw(0)
    torch.testing.assert_close(case.fit(NECO(dimension=12))(case.activations), torch.ones(48))


def test_a_feature_that_never_varies_is_only_centred(draw, assert_equals):
    case = draw(0)
    features = case.features.clone()
    features[:, 3], features[:, 7] = 0.0, 2.5
    case = replace(case, features=features)
    assert_equals(case.fit(NECO(dimension=4))(case.activations), neco_of(case, case.f, 4))
    moved = features + 0.5
    scores = case.fit(NECO(dimension=4))(activations_of(moved, case.head))
    assert_equals(scores, neco_of(case, moved.double().numpy(), 4))


def test_features_at_the_training_mean_lie_in_no_space(draw):
    case = draw(0)
    centre = torch.from_numpy(case.f.mean(0)).float().repeat(2, 1)
    scores = case.fit(NECO(dimension=2))(activations_of(centre, case.head))
    assert scores.isfinite().all()
    assert ((scores >= 0) & (scores <= 1)).all()


def test_features_that_never_vary_are_refused(draw):
    with pytest.raises(InputError, match="NECO needs features that vary; all seen samples have the same ones"):
        replace(draw(0), features=torch.full((48, 12), 0.3)).fit(NECO())


def test_a_dimension_above_the_number_of_features_is_refused(draw):
    with pytest.raises(SettingError, match=r"NECO\(dimension=13\) is more than the 12 features there are"):
        draw(0).fit(NECO(dimension=13))


def nci_of(case, f: np.ndarray, alpha: float) -> np.ndarray:
    mean = case.f.mean(0)
    scores = []
    for x in f:
        weight = case.W[np.argmax(case.W @ x + case.b)]
        centred = x - mean
        scores.append(weight @ centred / np.sqrt(centred @ centred) + alpha * sum(abs(v) for v in x))
    return np.array(scores)


@seeds
@signs
@pytest.mark.parametrize("alpha", [0.0, 0.0001, 0.1, 5.0])
def test_nci_equals_the_formula(draw, assert_equals, seed, signed, alpha):
    case, other = draw(seed, signed=signed), draw(seed + 100, signed=signed)
    scores = case.fit(NCI(alpha=alpha))(activations_of(other.features, case.head))
    assert_equals(scores, nci_of(case, other.f, alpha))


def test_nci_of_a_class_that_is_never_predicted(draw, assert_equals):
    case = draw(0)
    case = replace(case, head=LinearHead(case.head.weight, torch.tensor([-1e3, 0.0, 0.0, 0.0])))
    assert_equals(case.fit(NCI())(case.activations), nci_of(case, case.f, 0.001))


def test_nci_at_the_training_mean_is_the_size_alone(draw):
    case = draw(0)
    detector = case.fit(NCI(alpha=0.5))
    scores = detector(activations_of(detector.mean.repeat(2, 1), case.head))
    torch.testing.assert_close(scores, 0.5 * detector.mean.abs().sum().repeat(2))


@pytest.mark.parametrize("build", [NECO, lambda: NECO(times_max_logit=True), NCI])
def test_features_of_zero_have_finite_scores(draw, build):
    case = draw(0)
    assert case.fit(build())(activations_of(torch.zeros(2, 12), case.head)).isfinite().all()


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: NECO(dimension=0), "`dimension` must be an integer of at least 1; got 0"),
        (lambda: NCI(alpha=-0.1), r"`alpha` must be a number of at least 0; got -0\.1"),
        (lambda: NCI(alpha=float("nan")), "`alpha` must be a finite number of at least 0; got nan"),
    ],
)
def test_invalid_settings(build, sentence):
    with pytest.raises(SettingError, match=sentence):
        build()
