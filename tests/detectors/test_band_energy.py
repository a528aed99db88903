"""Band energy against loops over samples and neurons, and what it promises."""

import numpy as np
import pytest
import torch

from oodline.detectors.band_energy import PRIOR, BandEnergy
from oodline.detectors.energy import Energy
from oodline.errors import SettingError
from oodline.testing import activations_of, toy_problem


def band(case, c: int, j: int, width: float, without: int | None = None) -> tuple[float, float]:
    """Mean give or take `width` deviations of feature j: the class's samples, and `PRIOR` of the data as a whole."""
    predicted = case.logits.argmax(1)
    own = [x[j] for i, x in enumerate(case.f) if predicted[i] == c and i != without]
    m, v = case.f[:, j].mean(), case.f[:, j].var()
    mean = (sum(own) + PRIOR * m) / (len(own) + PRIOR)
    squares = sum((x - np.mean(own)) ** 2 for x in own) if own else 0.0
    shift = len(own) * PRIOR / (len(own) + PRIOR) * (np.mean(own) - m) ** 2 if own else 0.0
    deviation = np.sqrt((squares + PRIOR * v + shift) / (len(own) + PRIOR))
    return mean - width * deviation, mean + width * deviation


def excess(case, x: np.ndarray, missing: float, width: float, without: int | None = None) -> float:
    """How far contributions to the predicted logit leave the band."""
    c, total = int((x @ case.W.T + case.b).argmax()), 0.0
    for j, value in enumerate(x):
        low, high = sorted(case.W[c, j] * edge for edge in band(case, c, j, width, without))
        contribution = case.W[c, j] * value
        total += max(contribution - high, 0) + missing * max(low - contribution, 0)
    return total


def energy(case, x: np.ndarray) -> float:
    z = x @ case.W.T + case.b
    return float(z.max() + np.log(np.exp(z - z.max()).sum()))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("width", "missing", "strength"), [(1.0, 0.5, None), (0.3, 0.0, 2.0), (1.7, 1.0, None)])
def test_equals_the_formula(draw, assert_equals, signed, width, missing, strength):
    case, other = draw(0, signed=signed), draw(100, signed=signed)
    detector = case.fit(BandEnergy(width=width, missing=missing, strength=strength))
    if strength is None:
        mine = [excess(case, x, missing, width, without=i) for i, x in enumerate(case.f)]
        strength = min(1.0, 0.25 * np.std([energy(case, x) for x in case.f]) / np.std(mine))
    assert float(detector.used_strength) == pytest.approx(strength, rel=1e-5)
    expected = [energy(case, x) - strength * excess(case, x, missing, width) for x in other.f]
    assert_equals(detector(activations_of(other.features, case.head)), np.array(expected))


def test_a_class_without_an_image_has_the_band_of_the_data(draw):
    case = draw(0)
    unseen = activations_of(case.features[case.logits.argmax(1) != 0], case.head)
    detector = BandEnergy()
    statistics = detector._requests(case.head)
    for statistic in statistics.values():
        statistic.update(unseen, None)
    detector._settle(statistics, case.head)
    middle, half = unseen.features.double().mean(0), unseen.features.double().std(0, correction=0)
    torch.testing.assert_close(detector.low[0].double(), middle - half, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(detector.high[0].double(), middle + half, rtol=1e-5, atol=1e-6)


def test_without_strength_it_is_energy(draw):
    case = draw(0)
    assert torch.equal(case.fit(BandEnergy(strength=0.0))(case.activations), Energy()(case.activations))


def test_one_image_of_each_class_is_enough():
    classifier, loader = toy_problem()
    images, labels = loader[0][0], loader[0][1]
    few = torch.stack([images[labels == c][0] for c in range(3)])
    detector = BandEnergy().fit(classifier, [few])
    assert 0 < float(detector.used_strength) <= 1
    assert torch.isfinite(detector(classifier(images))).all()


def test_evidence_adds_up_to_the_logit_and_counts_what_is_within_the_band(draw):
    case = draw(0)
    found = case.fit(BandEnergy(width=0.5)).evidence(case.activations)
    c = torch.arange(len(case.f)), found.predicted_class
    torch.testing.assert_close(found.found.sum(1) + case.head.bias[c[1]], case.activations.logits[c])
    assert (found.counted != found.found).double().mean() > 0.3
    assert (found.important.sum(1) == 2).all()  # the tenth of 12 neurons above the quantile


@pytest.mark.parametrize("settings", [{"width": 0.0}, {"missing": 1.5}, {"strength": -1.0}])
def test_settings_out_of_range(settings):
    with pytest.raises(SettingError, match=f"`{next(iter(settings))}` must be"):
        BandEnergy(**settings)
