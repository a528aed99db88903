"""Heads of recipes are their formulas, take the place of a trained one, and post-hoc methods read them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

import oodline as ol
from oodline.errors import HeadError
from oodline.testing import toy_loader, toy_problem
from oodline.training import AbeTHead, ASCOODHead, TrainingHead, replace_head

HEADS = [AbeTHead, ASCOODHead]


@pytest.fixture
def features():
    torch.manual_seed(1)
    return torch.randn(7, 5, dtype=torch.float64)


def test_abet_is_a_cosine_over_a_temperature(features):
    head = AbeTHead(5, 3).double().train()
    a, b = (p.detach().numpy() for p in head.temperature[0].parameters())
    w, f = head.directions.detach().numpy(), features.numpy()
    t = f @ a[0] + b[0]
    t = 1 / (1 + np.exp(-(t - t.mean()) / np.sqrt(t.var() + 1e-5))) + 1e-12
    cosine = (f / (np.linalg.norm(f, axis=1)[:, None] + 1e-4)) @ (w / (np.linalg.norm(w, axis=1)[:, None] + 1e-4)).T
    np.testing.assert_allclose(head(features).detach().numpy(), cosine / t[:, None], rtol=1e-9)


def test_ascood_standardises_each_sample(features):
    head = ASCOODHead(5, 3, sigma=0.7).double()
    f = features.numpy()
    z = (f - f.mean(1)[:, None]) / (f.std(1, ddof=1)[:, None] + 1e-6) * 0.7
    w, b = (p.detach().numpy() for p in head.linear.parameters())
    np.testing.assert_allclose(head(features).detach().numpy(), z @ w.T + b, rtol=1e-9)


@pytest.mark.parametrize("kind", HEADS)
def test_gradients_are_right(kind, features):
    head = kind(5, 3).double().eval()
    assert gradcheck(head, features.clone().requires_grad_())
    assert isinstance(head, TrainingHead)


@pytest.mark.parametrize("kind", HEADS)
def test_the_classifier_finds_it_and_post_hoc_methods_read_it(kind):
    classifier, train = toy_problem()
    before = [p.clone() for p in classifier.head.linear.weight]
    head = replace_head(classifier.model, kind)
    changed = ol.Classifier(classifier.model)
    activations = changed(train[0][0])
    assert changed.head_name == "2.linear"
    torch.testing.assert_close(activations.head(activations.features), activations.logits)
    detectors = ["energy", "msp", "knn,k=5", "mahalanobis", "vim", "line", "react", "dice", "fdbd"]
    fitted = ol.fit(detectors, changed, train)
    scores = ol.score(fitted.detectors, changed, toy_loader(seed=1))
    assert all(bool(torch.isfinite(each).all()) for each in scores.values())
    torch.testing.assert_close(scores["energy"], changed(toy_loader(seed=1)[0][0]).logits.logsumexp(1).double())
    if kind is ASCOODHead:  # which keeps the trained layer
        torch.testing.assert_close(list(head.linear.weight), before)
    else:  # which keeps its directions
        torch.testing.assert_close(head.linear.weight, nn.functional.normalize(torch.stack(before)), atol=1e-3, rtol=0)


def test_a_head_takes_the_type_mode_and_place_of_the_one_before():
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3, bias=False)).double().eval()
    head = replace_head(model, ASCOODHead, sigma=1.0)
    assert model[1] is head and not head.training and head.sigma == 1
    assert head.linear.weight.dtype == torch.float64 and float(head.linear.bias.detach().abs().sum()) == 0


def test_only_a_linear_layer_is_replaced():
    with pytest.raises(HeadError, match="to be replaced by AbeTHead; it is a Conv2d"):
        replace_head(nn.Sequential(nn.Conv2d(3, 2, 1)), AbeTHead)
    two = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    with pytest.raises(HeadError, match="it is a sum of several"):
        replace_head(two, AbeTHead, "0.5*a + 0.5*b")
