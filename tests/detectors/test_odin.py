"""ODIN and i-ODIN against gradients written out by hand, one sample at a time."""

import numpy as np
import pytest
import torch
from torch import nn

from oodline.classifier import Classifier
from oodline.detectors.odin import IODIN, ODIN
from oodline.errors import InputError, SettingError
from oodline.scoring import score
from oodline.testing import activations_of


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max())
    return e / e.sum()


def scores_of(W, b, x, temperature, epsilon, one_element) -> np.ndarray:
    """On z = W x + b the gradient of log softmax(z / T)_y is (W_y - sum_k p_k W_k) / T."""
    scores = []
    for row in x:
        z = (W @ row + b) / temperature
        gradient = (W[np.argmax(z)] - softmax(z) @ W) / temperature
        step = np.sign(gradient)
        if one_element:
            step[np.arange(len(step)) != np.argmax(np.abs(gradient))] = 0
        scores.append(np.log(softmax((W @ (row + epsilon * step) + b) / temperature).max()))
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


@pytest.mark.parametrize("setting", [{"temperature": 0}, {"temperature": -1.0}, {"epsilon": -0.1}, {"epsilon": np.inf}])
def test_invalid_settings(setting):
    with pytest.raises(SettingError, match="needs"):
        ODIN(**setting)
