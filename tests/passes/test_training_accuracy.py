"""The accuracy on the fit data, and when it is no better than guessing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import oodline as ol
from oodline.passes.training_accuracy import TrainingAccuracy
from oodline.statistics import Hits
from oodline.testing import activations_of


def accuracy(right: int, labelled: int, classes: int) -> TrainingAccuracy:
    """The accuracy of a classifier that gives back its input, of which `right` labels are those of the input."""
    classifier = ol.Classifier(nn.Sequential(nn.Identity(), nn.Linear(classes, classes, bias=False)))
    with torch.no_grad():
        classifier.model[1].weight.copy_(torch.eye(classes))
    labels = torch.arange(labelled) % classes
    given = torch.where(torch.arange(labelled) < right, labels, (labels + 1) % classes)
    known = TrainingAccuracy()
    ol.fit([known], classifier, [(nn.functional.one_hot(labels, classes).float(), given)])
    return known


@pytest.mark.parametrize(("right", "labelled", "classes", "complains"), [
    (100, 100, 2, False),
    (69, 100, 2, True),  # 0.5 + 4 * 0.05 = 0.7
    (71, 100, 2, False),
    (0, 1000, 10, True),
    (137, 1000, 10, True),  # 0.1 + 4 * 0.0095 = 0.138
    (139, 1000, 10, False),
    (16, 16, 2, False),  # all of a few: guessing would do so once in 65,536 times
    (8, 8, 3, False),
    (5, 8, 3, True),
])  # fmt: skip
def test_it_complains_where_guessing_would_do_as_well(right, labelled, classes, complains):
    known = accuracy(right, labelled, classes)
    assert known.value == right / labelled
    assert ("no better than guessing" in known.warning) == complains


def test_labels_that_say_nothing_count_for_nothing():
    hits, activations = Hits(), activations_of(torch.eye(3))
    hits.update(activations, None)
    hits.update(activations, torch.eye(3))
    assert hits.empty
    assert hits.accuracy is None
    hits.update(activations, activations.logits.argmax(1) + 100)
    assert hits.accuracy == 0


def test_without_labels_there_is_no_accuracy_and_no_complaint():
    known = TrainingAccuracy()
    ol.fit([known, ol.KNN(k=2)], ol.Classifier(nn.Linear(4, 3)), [torch.randn(20, 4)])
    assert known.value is None
    assert known.warning == ""
