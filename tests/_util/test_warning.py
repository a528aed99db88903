"""Warnings point at the line of whoever called oodline."""

from __future__ import annotations

import linecache
import warnings

import pytest
import torch

import oodline as ol
from oodline.testing import toy_problem


def few() -> tuple[ol.Classifier, list]:
    classifier, loader = toy_problem()
    inputs, labels = loader[0]
    rows = torch.cat([(labels == c).nonzero().flatten()[:2] for c in labels.unique()])
    return classifier, [(inputs[rows], labels[rows])]


def same_scores() -> tuple[ol.Guard, list]:
    classifier, loader = toy_problem()
    return ol.Guard(classifier, ol.Energy()), [torch.ones(50, loader[0][0].shape[1])]


CALLS = {
    "ol.fit(": lambda: ol.fit([ol.KLMatching()], *few()),
    ".fit(": lambda: ol.KLMatching().fit(*few()),
    "ol.fit_guards(": lambda: ol.fit_guards(ol.KLMatching(), *few()),
    ".calibrate(": lambda: same_scores()[0].calibrate(same_scores()[1], false_alarm=0.1),
}


@pytest.mark.parametrize("words", CALLS)
def test_a_warning_points_at_the_line_that_called(words):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        CALLS[words]()
    ours = [one for one in caught if issubclass(one.category, UserWarning)]
    assert ours
    for one in ours:
        assert one.filename == __file__
        assert words in linecache.getline(one.filename, one.lineno)
