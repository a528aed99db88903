"""Distances between the weights of classes, from a table and from one product."""

import pytest
import torch

from oodline.detectors.fdbd import FDBD
from oodline.detectors.ora import ORA
from oodline.detectors.parts import gaps
from oodline.testing import toy_problem


@pytest.mark.parametrize("detector", [FDBD, ORA])
def test_many_classes_score_as_few_do(detector, monkeypatch):
    classifier, loader = toy_problem()
    activations = classifier(loader[0][0])
    few = detector().fit(classifier, loader)
    monkeypatch.setattr(gaps, "LARGEST_TABLE", 2)
    many = detector().fit(classifier, loader)
    assert few.inverse_gap.shape == (3, 3)
    assert many.inverse_gap.shape == (1, 3)
    torch.testing.assert_close(many(activations), few(activations), rtol=1e-4, atol=1e-6)


def test_equal_weights_have_no_boundary_among_many_classes(monkeypatch):
    monkeypatch.setattr(gaps, "LARGEST_TABLE", 2)
    weight = torch.randn(1, 512).expand(4, -1).contiguous()
    table = gaps.inverse_gap_table(weight)
    assert torch.equal(gaps.inverse_gaps(table, weight, torch.tensor([0, 3])), torch.zeros(2, 4))
