"""NAC against gradients by autograd and counting one neuron at a time."""

import numpy as np
import pytest
import torch

from oodline.detectors.nac import NAC, edges, neuron_states
from oodline.errors import SettingError
from oodline.testing import activations_of


def states_of(case, f: np.ndarray, alpha: float) -> np.ndarray:
    states = []
    for x in torch.from_numpy(f):
        x = x.clone().requires_grad_()
        z = torch.from_numpy(case.W) @ x + torch.from_numpy(case.b)
        (-torch.log_softmax(z, 0).mean()).backward()  # KL(uniform, softmax) up to a constant
        states.append(1 / (1 + np.exp(-alpha * (x * x.grad).detach().numpy())))
    return np.array(states)


def scores_of(train: np.ndarray, test: np.ndarray, inner: np.ndarray, full: int) -> np.ndarray:
    def place(state: float) -> int:
        return int(sum(state > edge for edge in inner))

    scores = []
    for row in test:
        covered = []
        for d, state in enumerate(row):
            count = sum(place(other) == place(state) for other in train[:, d])
            covered.append(min(count / full, 1))
        scores.append(np.mean(covered))
    return np.array(scores)


@pytest.mark.parametrize("alpha", [1.0, 100.0])
@pytest.mark.parametrize("seed", range(2))
def test_states_are_activation_times_gradient(draw, seed, alpha):
    case = draw(seed, signed=True)
    expected = states_of(case, case.f, alpha)
    np.testing.assert_allclose(neuron_states(case.activations, alpha), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("bins", "full"), [(2, 1), (10, 5), (50, 50)])
def test_equals_counting(draw, bins, full):
    case, other = draw(0), draw(100)
    detector = case.fit(NAC(alpha=3.0, bins=bins, full=full))
    activations = activations_of(other.features, case.head)
    states = [neuron_states(a, 3.0).numpy() for a in (case.activations, activations)]
    expected = scores_of(*states, edges(bins).numpy(), full)
    np.testing.assert_allclose(detector(activations), expected, rtol=1e-5, atol=1e-6)


def test_edges_are_symmetric_and_crowd_at_both_ends():
    found = edges(50).double()
    assert len(found) == 51
    torch.testing.assert_close(found + found.flip(0), torch.ones(51, dtype=torch.float64), rtol=0, atol=1e-6)
    steps = found.diff()
    assert (steps > 0).all()
    assert steps[0] < 0.01 * steps[24]


@pytest.mark.parametrize("setting", [{"alpha": 0}, {"bins": 3}, {"bins": 0}, {"full": 0}, {"samples": 0}])
def test_invalid_settings(setting):
    with pytest.raises(SettingError, match="NAC needs"):
        NAC(**setting)
