"""What unlabelled samples are taken for, and long-tailed splits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from oodline.errors import LabelError, SettingError
from oodline.evaluation.metrics import auroc
from oodline.testing import toy_loader, toy_problem
from oodline.training import PurityAssignment, TernaryAssignment, auroc_by_group, class_groups, long_tail_rows
from oodline.training.purity_assignment import reduced


def test_ternary_assignment_by_quantiles_of_labelled_samples():
    known = torch.arange(11.0)  # quantiles are their own numbers over ten
    found = TernaryAssignment(inlier=0.9, outlier=0.2).assign(
        known, torch.tensor([9.0, 8.9, 2.1, 2.0, 20.0]), torch.tensor([1, 1, 1, 1, 0])
    )
    assert found.labels.tolist() == [1, -1, -1, -1, 0]
    assert found.kept.tolist() == [True, False, False, True, True]
    assert found.counts() == {"inliers": 2, "outliers": 1, "discarded": 2}
    with pytest.raises(SettingError, match="`outlier` must be at most `inlier`"):
        TernaryAssignment(inlier=0.1)


def test_ternary_assignment_reads_both_sets_in_their_order():
    classifier, train = toy_problem()
    unlabelled = [*toy_loader(seed=1), torch.zeros(5, 4)]
    found = TernaryAssignment()(classifier, train, unlabelled)
    scores = torch.cat([classifier(x).logits.logsumexp(1) for x in (unlabelled[0][0], unlabelled[1])])
    known = classifier(train[0][0]).logits.logsumexp(1).numpy().astype(np.float64)
    low, high = np.quantile(known, [0.2, 0.9])
    assert found.kept.tolist() == [bool(s >= high or s <= low) for s in scores]
    assert found.labels[60:].tolist() == [-1] * 5


def test_purity_by_counting():
    torch.manual_seed(3)
    clusters, labels = torch.randint(0, 6, (80,)), torch.randint(-1, 2, (80,))
    rule = PurityAssignment(purity=0.5, outlier_purity=0.4, enhancement=3)
    found = rule.assign(clusters, labels)
    for c in range(6):
        inside = labels[clusters == c].tolist()
        share = {y: inside.count(y) / len(inside) for y in (-1, 0, 1)}
        pure = [y for y in share if share[y] > 0.5]
        assert set(found.labels[clusters == c].tolist()) == {pure[0] if pure else -1}
        weight = 3.0 if not pure and share[-1] > 0.4 else 1.0
        assert set(found.weights[clusters == c].tolist()) == {weight}


def test_the_outlier_branch_is_never_reached_where_both_thresholds_are_equal():
    clusters, labels = torch.randint(0, 9, (400,)), torch.randint(-1, 3, (400,))
    assert set(PurityAssignment().assign(clusters, labels).weights.tolist()) == {1.0}


def test_features_are_whitened_and_of_unit_length():
    f = torch.randn(50, 4) * torch.tensor([9.0, 1.0, 0.1, 0.0])
    found = reduced(f, 256)
    u, _, _ = np.linalg.svd(f.double().numpy() - f.double().numpy().mean(0), full_matrices=False)
    expected = u[:, :3] / np.linalg.norm(u[:, :3], axis=1)[:, None]
    assert found.shape == (50, 3)
    np.testing.assert_allclose(np.abs(found.numpy()), np.abs(expected), atol=1e-4)
    assert reduced(f, 2).shape == (50, 2)


def test_labels_of_the_labelled_set_are_needed():
    classifier, train = toy_problem()
    with pytest.raises(LabelError, match="the labelled set has batches without labels"):
        PurityAssignment(clusters=2)(classifier, [train[0][0]], [train[0][0]])


def test_long_tailed_rows_are_the_first_of_each_class_or_drawn_by_a_seed():
    labels = torch.arange(300) % 3
    first, drawn = long_tail_rows(labels, 0.1), long_tail_rows(labels, 0.1, seed=1)
    for rows in (first, drawn):
        assert torch.bincount(labels[rows]).tolist() == [100, 31, 10]
        assert rows.tolist() == sorted(rows.tolist())
    assert first[labels[first] == 2].tolist() == list(range(2, 30, 3))
    assert not torch.equal(first, drawn)
    assert torch.equal(drawn, long_tail_rows(labels, 0.1, seed=1))
    with pytest.raises(LabelError, match="class 1 has no sample"):
        long_tail_rows(torch.tensor([0, 2]), 0.5)


def test_auroc_of_head_and_tail():
    scores, labels, ood = torch.randn(60), torch.arange(60) % 3, torch.randn(40)
    groups = class_groups([5, 9, 1])
    assert groups == {"head": [1], "middle": [0], "tail": [2]}
    found = auroc_by_group(scores, labels, ood, groups)
    assert found["tail"] == auroc(scores[labels == 2], ood) and found["head"] == auroc(scores[labels == 1], ood)
    with pytest.raises(LabelError, match="no sample is of the classes of 'head': 1"):
        auroc_by_group(scores, labels * 0, ood, groups)
    with pytest.raises(SettingError, match="of at least 3 classes; got 2"):
        class_groups([1, 2])
