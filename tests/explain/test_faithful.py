"""Curves against a loop that takes pixels away one share at a time, and checks that a good map passes them."""

import numpy as np
import pytest
import torch

from oodline.errors import SettingError
from oodline.explain.baselines import baseline_of
from oodline.explain.faithful import curves, randomised_agreement, rank_correlation
from oodline.explain.maps import place_maps
from oodline.explain.values import value_of
from oodline.model.classifier import Classifier
from oodline.testing.toys import toy_network

IMAGE = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
CLASSIFIER = Classifier(toy_network())


def test_curves_equal_a_loop():
    value = value_of("probability", CLASSIFIER, label=0)
    ranking = torch.rand(8, 8, generator=torch.Generator().manual_seed(1))
    found = curves(value, IMAGE, ranking, steps=4, batch_size=3)
    order = np.argsort(-ranking.flatten().numpy())
    less, more = IMAGE.clone(), baseline_of(IMAGE, "blur")
    empty, deleted, inserted = more.clone(), [], []
    for step in range(5):
        for pixel in order[16 * (step - 1) : 16 * step] if step else ():
            row, column = divmod(int(pixel), 8)
            less[:, row, column], more[:, row, column] = empty[:, row, column], IMAGE[:, row, column]
        deleted.append(float(value(less[None])))
        inserted.append(float(value(more[None])))
    np.testing.assert_allclose(found.deletion, deleted, rtol=1e-5)
    np.testing.assert_allclose(found.insertion, inserted, rtol=1e-5)
    assert found.deletion_area == pytest.approx(np.trapezoid(deleted, np.linspace(0, 1, 5)), rel=1e-5)
    assert found.difference == pytest.approx(found.insertion_area - found.deletion_area)


def test_the_map_that_makes_the_number_is_more_faithful_than_its_opposite():
    def value(images):
        return images[:, 0, :4].mean((1, 2))  # the upper half of one channel

    ranking = torch.zeros(8, 8)
    ranking[:4] = 1
    assert curves(value, IMAGE, ranking, baseline="zero").difference > 0.2
    assert curves(value, IMAGE, -ranking, baseline="zero").difference < -0.2
    with pytest.raises(SettingError, match="`map` must be"):
        curves(value, IMAGE, torch.zeros(1, 8, 8))
    with pytest.raises(SettingError, match="with 64 NaN"):
        curves(value, IMAGE, torch.full((8, 8), torch.nan))


def test_rank_correlation_equals_that_of_ranks_with_ties():
    one, other = torch.tensor([1.0, 1.0, 2.0, 5.0]), torch.tensor([0.0, 3.0, 2.0, 9.0])
    expected = np.corrcoef([1.5, 1.5, 3, 4], [1, 3, 2, 4])[0, 1]
    assert rank_correlation(one, other) == pytest.approx(expected)
    assert rank_correlation(one, torch.ones(4)) == 0
    with pytest.raises(SettingError, match="of one length"):
        rank_correlation(one, torch.ones(3))


def test_randomised_weights_change_a_map_of_what_was_learnt_and_not_one_of_the_image():
    def learnt(model):
        return place_maps(Classifier(model), IMAGE[None], torch.ones(1, 1, 16)).values[0, 0]

    before = [p.clone() for p in CLASSIFIER.model.parameters()]
    assert randomised_agreement(learnt, CLASSIFIER.model) < 0.9
    assert randomised_agreement(lambda _model: IMAGE[0], CLASSIFIER.model) == pytest.approx(1)
    assert all(torch.equal(p, q) for p, q in zip(before, CLASSIFIER.model.parameters(), strict=True))
