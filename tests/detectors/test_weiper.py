"""WeiPer against loops over perturbed heads, samples and bins."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from oodline.detectors.weiper import WeiPerKLD, WeiPerMSP, divergence
from oodline.detectors.weiper import draw as draw_directions
from oodline.errors import InputError, SettingError
from oodline.model.head import LinearHead
from oodline.testing import activations_of

seeds = pytest.mark.parametrize("seed", range(3))
signs = pytest.mark.parametrize("signed", [False, True])


def perturbed_logits(case, f: np.ndarray, directions: np.ndarray, delta: float) -> np.ndarray:
    """Logits (r, N, C) of one perturbed head after the other."""
    logits = []
    for epsilon in directions:
        weight = [w + delta * np.linalg.norm(w) * e / np.linalg.norm(e) for w, e in zip(case.W, epsilon, strict=True)]
        logits.append([[w @ x + b for w, b in zip(weight, case.b, strict=True)] for x in f])
    return np.array(logits)


def confidence_of(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits - np.logaddexp.reduce(logits, axis=2)[:, :, None]).max(2).mean(0)


@seeds
@signs
@pytest.mark.parametrize(("delta", "repeats"), [(2.4, 5), (0.0, 1), (0.5, 20)])
def test_weiper_msp_equals_the_formula(draw, assert_equals, seed, signed, delta, repeats):
    case, other = draw(seed, signed=signed), draw(seed + 100, signed=signed)
    detector = case.fit(WeiPerMSP(delta=delta, repeats=repeats))
    logits = perturbed_logits(case, other.f, detector.directions.double().numpy(), delta)
    assert_equals(detector(activations_of(other.features, case.head)), confidence_of(logits))


def histogram(values: np.ndarray, low: float, high: float, bins: int) -> np.ndarray:
    counts, _ = np.histogram(values, bins, range=(low, high))
    return counts / len(values)


def smooth(shares: np.ndarray, width: int) -> np.ndarray:
    """Mean over `width` bins; an even width reaches one bin further to the right, and the last bins are repeated."""
    last = len(shares) - 1
    reach = range(-((width - 1) // 2), width - (width - 1) // 2)
    return np.array([np.mean([shares[min(max(b + step, 0), last)] for step in reach]) for b in range(last + 1)])


def divergences(train: np.ndarray, test: np.ndarray, bins: int, width: int, epsilon: float) -> np.ndarray:
    margin = 1e-6 * (train.max() - train.min())  # so that rounding loses neither of the extremes
    low, high = train.min() - margin, train.max() + margin
    p = np.mean([histogram(values, low, high, bins) for values in train], axis=0) + epsilon
    p /= p.sum()
    found = []
    for values in test:
        q = smooth(histogram(values, low, high, bins), width) + epsilon
        q /= q.sum()
        found.append(np.sum(p * np.log(p / q)) + np.sum(q * np.log(q / p)))
    return np.array(found)


@seeds
@signs
@pytest.mark.parametrize(
    ("delta", "lam1", "lam2", "smoothing", "smoothing_perturbed", "bins"),
    [(2.4, 2.5, 0.25, 4, 5, 10), (1.8, 0.1, 1.0, 3, 8, 20), (0.5, 1.0, 0.0, 1, 1, 7), (2.0, 0.0, 0.1, 40, 15, 20)],
)
def test_weiper_kld_equals_the_formula(
    draw, assert_equals, seed, signed, delta, lam1, lam2, smoothing, smoothing_perturbed, bins
):
    case, other = draw(seed, signed=signed), draw(seed + 100, signed=signed)
    settings = {"smoothing": smoothing, "smoothing_perturbed": smoothing_perturbed, "bins": bins}
    detector = case.fit(WeiPerKLD(delta=delta, repeats=5, lam1=lam1, lam2=lam2, **settings))
    directions = detector.directions.double().numpy()
    train, test = (perturbed_logits(case, f, directions, delta) for f in (case.f, other.f))
    # the logits of all perturbed heads are one long vector of the sample
    flat = [np.concatenate(list(logits), axis=1) for logits in (train, test)]
    of_features = divergences(case.f, other.f, bins, smoothing, 0.01)
    of_logits = divergences(*flat, bins, smoothing_perturbed, 0.025)
    expected = -(of_features + lam1 * of_logits - lam2 * confidence_of(test))
    assert_equals(detector(activations_of(other.features, case.head)), expected)


@pytest.mark.parametrize("width", [1, 2, 3, 4, 15, 40])
def test_smoothing_is_the_convolution_of_the_authors(width):
    shares = torch.softmax(torch.randn(6, 12), dim=1)
    kernel = nn.Conv1d(1, 1, width, padding="same", padding_mode="replicate", bias=False)
    nn.init.constant_(kernel.weight, 1 / width)
    expected = kernel(shares.unsqueeze(1)).squeeze(1).detach().numpy()
    np.testing.assert_allclose([smooth(row, width) for row in shares.double().numpy()], expected, rtol=1e-5)


def test_a_sample_of_the_mean_density_diverges_by_nothing():
    p = torch.softmax(torch.randn(8), dim=0)
    torch.testing.assert_close(divergence(p, p.repeat(2, 1), 1, 0.01), torch.zeros(2), rtol=0, atol=1e-6)


def test_directions_are_normal_and_known_by_their_seed():
    directions = draw_directions(20, 10, 500, 3)
    values = directions.double().flatten() / 32
    assert directions.dtype == torch.int8
    assert abs(values.mean()) < 4 / len(values) ** 0.5
    assert abs(values.std() - 1) < 4 / len(values) ** 0.5
    for inside, share in ((0.5, 0.3829), (1.0, 0.6827), (2.0, 0.9545)):
        # rounding to 1/32 puts half a step on either side of the bound
        assert abs((values.abs() < inside + 1 / 64).double().mean() - share) < 0.02
    assert torch.equal(draw_directions(20, 10, 500, 3), directions)
    assert (draw_directions(20, 10, 500, 4) != directions).double().mean() > 0.9


@pytest.mark.parametrize("build", [WeiPerMSP, WeiPerKLD])
def test_the_draw_is_part_of_the_state(draw, build):
    case = draw(0)
    one, again, other = (case.fit(build(repeats=4, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(one(case.activations), again(case.activations))
    assert not torch.allclose(one(case.activations), other(case.activations))
    loaded = build(repeats=4, seed=2)
    loaded.load_state_dict(one.state_dict())
    assert torch.equal(loaded(case.activations), one(case.activations))


@pytest.mark.parametrize("build", [WeiPerMSP, WeiPerKLD])
@pytest.mark.parametrize("size", [7, 47])
def test_scoring_in_parts_is_scoring_at_once(draw, build, size):
    case = draw(0)
    detector = case.fit(build(repeats=10))
    parts = [detector(activations_of(part, case.head)) for part in case.features.split(size)]
    torch.testing.assert_close(torch.cat(parts), detector(case.activations), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("build", [WeiPerMSP, WeiPerKLD])
def test_one_perturbed_head_is_held_at_a_time(draw, build):
    case = draw(0)
    detector = case.fit(build(repeats=10))
    heads = detector.perturbed(case.head)
    first = next(heads)
    assert first.weight.shape == case.head.weight.shape
    length = torch.linalg.vector_norm(first.weight - case.head.weight, dim=1)
    torch.testing.assert_close(length, 2.4 * torch.linalg.vector_norm(case.head.weight, dim=1))
    assert sum(1 for _ in heads) == 9


def test_values_outside_the_range_fall_in_no_bin(draw, assert_equals):
    case = draw(0)
    detector = case.fit(WeiPerKLD(repeats=1, lam1=0.0, lam2=0.0, smoothing=3, bins=10))
    far = activations_of(torch.full((1, 12), 1e6), case.head)
    assert_equals(detector(far), -divergences(case.f, np.full((1, 12), 1e6), 10, 3, 0.01))


@pytest.mark.parametrize("build", [WeiPerMSP, WeiPerKLD])
def test_features_of_zero_have_finite_scores(draw, build):
    case = draw(0)
    assert case.fit(build(repeats=3))(activations_of(torch.zeros(2, 12), case.head)).isfinite().all()


def test_a_head_in_half_precision_is_the_head_of_its_values(draw):
    case = draw(0)
    half = LinearHead(case.head.weight.half(), case.head.bias.half())
    same = replace(case, head=LinearHead(half.weight.float(), half.bias.float()))
    detector = WeiPerKLD(repeats=3)
    statistics = detector._requests(half)
    statistics["sample"].update(same.activations, None)
    detector._settle(statistics, half)
    assert torch.equal(detector(same.activations), same.fit(WeiPerKLD(repeats=3))(same.activations))


def test_features_that_are_all_equal_have_no_histogram(draw):
    case = draw(0)
    with pytest.raises(InputError, match="needs a histogram, and the features of the training sample are all equal"):
        replace(case, features=torch.ones(48, 12)).fit(WeiPerKLD(repeats=3))


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: WeiPerMSP(delta=-0.1), r"`delta` must be a number of at least 0; got -0\.1"),
        (lambda: WeiPerKLD(repeats=0), "`repeats` must be an integer of at least 1; got 0"),
        (lambda: WeiPerMSP(delta=float("inf")), "`delta` must be a finite number of at least 0; got inf"),
        (lambda: WeiPerKLD(lam1=-1.0), r"`lam1` must be a number of at least 0; got -1\.0"),
        (lambda: WeiPerKLD(lam2=float("nan")), "`lam2` must be a finite number of at least 0; got nan"),
        (lambda: WeiPerKLD(bins=0), "`bins` must be an integer of at least 1; got 0"),
        (lambda: WeiPerKLD(smoothing=0), "`smoothing` must be an integer of at least 1; got 0"),
    ],
)
def test_invalid_settings(build, sentence):
    with pytest.raises(SettingError, match=sentence):
        build()
