"""Which class a sample counts for: labels that cannot be meant are refused, and predictions need none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from oodline.errors import LabelError
from oodline.model.activations import Activations
from oodline.statistics import ClassMoments, Covariance, Reservoir
from oodline.testing import activations_of


def batch(n: int) -> tuple[Activations, Tensor]:
    return activations_of(torch.randn(n, 3)), torch.arange(n) % 3


BAD_LABELS: dict[str, tuple[Any, str]] = {
    "missing": (lambda y: None, r"yields no labels; yield \(inputs, labels\)"),
    "negative": (lambda y: y.index_fill(0, torch.tensor([4, 6]), -1), r"2 of 9 labels .*\[0, 2\].* -1 of sample 104\)"),
    "too large": (
        lambda y: y.index_fill(0, torch.tensor([5]), 3),
        r"1 of 9 labels .*\[0, 2\].*label 3 of sample 105\)",
    ),
    "float": (lambda y: y.float(), "labels are torch.float32; integers from 0 to 2"),
    "bool": (lambda y: y > 0, "labels are torch.bool; integers"),
    "too short": (lambda y: y[:-1], r"labels have shape \(8,\); \(9,\), one per sample"),
    "one-hot": (lambda y: torch.eye(3, dtype=torch.int64)[y], r"labels have shape \(9, 3\)"),
}


@pytest.mark.parametrize("bad", BAD_LABELS)
@pytest.mark.parametrize("make", [ClassMoments, Covariance, lambda: Reservoir(5, by="label")])
def test_bad_labels_are_refused_before_anything_is_taken_in(make, bad):
    activations, labels = batch(9)
    change, sentence = BAD_LABELS[bad]
    statistic = make()
    with pytest.raises(LabelError, match=sentence):
        statistic.update(activations.replace(index=activations.index + 100), change(labels))
    assert statistic.empty


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_labels_of_any_integer_type_are_taken(dtype):
    activations, labels = batch(20)
    found, expected = ClassMoments(), ClassMoments()
    found.update(activations, labels.to(dtype))
    expected.update(activations, labels)
    torch.testing.assert_close(found.state_dict(), expected.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("make", [ClassMoments, Covariance, lambda by: Reservoir(5, by=by)])
@pytest.mark.parametrize("labels", [None, torch.tensor([0.5])])
def test_grouping_by_prediction_reads_no_labels(make, labels):
    activations, _ = batch(20)
    found, expected = make(by="predicted"), make(by="label")
    found.update(activations, labels)
    expected.update(activations, activations.logits.argmax(1))
    torch.testing.assert_close(found.state_dict(), expected.state_dict(), rtol=0, atol=0)


def test_classes_without_enough_samples_are_named():
    moments = ClassMoments()
    moments.update(activations_of(torch.zeros(3, 15)), torch.tensor([0, 0, 1]))
    with pytest.raises(LabelError, match=r"13 of 15 classes have no sample among the 3 .*: 2, 3, .*, 11, \.\.\.\. Fit"):
        moments.check_every_class()
    with pytest.raises(LabelError, match=r"14 of 15 classes have fewer than 2 samples"):
        moments.check_every_class(at_least=2)
