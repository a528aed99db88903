"""ODIN and i-ODIN against gradients written out by hand, one sample at a time."""

import numpy as np
import pytest
import torch
from torch import nn

from oodline.detectors.odin import IODIN, ODIN
from oodline.detectors.prior_normalised import PriorNormalised
from oodline.errors import InputError, SettingError
from oodline.guard.guard import Guard
from oodline.model.classifier import Classifier
from oodline.preprocessing.preprocessing import Preprocessing
from oodline.scoring.score import score
from oodline.testing import activations_of


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max())
    return e / e.sum()


def scores_of(W, b, x, temperature, epsilon, one_element, std=1.0) -> np.ndarray:
    """On z = W x + b the gradient of log softmax(z / T)_y is (W_y - sum_k p_k W_k) / T."""
    scores = []
    for row in x:
        z = (W @ row + b) / temperature
        gradient = (W[np.argmax(z)] - softmax(z) @ W) / temperature
        step = np.sign(gradient)
        if one_element:
            step[np.arange(len(step)) != np.argmax(np.abs(gradient))] = 0
        scores.append(np.log(softmax((W @ (row + epsilon * step / std) + b) / temperature).max()))
    return np.array(scores)


@pytest.mark.parametrize("detector", [ODIN, IODIN])
@pytest.mark.parametrize(("temperature", "epsilon"), [(1000.0, 0.0014), (1.0, 0.0), (1.0, 0.3), (10.0, 2.0)])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_formula(seed, temperature, epsilon, detector):
    torch.manual_seed(seed)
    model, x = nn.Sequential(nn.Linear(7, 4)), torch.randn(20, 7)
    found = score(detector(temperature=temperature, epsilon=epsilon), Classifier(model), [x])[detector.name]
    W, b = (p.detach().double().numpy() for p in model[0].parameters())
    expected = scores_of(W, b, x.double().numpy(), temperature, epsilon, detector is IODIN)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-8)


STD = (0.2, 0.25, 0.5)


@pytest.mark.parametrize("detector", [ODIN, IODIN])
@pytest.mark.parametrize("std", [STD, (0.3,)])
def test_the_step_is_in_units_of_pixels(std, detector):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 2, 5)), torch.randn(20, 3, 4, 2)
    found = score(detector(temperature=2.0, epsilon=0.1, std=std), Classifier(model), [x])[detector.name]
    W, b = (p.detach().double().numpy() for p in model[1].parameters())
    by_element = np.repeat(np.broadcast_to(std, 3), 8)  # channels come first
    expected = scores_of(W, b, x.flatten(1).double().numpy(), 2.0, 0.1, detector is IODIN, by_element)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-8)


def test_moving_the_pixels_and_moving_the_normalised_input_is_the_same():
    torch.manual_seed(0)
    preprocessing = Preprocessing(mean=(0.4, 0.5, 0.6), std=STD)
    model, pixels = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 2, 5)), torch.rand(20, 3, 4, 2)

    class OfPixels(nn.Module):
        def forward(self, x):
            return model(preprocessing.normalise(x))

    normalising = nn.Sequential(OfPixels())
    normalising.add_module("head", nn.Identity())
    settings = {"temperature": 2.0, "epsilon": 0.05}
    z = pixels.clone().requires_grad_()
    torch.log_softmax(normalising(z) / 2.0, 1).amax(1).sum().backward()
    moved = normalising(pixels + 0.05 * z.grad.sign()).double()
    expected = torch.log_softmax(moved / 2.0, 1).amax(1)
    found = score(ODIN(**settings, std=STD), Classifier(model), [preprocessing.normalise(pixels)])["odin"]
    torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=1e-6)


def test_the_step_is_taken_from_the_preprocessing_where_it_was_left_open():
    left_open, given = ODIN(), ODIN(std=(1.0,))
    for detector in (left_open, given, PriorNormalised(scorer=left_open)):
        detector.use_preprocessing(Preprocessing(std=STD))
    assert left_open.settings["std"] == STD
    assert given.settings["std"] == (1.0,)


def test_a_guard_takes_the_step_from_its_preprocessing(tmp_path):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 2, 5)), torch.randn(40, 3, 4, 2)
    classifier = Classifier(model)
    with_pixels = Guard(classifier, ODIN(), preprocessing=Preprocessing(std=STD)).calibrate([x])
    without = Guard(classifier, ODIN()).calibrate([x])
    assert torch.equal(with_pixels(x).score, ODIN(std=STD)(classifier(x, needs=ODIN().all_needs)))
    assert (with_pixels(x).score > without(x).score).all()  # four times as far
    # what was calibrated is what a file gives back, whichever step it was
    for guard in (with_pixels, without):
        again = Guard.load(guard.save(tmp_path / "guard.safetensors"), classifier)
        assert torch.equal(again(x).score, guard(x).score)


def test_channels_that_do_not_fit_are_refused():
    model = nn.Sequential(nn.Flatten(), nn.Linear(32, 5))
    with pytest.raises(InputError, match=r"std for 3 channels; got inputs of shape \(6, 2, 4, 4\), which have 2"):
        score(ODIN(std=STD), Classifier(model), [torch.randn(6, 2, 4, 4)])


def test_a_step_raises_the_confidence_and_leaves_the_model_alone():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(288, 4))
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.randn(10, 3, 8, 8)
    still, moved = (score(ODIN(temperature=1.0, epsilon=e), Classifier(model), [x])["odin"] for e in (0.0, 1e-3))
    assert (moved > still).all()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_scores_at_a_high_temperature_are_told_apart():
    scores = score(ODIN(), Classifier(nn.Sequential(nn.Linear(7, 4))), [1e-3 * torch.randn(50, 7)])["odin"]
    assert len(scores.unique()) == 50


def test_activations_without_a_classifier_are_refused():
    with pytest.raises(InputError, match="hold no classifier"):
        ODIN()(activations_of(torch.ones(2, 3)))


def test_tokens_are_refused():
    model = nn.Sequential(nn.Embedding(9, 5), nn.Flatten(), nn.Linear(20, 3))
    with pytest.raises(InputError, match="tokens"):
        score(ODIN(), Classifier(model), [torch.randint(0, 9, (6, 4))])


@pytest.mark.parametrize(
    "setting",
    [
        {"temperature": 0},
        {"temperature": -1.0},
        {"epsilon": -0.1},
        {"epsilon": np.inf},
        {"std": ()},
        {"std": (0.2, 0.0, 0.2)},
    ],
)
def test_invalid_settings(setting):
    with pytest.raises(SettingError, match=r"`(epsilon|std|temperature)` must (be|have) .*; got "):
        ODIN(**setting)


def test_detectors_of_one_temperature_share_a_backward_pass(monkeypatch):
    calls = []
    gradients = Classifier.gradients
    monkeypatch.setattr(Classifier, "gradients", lambda self, *a, **k: calls.append(1) or gradients(self, *a, **k))
    model, x = nn.Sequential(nn.Linear(7, 4)), torch.randn(6, 7)
    detectors = {"odin": ODIN(), "i-odin": IODIN(), "far": ODIN(epsilon=0.3), "cold": ODIN(temperature=1.0)}
    together = score(detectors, Classifier(model), [x])
    assert len(calls) == 2
    assert all(torch.equal(together[n], score({n: d}, Classifier(model), [x])[n]) for n, d in detectors.items())
