"""PRO against gradients written out by hand, one sample at a time."""

import numpy as np
import pytest
import torch
from torch import nn

from oodline import GEN, MSP, ODIN, PRO, Classifier, Entropy, TemperatureScaling, score
from oodline.errors import InputError, SettingError
from oodline.testing import check_detector


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max())
    return e / e.sum()


def msp(z: np.ndarray) -> tuple[float, np.ndarray]:
    """Log of the largest probability, and its gradient by z."""
    p = softmax(z)
    return float(np.log(p.max())), np.eye(len(z))[np.argmax(z)] - p


def entropy(z: np.ndarray) -> tuple[float, np.ndarray]:
    """`sum p log p`, and its gradient `p_k (log p_k - sum p log p)`."""
    p = softmax(z)
    s = float((p * np.log(p)).sum())
    return s, p * (np.log(p) - s)


def gen(z: np.ndarray, gamma: float = 0.3) -> tuple[float, np.ndarray]:
    """`-sum (p (1 - p))^gamma`, and its gradient by the chain rule."""
    p = softmax(z)
    inner = -gamma * (p * (1 - p)) ** (gamma - 1) * (1 - 2 * p)
    return -float(((p * (1 - p)) ** gamma).sum()), p * (inner - (p * inner).sum())


SCORES = {"msp": (MSP, msp), "entropy": (Entropy, entropy), "gen": (lambda: GEN(gamma=0.3), gen)}


@pytest.mark.parametrize("scorer", SCORES)
@pytest.mark.parametrize(("steps", "epsilon"), [(1, 0.01), (3, 0.05), (2, 0.0), (4, 0.7)])
@pytest.mark.parametrize("seed", range(2))
def test_equals_the_formula(seed, steps, epsilon, scorer):
    torch.manual_seed(seed)
    model, x = nn.Sequential(nn.Linear(7, 4)).double(), torch.randn(20, 7).double()
    make, by_hand = SCORES[scorer]
    found = score(PRO(scorer=make(), steps=steps, epsilon=epsilon), Classifier(model), [x])["pro"]
    W, b = (p.detach().numpy() for p in model[0].parameters())
    expected = []
    for row in x.numpy():
        on_the_way = []
        for _ in range(steps + 1):
            s, gradient = by_hand(W @ row + b)
            on_the_way.append(s)
            row = row - epsilon * np.sign(gradient @ W)
        expected.append(min(on_the_way))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


def test_it_goes_down_where_odin_goes_up_and_leaves_the_model_alone():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(288, 4))
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x, classifier = torch.randn(10, 3, 8, 8), Classifier(model)
    plain = score(MSP(), classifier, [x])["msp"]
    up = score(ODIN(temperature=1.0, epsilon=1e-3), classifier, [x])["odin"]
    down = score(PRO(scorer=MSP(), epsilon=1e-3), classifier, [x])["pro"]
    assert (down < plain).all() and (plain < up).all()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training and all(p.grad is None and p.requires_grad for p in model.parameters())


def test_a_certain_prediction_stays_finite():
    model = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        model.weight.copy_(1000 * torch.eye(3))
    for scorer in (MSP(), Entropy(), GEN()):
        found = score(PRO(scorer=scorer, epsilon=0.1), Classifier(nn.Sequential(model)), [10 * torch.eye(3)])["pro"]
        assert found.isfinite().all()


def test_a_scorer_that_is_fitted_is_fitted_with_it():
    torch.manual_seed(0)
    classifier, loader = Classifier(nn.Sequential(nn.Linear(7, 4))), [(torch.randn(80, 7), torch.arange(80) % 4)]
    detector = PRO(scorer=TemperatureScaling(), epsilon=0.0).fit(classifier, loader)
    alone = TemperatureScaling().fit(classifier, loader)
    torch.testing.assert_close(
        score(detector, classifier, loader)["pro"], score(alone, classifier, loader)["temperature-scaling"]
    )


def test_tokens_are_refused():
    model = nn.Sequential(nn.Embedding(9, 5), nn.Flatten(), nn.Linear(20, 3))
    with pytest.raises(InputError, match="tokens"):
        score(PRO(), Classifier(model), [torch.randint(0, 9, (6, 4))])


@pytest.mark.parametrize("setting", [{"steps": 0}, {"epsilon": -0.1}, {"scorer": "knn"}, {"scorer": "odin"}])
def test_invalid_settings(setting):
    with pytest.raises(SettingError, match=r"`(steps|epsilon|scorer)` must .*; got "):
        PRO(**setting)


def test_it_keeps_the_contract():
    check_detector(PRO)
