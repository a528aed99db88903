"""The class-prior normaliser and temperature scaling against their formulas."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from oodline.detectors.energy import Energy
from oodline.detectors.msp import MSP
from oodline.detectors.prior_normalised import PriorNormalised
from oodline.detectors.react import ReAct
from oodline.detectors.temperature_scaling import TemperatureScaling
from oodline.errors import LabelError, SettingError
from oodline.guard.records import describe, rebuild


def log_softmax(z: np.ndarray) -> np.ndarray:
    return z - np.logaddexp.reduce(z, axis=1, keepdims=True)


@pytest.mark.parametrize("strength", [0.0, 0.1, 2.0])
def test_the_normaliser_equals_the_formula(draw, assert_equals, strength):
    case = draw(0)
    case = replace(case, labels=torch.tensor([0] * 30 + [1] * 12 + [2] * 4 + [3] * 2))
    prior = np.bincount(case.y) / len(case.y)
    detector = case.fit(PriorNormalised(strength=strength, scorer=Energy()))
    correction = np.log((np.exp(log_softmax(case.logits)) / prior).mean(1))
    assert_equals(detector(case.activations), np.logaddexp.reduce(case.logits, axis=1) + strength * correction)


@pytest.mark.parametrize("scale", ["probability", "log"])
def test_with_msp_it_corrects_the_probability_above_chance(draw, assert_equals, scale):
    case = draw(0)
    case = replace(case, labels=torch.tensor([0] * 30 + [1] * 12 + [2] * 4 + [3] * 2))
    p, prior = np.exp(log_softmax(case.logits)), np.bincount(case.y) / len(case.y)
    base = p.max(1) - 1 / 4 if scale == "probability" else np.log(p.max(1))
    detector = case.fit(PriorNormalised(scale=scale))
    assert_equals(detector(case.activations), base + 0.1 * np.log((p / prior).mean(1)))
    clipped = case.fit(PriorNormalised(scale=scale, scorer=ReAct(clip=1e6, scorer=MSP())))
    assert_equals(clipped(case.activations), base + 0.1 * np.log((p / prior).mean(1)))


def test_a_file_from_before_the_scale_was_a_setting_keeps_its_scores(draw):
    case = draw(0)
    old = case.fit(PriorNormalised(scale="log"))
    record = describe(old)
    del record.settings["scale"]
    again = rebuild(record)
    again.load_state_dict(old.state_dict())
    assert torch.equal(again(case.activations), old(case.activations))
    assert rebuild(describe(PriorNormalised())).settings["scale"] == "probability"


def test_balanced_classes_are_left_alone(draw):
    case = draw(0)
    detector = case.fit(PriorNormalised(strength=5.0, scorer=Energy()))
    torch.testing.assert_close(detector(case.activations), Energy()(case.activations))


def test_a_class_without_samples_has_no_prior(draw):
    case = draw(0)
    with pytest.raises(LabelError, match=r"1 of 4 classes have no sample .*: 3\."):
        replace(case, labels=case.labels.clamp(max=2)).fit(PriorNormalised())


def test_invalid_settings():
    with pytest.raises(SettingError, match="strength"):
        PriorNormalised(strength=-1.0)
    with pytest.raises(SettingError, match="`scale` must be 'probability' or 'log'; got 'logit'"):
        PriorNormalised(scale="logit")


@pytest.mark.parametrize("seed", range(3))
def test_the_temperature_is_the_most_likely_one(draw, assert_equals, seed):
    case = draw(seed, n=200)

    def loss(log_t: float) -> float:
        return -float(np.mean(log_softmax(case.logits / np.exp(log_t))[np.arange(200), case.y]))

    best = float(np.exp(minimize_scalar(loss, bounds=(-4.6, 4.6), method="bounded", options={"xatol": 1e-9}).x))
    detector = case.fit(TemperatureScaling())
    assert float(detector.temperature) == pytest.approx(best, rel=1e-4)
    assert_equals(detector(case.activations), log_softmax(case.logits / best).max(1))


def test_perfect_logits_say_nothing_of_the_temperature_and_hopeless_ones_stay_within_bounds(draw):
    case = draw(0)
    right = replace(case, labels=torch.from_numpy(case.logits.argmax(1)))
    wrong = replace(case, labels=torch.from_numpy(case.logits.argmin(1)))
    assert float(right.fit(TemperatureScaling()).temperature) == 1.0
    assert float(wrong.fit(TemperatureScaling()).temperature) == pytest.approx(100.0)
