"""Planted label errors are found, and scores are those of the paper's two rounds, pair by pair."""

import numpy as np
import pytest
import torch

import oodline as ol
from oodline.errors import InputError, LabelError
from oodline.testing import toy_problem


def planted(n: int = 300, wrong: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of three classes around their own axes, labels of which some are moved on by one, and which."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    features = random.normal(size=(n, 6)) * 0.25 + np.eye(3, 6)[labels]
    moved = random.choice(n, wrong, replace=False)
    labels[moved] = (labels[moved] + 1) % 3
    return features.astype(np.float32), labels, moved


HEAD = (6 * np.eye(3, 6, dtype=np.float32), np.zeros(3, dtype=np.float32))


@pytest.mark.parametrize("seed", range(3))
def test_planted_errors_come_first(seed):
    features, labels, moved = planted(seed=seed)
    found = ol.find_label_errors(*ol.from_features(features, labels, head=HEAD))
    assert set(found.index[:12].tolist()) == set(moved.tolist())
    assert set(moved.tolist()) <= set(found.suspects.tolist())
    assert len(found.suspects) < 20
    # what the classifier says of them is the label that they had
    assert (found.predicted[:12] == (found.label[:12] - 1) % 3).all()
    assert torch.equal(found.label, torch.from_numpy(labels)[found.index])


def test_scores_are_those_of_the_paper():
    features, labels, _ = planted(n=60, wrong=5)
    z = features.astype(float) @ HEAD[0].T.astype(float)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    r = np.zeros((60, 60))
    for i in range(60):
        for j in range(60):
            cosine = features[i] @ features[j] / np.linalg.norm(features[i]) / np.linalg.norm(features[j])
            k = max(0.0, cosine) * (p[i] @ p[j])
            r[i, j] = (1 if labels[i] == labels[j] else -1) * (k**4 if k > 0.03 else 0.0)
    first = r.sum(1)
    clear = first / np.abs(first).max() < -0.05
    assert 0 < clear.sum() < 10
    expected = first - 2 * r[:, clear].sum(1)
    found = ol.find_label_errors(*ol.from_features(features, labels, head=HEAD))
    assert bool((found.score.diff() >= 0).all())
    np.testing.assert_allclose(found.score.numpy(), expected[found.index.numpy()], rtol=1e-4, atol=1e-4)


def test_a_sample_to_compare_with_is_enough():
    features, labels, moved = planted(n=600)
    found = ol.find_label_errors(*ol.from_features(features, labels, head=HEAD), compare=100)
    assert len(found.index) == 600
    assert len(set(found.index[:12].tolist()) & set(moved.tolist())) >= 10


def test_batches_do_not_matter():
    classifier, loader = toy_problem()
    inputs, labels = loader[0]
    whole = ol.find_label_errors(classifier, loader)
    parts = ol.find_label_errors(classifier, [(inputs[:7], labels[:7]), (inputs[7:], labels[7:])])
    assert torch.equal(whole.index, parts.index)
    torch.testing.assert_close(whole.score, parts.score)


def test_what_is_missing_is_said():
    classifier, loader = toy_problem()
    with pytest.raises(LabelError, match="yields no labels"):
        ol.find_label_errors(classifier, [loader[0][0]])
    with pytest.raises(InputError, match="finding label errors needs logits, and only features are given"):
        ol.find_label_errors(*ol.from_features(torch.ones(4, 3), [0, 1, 0, 1]))
