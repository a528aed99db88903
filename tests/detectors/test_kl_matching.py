"""KL matching against sums over classes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from oodline.detectors.kl_matching import KLMatching
from oodline.model.head import LinearHead
from oodline.testing import activations_of


def probabilities(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def scores_of(case, logits: np.ndarray) -> np.ndarray:
    """Minus the divergence to the nearest mean posterior of the samples predicted as one class."""
    posterior, predicted = probabilities(case.logits), case.logits.argmax(1)
    templates = [posterior[predicted == k].mean(0) for k in sorted(set(predicted))]
    return np.array([-min(sum(p * np.log(p / d)) for d in templates) for p in probabilities(logits)])


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_formula(draw, assert_equals, seed):
    case, other = draw(seed), draw(seed + 100)
    unlike = activations_of(other.features, case.head)
    scores = case.fit(KLMatching())(unlike)
    assert_equals(scores, scores_of(case, unlike.logits.double().numpy()))


def test_a_class_never_predicted_has_no_template(draw, assert_equals):
    case = draw(0)
    gone = int(case.logits.argmax(1)[0])
    without = replace(case, head=LinearHead(case.head.weight, case.head.bias - 30 * torch.eye(4)[gone]))
    left = set(without.logits.argmax(1))
    assert gone not in left
    detector = without.fit(KLMatching())
    assert detector.log_templates.shape == (len(left), 4)
    # inputs that are predicted as the class nevertheless are scored by their distance to the other templates
    assert_equals(detector(case.activations), scores_of(without, case.logits))


def test_labels_are_not_read(draw):
    case = draw(0)
    other = replace(case, labels=torch.zeros_like(case.labels))
    assert torch.equal(case.fit(KLMatching()).log_templates, other.fit(KLMatching()).log_templates)


def test_probabilities_that_underflow_stay_finite(draw):
    case = draw(0, classes=2, width=2)
    sure = replace(case, features=500 * torch.eye(2)[case.labels], head=LinearHead(torch.eye(2), torch.zeros(2)))
    detector = sure.fit(KLMatching())
    scores = detector(activations_of(torch.tensor([[500.0, 0.0], [250.0, 250.0]]), sure.head))
    assert scores.isfinite().all()
    assert scores[0] == pytest.approx(0, abs=1e-6)
    assert scores[1] < -20


def test_no_score_is_above_zero(draw):
    case = draw(0)
    assert case.fit(KLMatching())(case.activations).amax() <= 1e-6
