"""Makers of outliers: what they change of a sample, in which order they draw, and what they choose."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from oodline.errors import InputError, SettingError
from oodline.testing import toy_network, toy_problem
from oodline.training import Auxiliary, EnergyClusters, Forward, Gaussian, Gradient, Shuffle, kmeans
from oodline.training.energy_clusters import chosen_rows
from oodline.training.outlier_maker import saliency

IMAGES = torch.rand(3, 3, 8, 8)
CLASSES = torch.tensor([2, 0, 1])


@pytest.fixture(scope="module")
def forward():
    return Forward(toy_network().train())


def test_saliency_is_the_gradient_of_the_labelled_logit_in_evaluation_mode():
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).train()
    x = torch.randn(3, 4)
    found = saliency(Forward(model), x, CLASSES)
    assert model.training and all(p.grad is None for p in model.parameters()) and not found.requires_grad
    leaf = x.clone().requires_grad_()
    model.eval()(leaf)[torch.arange(3), CLASSES].sum().backward()
    torch.testing.assert_close(found, leaf.grad)


@pytest.mark.parametrize("by", ["saliency", "random"])
def test_shuffle_moves_whole_pixels_and_as_many_as_it_should(forward, by):
    made = Shuffle(fraction=0.25, by=by)(forward, IMAGES, CLASSES)
    moved = (made != IMAGES).any(1).flatten(1).sum(1)
    assert bool((moved > 8).all()) and bool((moved <= 16).all())
    for before, after in zip(IMAGES.flatten(2), made.flatten(2), strict=True):
        assert sorted(map(tuple, before.T.tolist())) == sorted(map(tuple, after.T.tolist()))
    if by == "saliency":
        rank = saliency(forward, IMAGES, CLASSES).exp().sum(1).flatten(1)
        least = rank.sort(descending=True).values[:, 15:16]
        assert not bool(((made != IMAGES).any(1).flatten(1) & (rank < least)).any())


def test_gradient_moves_the_steepest_elements_along_it():
    # an even slope over the pixels of a toy network leaves no order; this one is a matrix
    model, x = nn.Linear(4, 3), torch.randn(3, 4)
    maker = Gradient(fraction=0.5, alpha=10.0, alpha_end=2.0)
    maker.progress = 0.25
    slope = model.weight.detach()[CLASSES]
    steep = slope.abs() >= slope.abs().sort(1, descending=True).values[:, 1:2]
    torch.testing.assert_close(maker(Forward(model), x, CLASSES), x + 8 * slope * steep)


def test_gaussian_is_noise_of_a_scale_that_falls():
    maker = Gaussian(alpha=2.0, alpha_end=0.0)
    maker.progress = 0.5
    noise = maker(None, torch.full((4000, 2), 9.0), None)
    assert float(noise.std()) == pytest.approx(1, abs=0.05) and abs(float(noise.mean())) < 0.05


def test_auxiliary_goes_on_where_it_was_and_begins_again():
    maker = Auxiliary([(torch.arange(3.0), ["a"]), torch.arange(3.0, 5.0)], per_inlier=1.5)
    taken = [maker(None, torch.zeros(2), None).tolist() for _ in range(3)]
    assert taken == [[0, 1, 2], [3, 4, 0], [1, 2, 3]]
    maker.restart()
    assert maker.take(1).tolist() == [0]
    for empty in ([], [torch.zeros(0, 2)], iter([])):
        with pytest.raises(InputError, match="yielded no sample"):
            Auxiliary(empty).take(1)
    with pytest.raises(InputError, match="yields mappings"):
        Auxiliary([{"x": torch.zeros(2)}]).take(1)


def test_images_are_needed_where_pixels_are_shuffled(forward):
    with pytest.raises(InputError, match=r"Shuffle needs images \(N, C, H, W\); got shape \(2, 4\)"):
        Shuffle()(forward, torch.zeros(2, 4), CLASSES[:2])


def test_lowest_and_highest_energy_of_each_cluster_are_chosen():
    centres = torch.eye(4).repeat_interleave(5, 0)
    energies = torch.randn(20)
    found = chosen_rows(energies, centres * torch.rand(20, 1) + 0.01 * torch.randn(20, 4), 4, 10)
    groups = energies.view(4, 5)
    expected = {int(i) + 5 * c for c, row in enumerate(groups) for i in (row.argmin(), row.argmax())}
    assert expected < set(found.tolist()) and len(set(found.tolist())) == len(found) == 10


def test_energy_clusters_skips_what_is_most_like_id_samples():
    classifier, train = toy_problem()
    candidates = torch.cat([train[0][0][:10] * 9, torch.randn(20, 4)])
    forward = Forward(classifier.model)
    made = EnergyClusters(Auxiliary([candidates]), candidates=6, skip=2)(forward, train[0][0][:5], None)
    energy = -classifier(candidates).logits.logsumexp(1)
    kept = candidates[energy.argsort()[10:]]
    assert made.shape == (10, 4) and all(bool((kept == row).all(1).any()) for row in made)
    with pytest.raises(SettingError, match="`candidates` must be at least 2 more than `skip`, 1"):
        EnergyClusters(Auxiliary([candidates]), candidates=2.5, skip=1)


def test_kmeans_is_as_good_as_scikit_learn():
    cluster = pytest.importorskip("sklearn.cluster", reason="tests of k-means: pip install 'oodline[sklearn]'")
    points = torch.randn(120, 3) + 4 * torch.eye(3)[torch.arange(120) % 3]
    assigned = kmeans(points, 3)
    cost = sum(float((points[assigned == c] - points[assigned == c].mean(0)).square().sum()) for c in range(3))
    theirs = cluster.KMeans(3, n_init=3, random_state=0).fit(np.asarray(points.tolist())).inertia_
    assert cost == pytest.approx(theirs, rel=1e-4)
    assert len(kmeans(torch.zeros(5, 2), 3)) == 5  # equal points
    with pytest.raises(InputError, match="3 clusters need as many points"):
        kmeans(torch.zeros(2, 2), 3)
