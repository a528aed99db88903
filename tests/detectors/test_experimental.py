"""HAct, SISOM and the Fisher-weighted GradNorm against loops over samples, neurons and assignments."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch

from oodline.detectors.catalog import CATALOG, detector_class
from oodline.detectors.experimental.fisher_gradnorm import FisherGradNorm
from oodline.detectors.experimental.hact import HAct
from oodline.detectors.experimental.sisom import SISOM
from oodline.detectors.experimental.soft_line import SoftLINe
from oodline.errors import InputError, SettingError
from oodline.model.head import LinearHead
from oodline.testing import activations_of

seeds = pytest.mark.parametrize("seed", range(3))
signs = pytest.mark.parametrize("signed", [False, True])


def softmax(z: np.ndarray) -> np.ndarray:
    return np.exp(z - np.logaddexp.reduce(z))


def contributions_of(case, x: np.ndarray) -> tuple[int, np.ndarray]:
    c = int(np.argmax(case.W @ x + case.b))
    return c, np.array(sorted(abs(w * v) for w, v in zip(case.W[c], x, strict=True)))


def hact_of(case, f: np.ndarray) -> np.ndarray:
    train = [contributions_of(case, x) for x in case.f]
    scores = []
    for x in f:
        c, found = contributions_of(case, x)
        same = [other for predicted, other in train if predicted == c] or [other for _, other in train]
        scores.append(-np.sqrt(np.mean((found - np.mean(same, axis=0)) ** 2)))
    return np.array(scores)


@seeds
@signs
def test_hact_equals_the_formula(draw, assert_equals, seed, signed):
    case, other = draw(seed, signed=signed), draw(seed + 100, signed=signed)
    assert_equals(case.fit(HAct())(activations_of(other.features, case.head)), hact_of(case, other.f))


def test_hact_of_a_class_never_predicted_takes_the_mean_of_all(draw, assert_equals):
    case = draw(0)
    fitted_on = replace(case, head=LinearHead(case.head.weight, torch.tensor([-1e3, 0.0, 0.0, 0.0])))
    detector = fitted_on.fit(HAct())
    train = [contributions_of(fitted_on, x)[1] for x in case.f]
    assert_equals(detector.barycentres[0], np.mean(train, axis=0))


def test_hact_measures_the_wasserstein_distance(draw):
    """With a training set of one sample per class, the distance is that of the best of all assignments."""
    case = draw(1, n=30, width=5)
    first = {c: i for i, c in reversed(list(enumerate(case.logits.argmax(1))))}
    rows = torch.tensor(sorted(first.values()))
    detector = replace(case, features=case.features[rows], labels=case.labels[rows]).fit(HAct())
    scores = detector(case.activations)
    for x, score in zip(case.f, scores.tolist(), strict=True):
        c, found = contributions_of(case, x)
        _, known = contributions_of(case, case.f[first[c]])
        cheapest = min(np.mean((found[list(order)] - known) ** 2) for order in permutations(range(5)))
        np.testing.assert_allclose(score, -np.sqrt(cheapest), rtol=1e-5, atol=1e-6)


def states_of(case, f: np.ndarray, alpha: float) -> np.ndarray:
    rows = []
    for x in f:
        p = softmax(case.W @ x + case.b)
        gradient = [sum((p[c] - 1 / 4) * case.W[c, d] for c in range(4)) for d in range(12)]
        rows.append([1 / (1 + np.exp(-alpha * v * g)) for v, g in zip(x, gradient, strict=True)])
    return np.array(rows)


def sisom_of(case, f: np.ndarray, alpha: float) -> np.ndarray:
    bank, predicted = states_of(case, case.f, alpha), case.logits.argmax(1)
    scores = []
    for x, state in zip(f, states_of(case, f, alpha), strict=True):
        c = np.argmax(case.W @ x + case.b)
        distances = [np.linalg.norm(state - other) for other in bank]
        inside = [d for d, k in zip(distances, predicted, strict=True) if k == c]
        outside = [d for d, k in zip(distances, predicted, strict=True) if k != c]
        scores.append(-(min(inside) if inside else max(distances)) / min(outside))
    return np.array(scores)


@seeds
@signs
@pytest.mark.parametrize("alpha", [0.01, 1.0, 20.0])
def test_sisom_equals_the_formula(draw, seed, signed, alpha):
    case, other = draw(seed, signed=signed), draw(seed + 100, signed=signed)
    scores = case.fit(SISOM(alpha=alpha))(activations_of(other.features, case.head))
    np.testing.assert_allclose(scores, sisom_of(case, other.f, alpha), rtol=1e-3, atol=1e-4)


def test_the_state_of_a_neuron_is_its_share_in_the_gradient(draw):
    case = draw(0)
    features = case.features.double().requires_grad_()
    logits = features @ case.head.weight.double().T + case.head.bias.double()
    (-torch.log_softmax(logits, 1).mean(1)).sum().backward()
    expected = torch.sigmoid(features.detach() * features.grad)
    np.testing.assert_allclose(states_of(case, case.f, 1.0), expected, rtol=1e-9)


def test_a_training_sample_is_its_own_neighbour(draw):
    case = draw(0)
    assert (case.fit(SISOM(alpha=1.0))(case.activations).abs() < 1e-4).all()


def test_sisom_of_a_class_that_the_bank_does_not_hold(draw):
    case = draw(0)
    predicted = case.logits.argmax(1)
    rare = int(np.bincount(predicted).argmin())
    rows = torch.from_numpy(np.flatnonzero(predicted != rare))
    others = replace(case, features=case.features[rows], labels=case.labels[rows])
    found = others.fit(SISOM(alpha=1.0))(case.activations)
    np.testing.assert_allclose(found, sisom_of(others, case.f, 1.0), rtol=1e-3, atol=1e-4)


def test_sisom_compares_classes(draw):
    case = draw(0)
    one = replace(case, head=LinearHead(case.head.weight, torch.tensor([1e3, 0.0, 0.0, 0.0])))
    with pytest.raises(InputError, match="SISOM compares classes, and all 48 kept samples were predicted as one"):
        one.fit(SISOM())


def fisher_of(case, f: np.ndarray) -> np.ndarray:
    def factors(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (softmax(case.W @ x + case.b) - 1 / 4) ** 2, x**2

    pulls, sizes = zip(*(factors(x) for x in case.f), strict=True)
    pull, size = np.mean(pulls, axis=0), np.mean(sizes, axis=0)
    scores = []
    for x in f:
        squared_pull, squared_size = factors(x)
        # the squared entry (c, d) of the gradient is the product, and so is its mean in the factored metric
        scores.append(
            sum(
                squared_pull[c] * squared_size[d] / (pull[c] * size[d])
                for c in range(4)
                for d in range(12)
                if size[d] > 1e-12 * size.max()
            )
        )
    return np.array(scores)


@seeds
@signs
def test_fisher_gradnorm_equals_the_formula(draw, assert_equals, seed, signed):
    case, other = draw(seed, signed=signed), draw(seed + 100, signed=signed)
    assert_equals(case.fit(FisherGradNorm())(activations_of(other.features, case.head)), fisher_of(case, other.f))


def test_fisher_gradnorm_leaves_out_what_never_moved(draw, assert_equals):
    case = draw(0)
    features = case.features.clone()
    features[:, 4] = 0.0
    silent = replace(case, features=features)
    assert_equals(silent.fit(FisherGradNorm())(case.activations), fisher_of(silent, case.f))


def test_on_average_the_training_data_has_the_length_of_the_factors(draw):
    """Each squared factor divided by its mean averages to one, so their sums average to C and to D."""
    case = draw(0, n=400)
    detector = case.fit(FisherGradNorm())
    p = torch.softmax(case.activations.logits.double(), 1)
    pulls = (p - 0.25).square() @ detector.pull.double()
    sizes = case.features.double().square() @ detector.size.double()
    torch.testing.assert_close(pulls.mean(), torch.tensor(4.0, dtype=torch.float64), rtol=1e-5, atol=0)
    torch.testing.assert_close(sizes.mean(), torch.tensor(12.0, dtype=torch.float64), rtol=1e-5, atol=0)


@pytest.mark.parametrize("build", [HAct, SISOM, FisherGradNorm])
@pytest.mark.parametrize("scale", [0.0, 1e4, 1e25])
def test_silent_and_large_features_have_finite_scores(draw, build, scale):
    case = draw(0)
    assert case.fit(build())(activations_of(scale * case.features, case.head)).isfinite().all()


def test_those_that_are_uncertain_say_why():
    uncertain = {name for name in CATALOG if detector_class(name).experimental}
    assert uncertain == {name for name, path in CATALOG.items() if ".experimental." in path}
    assert {"hact", "sisom", "fisher-gradnorm"} <= uncertain


@pytest.mark.parametrize("setting", [{"alpha": 0.0}, {"alpha": float("nan")}, {"bank": 1}])
def test_invalid_settings(setting):
    with pytest.raises(SettingError, match=r"`(alpha|bank)` must (be|have) .*; got "):
        SISOM(**setting)


def soft_line_of(case, f: np.ndarray, keep: float, p_a: float, p_w: float, clip: float) -> np.ndarray:
    """Masks as sets of neurons and of weights, one input at a time."""
    S = np.stack([case.W[c] * case.f[case.y == c].mean(0) for c in range(len(case.W))])
    scores = []
    for x in f:
        h = np.minimum(x, clip)
        c = int(np.argmax(case.W @ h + case.b))
        neurons = np.abs(S[c]) > np.quantile(np.abs(S[c]), p_a)
        weights = np.abs(S[c]) * case.W
        counts = np.where((weights > np.quantile(weights, p_w)) & neurons, 1.0, keep)
        scores.append(np.logaddexp.reduce((case.W * counts) @ h + case.b))
    return np.array(scores)


@seeds
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_soft_line_counts_pruned_weights_in_part(draw, assert_equals, seed, keep):
    case, other = draw(seed), draw(seed + 100)
    settings = {"p_a": 0.3, "p_w": 0.6, "clip": 0.8}
    detector = case.fit(SoftLINe(keep=keep, **settings))
    assert_equals(detector(activations_of(other.features, case.head)), soft_line_of(case, other.f, keep, **settings))
