"""ITP, DDCS, VRA and BATS against loops over samples, classes and features."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from oodline.detectors import itp
from oodline.detectors.bats import BATS
from oodline.detectors.ddcs import DDCS
from oodline.detectors.energy import Energy
from oodline.detectors.itp import ITP
from oodline.detectors.msp import MSP
from oodline.detectors.vra import VRA
from oodline.errors import LabelError, SettingError
from oodline.model.head import LinearHead
from oodline.testing import activations_of

seeds = pytest.mark.parametrize("seed", range(3))
signs = pytest.mark.parametrize("signed", [False, True])


def energy_of(case, features: np.ndarray) -> np.ndarray:
    return np.array([np.logaddexp.reduce(case.W @ x + case.b) for x in features])


def itp_logits(case, f: np.ndarray, p: float, lam: float) -> np.ndarray:
    classes, width = case.W.shape
    mean, deviation = np.zeros((classes, width)), np.zeros((classes, width))
    for c in range(classes):
        for d in range(width):
            contribution = case.W[c, d] * case.f[case.y == c, d]
            mean[c, d], deviation[c, d] = contribution.mean(), contribution.std(ddof=1)
    redundant = np.percentile(mean, 100 * p)
    logits = np.tile(case.b, (len(f), 1))
    for x, z in zip(f, logits, strict=True):
        for c in range(classes):
            for d in range(width):
                v = case.W[c, d] * x[d]
                if mean[c, d] > redundant and v < mean[c, d] + lam * deviation[c, d]:
                    z[c] += v
    return logits


@seeds
@signs
@pytest.mark.parametrize(("p", "lam"), [(0.1, 2.2), (0.3, 1.5), (0.0, 100.0), (0.9, 0.0), (0.5, -1.0)])
def test_itp_equals_the_formula(draw, assert_equals, seed, signed, p, lam):
    case, other = draw(seed, signed=signed), draw(seed + 100, signed=signed)
    scores = case.fit(ITP(p=p, lam=lam))(activations_of(other.features, case.head))
    assert_equals(scores, np.logaddexp.reduce(itp_logits(case, other.f, p, lam), axis=1))


def test_itp_leaves_the_score_to_another(draw, assert_equals):
    case = draw(0)
    z = itp_logits(case, case.f, 0.3, 1.5)
    confidence = (z - np.logaddexp.reduce(z, axis=1)[:, None]).max(1)
    assert_equals(case.fit(ITP(scorer=MSP()))(case.activations), confidence)


class LargestProduct(TorchDispatchMode):
    """Remember how many numbers the largest array of three dimensions holds."""

    numbers = 0

    def __torch_dispatch__(self, operation, _types, args=(), kwargs=None):
        found = operation(*args, **(kwargs or {}))
        if isinstance(found, Tensor) and found.ndim == 3:
            self.numbers = max(self.numbers, found.numel())
        return found


@pytest.mark.parametrize("chunk", [1, 12, 30, 4 * 12, 5 * 4 * 12, 2**24])
def test_itp_works_in_parts_of_a_chunk(draw, monkeypatch, chunk):
    case = draw(0)
    detector = case.fit(ITP())
    whole = detector.rectify(case.activations).logits
    monkeypatch.setattr(itp, "CHUNK", chunk)
    with LargestProduct() as largest:
        parts = detector.rectify(case.activations).logits
    torch.testing.assert_close(parts, whole, rtol=1e-6, atol=1e-6)
    assert 0 < largest.numbers <= max(chunk, 12)  # a row of the head is not cut


def test_itp_needs_two_samples_of_each_class(draw):
    case = draw(0, n=7)
    with pytest.raises(LabelError, match=r"1 of 4 classes have fewer than 2 samples .*: 3\."):
        case.fit(ITP())


def ddcs_features(case, f: np.ndarray, p: float, alpha: float, low: float, high: float) -> np.ndarray:
    def bend(value: float) -> float:
        value = max(value, low)
        return value / np.sqrt(1 + (value / high) ** 4) + low if value >= high else value

    bent = np.array([[bend(value) for value in x] for x in case.f])
    prototypes = [bent[case.y == c].mean(0) for c in range(4) if (case.y == c).any()]
    pairs = [(a, b) for i, a in enumerate(prototypes) for j, b in enumerate(prototypes) if i != j]
    worth = [
        alpha * np.mean([a[d] * b[d] for a, b in pairs]) - (1 - alpha) * np.var([m[d] for m in prototypes], ddof=1)
        for d in range(12)
    ]
    kept = np.argsort(worth)[: 12 - round(12 * p)]
    return np.array([[bend(value) if d in kept else 0.0 for d, value in enumerate(x)] for x in f])


@seeds
@signs
@pytest.mark.parametrize(
    ("p", "alpha", "low", "high"),
    [(0.18, 0.8, 0.0788, 1.3361), (0.5, 0.5, 0.2, 0.9), (0.0, 1.0, 0.0, 100.0), (0.9, 0.0, -0.5, 0.1)],
)
def test_ddcs_equals_the_formula(draw, assert_equals, seed, signed, p, alpha, low, high):
    case, other = draw(seed, signed=signed), draw(seed + 100, signed=signed)
    detector = case.fit(DDCS(p=p, alpha=alpha, low=low, high=high))
    expected = energy_of(case, ddcs_features(case, other.f, p, alpha, low, high))
    assert_equals(detector(activations_of(other.features, case.head)), expected)


@seeds
def test_ddcs_takes_percentiles_of_all_activations(draw, seed):
    case, other = draw(seed, n=200, signed=True), draw(seed + 100, signed=True)
    low, high = np.percentile(case.f, [60, 90])
    scores = case.fit(DDCS(low="60%", high="90%"))(activations_of(other.features, case.head))
    expected = energy_of(case, ddcs_features(case, other.f, 0.18, 0.8, low, high))
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)


def test_ddcs_leaves_out_classes_that_are_not_there(draw, assert_equals):
    case = draw(0)
    case = replace(case, labels=case.labels.clamp(max=2))
    expected = energy_of(case, ddcs_features(case, case.f, 0.18, 0.8, 0.1, 1.0))
    assert_equals(case.fit(DDCS(low=0.1, high=1.0))(case.activations), expected)
    with pytest.raises(LabelError, match="the sample shows only one"):
        replace(case, labels=torch.zeros(48, dtype=torch.int64)).fit(DDCS())


def test_ddcs_bends_even_the_largest_activations_without_overflow(draw):
    case = draw(0)
    detector = case.fit(DDCS(low=0.1, high=1.0))
    assert detector(activations_of(torch.full((1, 12), 1e30), case.head)).isfinite().all()


def test_ddcs_needs_bounds_in_order(draw):
    with pytest.raises(SettingError, match=r"DDCS needs high above 0.*; it is 0\."):
        draw(0).fit(DDCS(low=0.0, high="0%"))
    with pytest.raises(SettingError, match=r"DDCS needs low at most high; low=2.0 is 2 and high=1.0 is 1\."):
        draw(0).fit(DDCS(low=2.0, high=1.0))


def vra_features(f: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    result = np.zeros_like(f)
    for i, x in enumerate(f):
        for d, value in enumerate(x):
            if value > high[d]:
                result[i, d] = high[d]
            elif value >= low[d]:
                result[i, d] = value
    return result


@seeds
@signs
@pytest.mark.parametrize(("low", "high"), [(0.5, 1.0), (-0.2, 0.5), (0.0, 1e6)])
def test_vra_equals_the_formula(draw, assert_equals, seed, signed, low, high):
    case = draw(seed, signed=signed)
    rectified = vra_features(case.f, np.full(12, low), np.full(12, high))
    assert_equals(case.fit(VRA(low=low, high=high))(case.activations), energy_of(case, rectified))


@seeds
@signs
@pytest.mark.parametrize(("low", "high"), [(60, 95), (0, 100), (25, 50)])
def test_vra_takes_percentiles_of_each_feature(draw, assert_equals, seed, signed, low, high):
    case, other = draw(seed, signed=signed), draw(seed + 100, signed=signed)
    bounds = np.array([[np.percentile(case.f[:, d], q) for d in range(12)] for q in (low, high)])
    scores = case.fit(VRA(low=f"{low}%", high=f"{high}%"))(activations_of(other.features, case.head))
    assert_equals(scores, energy_of(case, vra_features(other.f, *bounds)))


def test_vra_needs_bounds_in_order(draw):
    with pytest.raises(SettingError, match=r"VRA needs low at most high; low=0.5 is 0.5 and high=0.1 is 0.1\."):
        draw(0).fit(VRA(low=0.5, high=0.1))
    with pytest.raises(SettingError, match=r"VRA needs low at most high; in feature 0, low=5\.0 is 5 and high=90% is"):
        draw(0).fit(VRA(low=5.0, high="90%"))
    with pytest.raises(SettingError, match="`high` must be a value, or a percentile from '0%' to '100%'; got '95'"):
        VRA(high="95")


@seeds
@signs
@pytest.mark.parametrize("lam", [0.1, 1.05, 3.0])
def test_bats_equals_the_formula(draw, assert_equals, seed, signed, lam):
    case, other = draw(seed, signed=signed), draw(seed + 100, signed=signed)
    clipped = other.f.copy()
    for d in range(12):
        mean, deviation = case.f[:, d].mean(), np.sqrt(np.mean((case.f[:, d] - case.f[:, d].mean()) ** 2))
        for x in clipped:
            x[d] = min(max(x[d], mean - lam * deviation), mean + lam * deviation)
    scores = case.fit(BATS(lam=lam))(activations_of(other.features, case.head))
    assert_equals(scores, energy_of(case, clipped))


def test_bats_pins_a_feature_that_never_varies(draw):
    case = draw(0)
    features = case.features.clone()
    features[:, 3] = 2.0
    detector = replace(case, features=features).fit(BATS())
    rectified = detector.rectify(activations_of(case.features + 7, case.head)).features
    assert torch.equal(rectified[:, 3], torch.full((48,), 2.0))


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: ITP(p=1.0), r"`p` must be a number from 0 to below 1; got 1\.0"),
        (lambda: ITP(lam=float("inf")), "`lam` must be .*; got "),
        (lambda: ITP(lam=float("nan")), "`lam` must be .*; got "),
        (lambda: ITP(scorer=VRA()), "ITP masks weights, so its scorer must read the logits"),
        (lambda: DDCS(p=-0.1), r"`p` must be a number from 0 to below 1; got -0\.1"),
        (lambda: DDCS(alpha=1.5), r"`alpha` must be a number from 0 to 1; got 1\.5"),
        (lambda: DDCS(samples=0), "`samples` must be an integer of at least 1; got 0"),
        (lambda: DDCS(low="twenty"), "`low` must be a value, or a percentile from '0%' to '100%'; got 'twenty'"),
        (lambda: VRA(low=float("nan")), "`low` must be a value, or a percentile from '0%' to '100%'; got nan"),
        (lambda: VRA(samples=0), "`samples` must be an integer of at least 1; got 0"),
        (lambda: BATS(lam=0.0), r"`lam` must be a number above 0; got 0\.0"),
    ],
)
def test_invalid_settings(build, sentence):
    with pytest.raises(SettingError, match=sentence):
        build()


def test_features_of_zero_score_as_their_rectified_energy(draw, assert_equals):
    case = draw(0)
    silent = activations_of(torch.zeros(2, 12), case.head)
    bias = np.logaddexp.reduce(case.b)
    assert_equals(case.fit(ITP())(silent), np.full(2, bias))
    assert_equals(case.fit(VRA())(silent), np.full(2, bias))
    lowest = np.maximum(case.f.mean(0) - 1.05 * case.f.std(0), 0)
    assert_equals(case.fit(BATS())(silent), energy_of(case, np.tile(lowest, (2, 1))))
    expected = ddcs_features(case, np.zeros((2, 12)), 0.18, 0.8, 0.1, 1.0)
    assert_equals(case.fit(DDCS(low=0.1, high=1.0))(silent), energy_of(case, expected))


@pytest.mark.parametrize("build", [ITP, DDCS, VRA, BATS])
def test_a_head_in_half_precision_is_the_head_of_its_values(draw, build):
    case = draw(0)
    half = replace(case, head=LinearHead(case.head.weight.half().float(), case.head.bias.half().float()))
    detector = build(scorer=Energy())
    statistics = detector._requests(half.head)
    for statistic in statistics.values():
        statistic.update(half.activations, half.labels)
    detector._settle(statistics, LinearHead(half.head.weight.half(), half.head.bias.half()))
    torch.testing.assert_close(detector(half.activations), half.fit(build())(half.activations))
