"""ORA against the projections on all boundaries, one by one."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from oodline.detectors.fdbd import FDBD
from oodline.detectors.ora import ORA
from oodline.errors import LabelError, SettingError
from oodline.model.head import LinearHead
from oodline.testing import activations_of


def angles_of(case, f: np.ndarray) -> np.ndarray:
    """Angle over pi between f and each of its projections, seen from the mean of class means; 0 at its own class."""
    m = np.mean([case.f[case.y == c].mean(0) for c in np.unique(case.y)], axis=0)
    rows = []
    for x in f:
        z = case.W @ x + case.b
        c, row = int(np.argmax(z)), []
        for k in range(len(z)):
            w = case.W[c] - case.W[k]
            if not w.any():
                row.append(0.0)
                continue
            there = x - (z[c] - z[k]) / (w @ w) * w
            cosine = (x - m) @ (there - m) / np.linalg.norm(x - m) / np.linalg.norm(there - m)
            row.append(math.acos(min(1.0, max(-1.0, cosine))) / math.pi)
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_angles(draw, seed, signed):
    case, other = draw(seed, n=200, signed=signed), draw(seed + 100, signed=signed)
    # the reference needs the head that the case has
    expected, activations = angles_of(case, other.f), activations_of(other.features, case.head)
    np.testing.assert_allclose(case.fit(ORA())(activations).numpy(), expected.max(1), rtol=1e-4, atol=1e-5)
    mean = case.fit(ORA(over="mean"))(activations).numpy()
    np.testing.assert_allclose(mean, expected.sum(1) / 3, rtol=1e-4, atol=1e-5)


def test_small_angles_keep_their_digits(draw):
    """Far along the boundary the angle is tiny, and its cosine is 1 in single precision."""
    case = draw(0, n=200)
    far = replace(case, features=1e4 * torch.randn(20, 12).relu())
    bias = LinearHead(1e-6 * case.head.weight, torch.tensor([0.0, -1e-3, -2e-3, -3e-3]))
    far, case = replace(far, head=bias), replace(case, head=bias)
    found, expected = case.fit(ORA())(far.activations).double().numpy(), angles_of(case, far.f).max(1)
    assert (found > 0).all()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-7)


def test_classes_with_equal_weights_have_no_boundary(draw):
    case = draw(0, n=200)
    weight = case.head.weight.clone()
    weight[1] = weight[0]
    same = replace(case, head=LinearHead(weight, case.head.bias))
    np.testing.assert_allclose(
        same.fit(ORA())(same.activations).numpy(), angles_of(same, same.f).max(1), rtol=1e-4, atol=1e-5
    )


def test_the_mean_ranks_almost_as_fdbd(draw):
    case = draw(0, n=200)
    ours, theirs = case.fit(ORA(over="mean"))(case.activations), case.fit(FDBD())(case.activations)
    ranks = np.corrcoef(ours.argsort().argsort().numpy(), theirs.argsort().argsort().numpy())[0, 1]
    assert ranks > 0.95


def test_a_class_without_samples(draw):
    case = draw(0, n=200)
    shown = replace(case, features=case.features[case.labels < 3], labels=case.labels[case.labels < 3])
    with pytest.raises(LabelError, match=r"1 of 4 classes .*: 3\..*unseen=skip"):
        shown.fit(ORA())
    found = shown.fit(ORA(unseen="skip"))(case.activations)
    np.testing.assert_allclose(found.numpy(), angles_of(shown, case.f).max(1), rtol=1e-4, atol=1e-5)


def test_settings_out_of_range():
    with pytest.raises(SettingError, match="`over` must be"):
        ORA(over="median")
