"""Methods that compare with class means, and norms, against loops over samples."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from oodline.detectors.cadref import CADRef, CARef, confidence_of
from oodline.detectors.fdbd import FDBD
from oodline.detectors.feature_norm import FeatureNorm, GradNorm
from oodline.detectors.relative_mahalanobis import RelativeMahalanobis
from oodline.detectors.she import SHE
from oodline.errors import LabelError, SettingError
from oodline.model.head import LinearHead
from oodline.testing import activations_of

seeds = pytest.mark.parametrize("seed", range(3))
signs = pytest.mark.parametrize("signed", [False, True])


def softmax(z: np.ndarray) -> np.ndarray:
    return np.exp(z - np.logaddexp.reduce(z))


def logits_of(case, f: np.ndarray) -> np.ndarray:
    return f @ case.W.T + case.b


@seeds
@signs
def test_norms_equal_their_formulas(draw, assert_equals, seed, signed):
    case = draw(seed, signed=signed)
    assert_equals(FeatureNorm()(case.activations), np.array([np.sqrt(sum(x * x)) for x in case.f]))
    expected = [np.abs(np.outer(softmax(z) - 1 / 4, x)).sum() for z, x in zip(case.logits, case.f, strict=True)]
    assert_equals(GradNorm()(case.activations), np.array(expected))


def test_gradnorm_is_the_norm_of_the_gradient_by_autograd(draw, assert_equals):
    case = draw(0)
    expected = []
    for x in case.features.double():
        weight = case.head.weight.double().clone().requires_grad_()
        (-torch.log_softmax(weight @ x + case.head.bias.double(), 0).mean()).backward()
        expected.append(float(weight.grad.abs().sum()))
    assert_equals(GradNorm()(case.activations), np.array(expected))


@seeds
@signs
def test_she_equals_the_formula(draw, assert_equals, seed, signed):
    case, other = draw(seed, n=200, signed=signed), draw(seed + 100, signed=signed)
    centres = torch.stack([case.features[case.labels == c].mean(0) for c in range(4)])
    case = replace(case, head=LinearHead(centres, -0.5 * centres.square().sum(1)))  # the nearest centre
    right = case.logits.argmax(1) == case.y
    means = [case.f[right & (case.y == c)].mean(0) for c in range(4)]
    expected = [x @ means[np.argmax(logits_of(case, x))] for x in other.f]
    assert_equals(case.fit(SHE())(activations_of(other.features, case.head)), np.array(expected))


def test_she_needs_a_correct_sample_of_each_class(draw):
    case = draw(0)
    wrong = replace(case, labels=torch.from_numpy((case.logits.argmax(1) + 1) % 4))
    with pytest.raises(LabelError, match=r"4 of 4 classes have no sample that is classified correctly.*: 0, 1, 2, 3\."):
        wrong.fit(SHE())


def test_she_can_leave_classes_out(draw, assert_equals):
    case = draw(0)
    predicted = torch.from_numpy(case.logits.argmax(1))
    absent = int(predicted.bincount(minlength=4).argmax())
    some = replace(case, labels=torch.where(predicted == absent, (absent + 1) % 4, predicted))
    with pytest.raises(LabelError, match=r"of 4 classes .*unseen=skip"):
        some.fit(SHE())
    right = case.logits.argmax(1) == some.y
    means = {c: case.f[right & (some.y == c)].mean(0) for c in set(some.y[right].tolist())}
    assert absent not in means
    expected = [x @ means[max(means, key=lambda c: z[c])] for x, z in zip(case.f, case.logits, strict=True)]
    assert_equals(some.fit(SHE(unseen="skip"))(case.activations), np.array(expected))
    none = replace(case, labels=(predicted + 1) % 4)
    with pytest.raises(LabelError, match="4 of 4 classes"):
        none.fit(SHE(unseen="skip"))


def gen_of(z: np.ndarray) -> float:
    """One over the generalised entropy; of four classes all count, as there are fewer than ten."""
    return 1 / sum(p**0.1 * (1 - p) ** 0.1 for p in softmax(z))


def caref_of(case, f: np.ndarray, confidence=None) -> np.ndarray:
    predicted = case.logits.argmax(1)
    means = [case.f[predicted == c].mean(0) if (predicted == c).any() else case.f.mean(0) for c in range(4)]
    scores = []
    for x in f:
        z = logits_of(case, x)
        c = np.argmax(z)
        d, size = x - means[c], np.abs(x).sum()
        if confidence is None:
            scores.append(-np.abs(d).sum() / size)
            continue
        positive = sum(max(v * np.sign(w), 0) for v, w in zip(d, case.W[c], strict=True)) / size
        negative = sum(max(-v * np.sign(w), 0) for v, w in zip(d, case.W[c], strict=True)) / size
        mean = np.mean([confidence(z) for z in case.logits])
        scores.append(-(positive / max(confidence(z), 1e-3) + negative / max(mean, 1e-3)))
    return np.array(scores)


@seeds
@signs
@pytest.mark.parametrize(
    ("detector", "confidence"),
    [(CARef(), None), (CADRef(), np.logaddexp.reduce), (CADRef(confidence="gen"), gen_of)],
)
def test_caref_and_cadref_equal_their_formulas(draw, assert_equals, seed, signed, detector, confidence):
    case, other = draw(seed, signed=signed), draw(seed + 100, signed=signed)
    scores = case.fit(detector)(activations_of(other.features, case.head))
    assert_equals(scores, caref_of(case, other.f, confidence))


def test_cadref_counts_a_tenth_of_many_classes(draw):
    """M = max(10, C // 10): of 300 classes thirty."""
    logits = torch.randn(5, 300)
    p = logits.double().softmax(1).sort(1, descending=True).values[:, :30]
    expected = 1 / (p**0.1 * (1 - p) ** 0.1).sum(1)
    torch.testing.assert_close(confidence_of(logits, "gen").double(), expected, rtol=1e-6, atol=0)


def test_cadref_knows_two_confidences():
    with pytest.raises(SettingError, match="`confidence` must be 'energy' or 'gen'; got 'msp'"):
        CADRef(confidence="msp")


def test_a_class_never_predicted_takes_the_overall_mean(draw):
    case = draw(0)
    never = replace(case, head=LinearHead(case.head.weight, torch.tensor([-1e3, 0.0, 0.0, 0.0])))
    np.testing.assert_allclose(never.fit(CARef()).means[0].numpy(), case.f.mean(0), rtol=1e-5)


@seeds
@signs
def test_fdbd_equals_the_formula(draw, assert_equals, seed, signed):
    case, other = draw(seed, signed=signed), draw(seed + 100, signed=signed)
    expected = []
    for x in other.f:
        z = logits_of(case, x)
        c = np.argmax(z)
        distances = [(z[c] - z[k]) / np.linalg.norm(case.W[c] - case.W[k]) for k in range(4) if k != c]
        expected.append(np.mean(distances) / np.linalg.norm(x - case.f.mean(0)))
    assert_equals(case.fit(FDBD())(activations_of(other.features, case.head)), np.array(expected))


def test_classes_of_equal_weights_have_no_boundary(draw):
    case = draw(0)
    same = replace(case, head=LinearHead(case.head.weight[:1].expand(4, -1).contiguous(), case.head.bias))
    assert torch.equal(same.fit(FDBD())(same.activations), torch.zeros(48))


@seeds
@signs
def test_relative_mahalanobis_equals_the_formula(draw, seed, signed):
    case, other = draw(seed, n=200, signed=signed), draw(seed + 100, signed=signed)
    means = np.array([case.f[case.y == c].mean(0) for c in range(4)])
    within = np.linalg.inv(np.cov((case.f - means[case.y]).T, bias=True))
    overall = np.linalg.inv(np.cov(case.f.T, bias=True))
    centre = case.f.mean(0)
    expected = [
        -min((x - m) @ within @ (x - m) - (x - centre) @ overall @ (x - centre) for m in means) for x in other.f
    ]
    scores = case.fit(RelativeMahalanobis())(activations_of(other.features, case.head))
    np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-3)
