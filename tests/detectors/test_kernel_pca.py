"""CoP and CoRP against a singular value decomposition of all mapped training samples."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from oodline.detectors.kernel_pca import CoP, CoRP
from oodline.detectors.kernel_pca import draw as draw_frequencies
from oodline.errors import InputError, SettingError
from oodline.testing import activations_of

seeds = pytest.mark.parametrize("seed", range(3))
signs = pytest.mark.parametrize("signed", [False, True])


def directions_of(f: np.ndarray) -> np.ndarray:
    return np.array([x / np.sqrt(sum(x * x)) for x in f])


def fourier_of(f: np.ndarray, omega: np.ndarray, phase: np.ndarray) -> np.ndarray:
    return np.array([np.sqrt(2 / len(phase)) * np.cos(omega @ x + phase) for x in directions_of(f)])


def reconstruction_error(train: np.ndarray, test: np.ndarray, explained: float) -> np.ndarray:
    centre = train.mean(0)
    _, singular, right = np.linalg.svd(train - centre, full_matrices=False)
    variances = singular**2
    dimension = next(q for q in range(1, len(variances) + 1) if variances[:q].sum() >= explained * variances.sum())
    errors = []
    for x in test:
        rest = x - centre
        for direction in right[:dimension]:
            rest = rest - (direction @ (x - centre)) * direction
        errors.append(np.linalg.norm(rest))
    return np.array(errors)


@seeds
@signs
@pytest.mark.parametrize("explained", [0.05, 0.5, 0.85, 0.95])
def test_cop_equals_the_formula(draw, assert_equals, seed, signed, explained):
    case, other = draw(seed, signed=signed), draw(seed + 100, signed=signed)
    expected = reconstruction_error(directions_of(case.f), directions_of(other.f), explained)
    assert_equals(case.fit(CoP(explained=explained))(activations_of(other.features, case.head)), -expected)


@seeds
@signs
@pytest.mark.parametrize(("explained", "gamma", "size"), [(0.8, 2.0, 32), (0.5, 3.0, 100), (0.95, 0.1, 40)])
def test_corp_equals_the_formula_with_the_frequencies_it_drew(
    draw, assert_equals, seed, signed, explained, gamma, size
):
    case, other = draw(seed, n=120, signed=signed), draw(seed + 100, signed=signed)
    detector = case.fit(CoRP(explained=explained, gamma=gamma, size=size, seed=seed))
    omega, phase = detector.omega.double().numpy(), detector.phase.double().numpy()
    expected = reconstruction_error(fourier_of(case.f, omega, phase), fourier_of(other.f, omega, phase), explained)
    assert_equals(detector(activations_of(other.features, case.head)), -expected)


@pytest.mark.parametrize("gamma", [0.5, 3.0])
def test_random_features_approximate_the_gaussian_kernel(draw, gamma):
    case, size = draw(0, n=12), 40_000
    omega, phase = draw_frequencies(size, 12, gamma, 0)
    mapped = fourier_of(case.f[:6], omega.double().numpy(), phase.double().numpy())
    unit = directions_of(case.f[:6])
    kernel = [[np.exp(-gamma * np.sum((a - b) ** 2)) for a in unit] for b in unit]
    np.testing.assert_allclose(mapped @ mapped.T, kernel, atol=4 / np.sqrt(size))


def test_the_draw_is_part_of_the_state_and_known_by_its_seed(draw):
    case = draw(0)
    one, again, other = (case.fit(CoRP(size=50, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(one(case.activations), again(case.activations))
    assert not torch.allclose(one(case.activations), other(case.activations))
    loaded = CoRP(size=50, seed=2)
    loaded.load_state_dict(one.state_dict())
    assert torch.equal(loaded(case.activations), one(case.activations))


def test_training_samples_lie_nearer_than_others(draw):
    case = draw(0, n=200)
    errors = -case.fit(CoP(explained=0.9))(case.activations).double()
    # the mean squared error over the training data is the variance that was left out
    variance = np.mean(np.sum((directions_of(case.f) - directions_of(case.f).mean(0)) ** 2, axis=1))
    assert 0 < errors.square().mean() <= 0.1 * variance


@pytest.mark.parametrize("build", [CoP, lambda: CoRP(size=64)])
def test_scores_do_not_depend_on_the_length_of_the_features(draw, build):
    case = draw(0)
    detector = case.fit(build())
    scores = [detector(activations_of(scale * case.features, case.head)) for scale in (1.0, 1e-4, 1e15)]
    torch.testing.assert_close(scores[1], scores[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(scores[2], scores[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("build", [CoP, lambda: CoRP(size=64)])
def test_features_of_zero_have_finite_scores(draw, build):
    case = draw(0)
    assert case.fit(build())(activations_of(torch.zeros(2, 12), case.head)).isfinite().all()


@pytest.mark.parametrize("build", [CoP, lambda: CoRP(size=64)])
def test_features_of_one_direction_have_no_principal_space(draw, build):
    case = draw(0)
    same = case.features[:1] * torch.arange(1.0, 49.0).unsqueeze(1)
    with pytest.raises(InputError, match="needs features that vary; all seen ones have the same direction"):
        replace(case, features=same).fit(build())


def test_a_space_that_leaves_no_error_is_refused(draw):
    with pytest.raises(SettingError, match=r"CoP\(explained=0.9999\) takes all 12 dimensions and leaves no error"):
        draw(0).fit(CoP(explained=0.9999))


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: CoP(explained=0.0), r"`explained` must be a number between 0 and 1, both excluded; got 0\.0"),
        (lambda: CoRP(explained=1.0), r"`explained` must be a number between 0 and 1, both excluded; got 1\.0"),
        (lambda: CoRP(gamma=0.0), r"`gamma` must be a number above 0; got 0\.0"),
        (lambda: CoRP(size=1), "`size` must be an integer of at least 2; got 1"),
    ],
)
def test_invalid_settings(build, sentence):
    with pytest.raises(SettingError, match=sentence):
        build()
