"""What the features of a network are like, against NumPy."""

import numpy as np
import pytest
import torch

import oodline as ol
from oodline.model.head import LinearHead
from oodline.statistics import Backbone
from oodline.statistics.backbone import effective_rank
from oodline.testing import activations_of, toy_problem


@pytest.mark.parametrize("signed", [False, True])
def test_equals_numpy_whatever_the_batches(signed):
    features = torch.randn(250, 6) * torch.tensor([3.0, 2, 1, 1, 0.1, 0])
    features = features if signed else features.relu()
    head, statistics = LinearHead(torch.randn(4, 6), torch.zeros(4)), Backbone.statistics()
    for rows in torch.arange(250).split(37):
        for statistic in statistics.values():
            statistic.update(activations_of(features[rows], head).replace(index=rows), None)
    found, f = Backbone.of(statistics, head), features.double().numpy()
    lengths, values = np.linalg.norm(f, axis=1), np.linalg.eigvalsh(np.cov(f.T))
    assert (found.features, found.classes, found.samples, found.head) == (6, 4, 250, "linear")
    assert found.kind == ("signed" if signed else "rectified")
    assert found.per_class == np.median(np.bincount((f @ head.weight.double().numpy().T).argmax(1), minlength=4))
    assert (found.zeros, found.negatives) == ((f == 0).mean(), (f < 0).mean())
    assert found.norm_spread == pytest.approx(lengths.std() / lengths.mean(), rel=1e-9)
    assert found.effective_rank == pytest.approx(values.sum() ** 2 / (values**2).sum(), rel=1e-9)


def test_features_that_do_not_vary_have_no_rank():
    assert effective_rank(torch.ones(5, 3)) == 0.0


def test_every_fit_that_makes_a_pass_tells_it():
    classifier, loader = toy_problem()
    result = ol.fit([ol.LINe(), ol.Energy()], classifier, loader)
    assert result.backbone == result.detectors["line"].backbone
    assert result.backbone.summary.startswith("16 rectified features (")
    assert ol.fit(ol.Energy(), classifier, loader).backbone is None  # it needs no pass
