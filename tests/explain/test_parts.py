"""Shapley values against a double loop over all coalitions, and what they must sum to."""

from functools import cache
from itertools import combinations
from math import factorial

import numpy as np
import pytest
import torch

import oodline
from oodline.errors import InputError, SettingError
from oodline.explain.baselines import baseline_of
from oodline.explain.faithful import curves
from oodline.explain.parts import exact_shapley, shapley_parts
from oodline.explain.regions import grid_regions, regions_of_masks
from oodline.explain.values import value_of
from oodline.model.classifier import Classifier
from oodline.scoring.calibration import calibrate
from oodline.testing.toys import toy_network

IMAGE = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
CLASSIFIER = Classifier(toy_network())
LOGIT = value_of("logit", CLASSIFIER, label=1)


def by_definition(value, image, regions, empty):
    count = int(regions.max()) + 1

    @cache
    def v(kept):
        shown = empty.clone()
        for k in kept:
            shown[:, regions == k] = image[:, regions == k]
        return float(value(shown[None]))

    psi = np.zeros(count)
    for k in range(count):
        others = [i for i in range(count) if i != k]
        for size in range(count):
            for S in combinations(others, size):
                weight = factorial(size) * factorial(count - size - 1) / factorial(count)
                psi[k] += weight * (v(frozenset((*S, k))) - v(frozenset(S)))
    return psi


@pytest.mark.parametrize("baseline", ["blur", "mean", "noise", "zero"])
def test_exact_values_equal_the_definition_and_sum_to_the_difference(baseline):
    regions = grid_regions(8, 8, 2, 2)
    found = shapley_parts(LOGIT, IMAGE, regions, baseline=baseline, batch_size=5)
    expected = by_definition(LOGIT, IMAGE, regions, baseline_of(IMAGE, baseline))
    np.testing.assert_allclose(found.values, expected, atol=1e-6)
    assert float(found.values.sum()) == pytest.approx(found.whole - found.empty, abs=1e-9)
    assert found.images == 16 and found.standard_error is None
    assert torch.equal(found.map, found.values[regions])


def test_sampled_values_sum_to_the_difference_and_lie_within_their_error():
    # two pixels that only count together, beside a sum: exact values are known
    image = torch.rand(1, 2, 8, generator=torch.Generator().manual_seed(1)) + 1
    regions = torch.arange(16).view(2, 8)

    def value(images):
        flat = images.flatten(1).double()
        return flat.sum(1) + 3 * flat[:, 0] * flat[:, 1]

    found = shapley_parts(value, image, regions, baseline="zero", permutations=200)
    expected = image.flatten().double()
    expected[:2] += 1.5 * expected[0] * expected[1]
    assert float(found.values.sum()) == pytest.approx(found.whole - found.empty, abs=1e-6)
    assert found.images == 2 + 200 * 15
    torch.testing.assert_close(found.values[2:], expected[2:], atol=1e-5, rtol=0)
    assert ((found.values - expected).abs() <= 4 * found.standard_error + 1e-5).all()
    assert found.standard_error[0] > 0.1


def test_a_score_and_a_p_value_can_be_explained():
    from oodline import Energy

    images = torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    calibration = calibrate(Energy()(CLASSIFIER(images)), 0.1)
    for number in ("score", "p_value", "probability"):
        value = value_of(number, CLASSIFIER, Energy(), calibration, label=0)
        found = shapley_parts(value, IMAGE, grid_regions(8, 8, 1, 2))
        assert float(found.values.sum()) == pytest.approx(found.whole - found.empty, abs=1e-9)
    scores = Energy()(CLASSIFIER(IMAGE[None]))
    value = value_of("p_value", CLASSIFIER, Energy(), calibration)
    assert value(IMAGE[None]).tolist() == calibration.p_value(scores).tolist()


def test_a_probability_is_that_of_the_task():
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    model = toy_network()
    logits = model(images).detach()
    several = value_of("probability", Classifier(model, task="multilabel"), label=1)(images)
    torch.testing.assert_close(several, 1 / (1 + (-logits[:, 1]).exp()))
    model[4] = torch.nn.Linear(16, 1)  # one logit, of the second of two classes
    first, second = (value_of("probability", Classifier(model, binary=True), label=c)(images) for c in (0, 1))
    torch.testing.assert_close(second, model(images)[:, 0].detach().sigmoid())
    torch.testing.assert_close(first + second, torch.ones(4))


def test_of_a_classifier_of_rows_it_is_the_verdict_of_the_input_or_the_number_of_a_place():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 1))
    classifier, images = oodline.RowClassifier(model, "pixels"), torch.randn(30, 3, 4, 4)
    guard = oodline.Guard(classifier, oodline.Energy()).calibrate(images, false_alarm=0.1)
    verdict, given = guard(images), (classifier, guard.detector, guard.calibration)
    torch.testing.assert_close(value_of("score", *given)(images), verdict.score)
    torch.testing.assert_close(value_of("p_value", *given)(images), verdict.p_value)
    torch.testing.assert_close(value_of("score", *given, place=6)(images), verdict.maps("score")[:, 1, 2])
    torch.testing.assert_close(value_of("p_value", *given, place=6)(images), verdict.maps("p_value")[:, 1, 2])
    torch.testing.assert_close(value_of("logit", classifier, label=3, place=6)(images), model(images)[:, 3, 1, 2].data)
    with pytest.raises(SettingError, match="of one row, and this classifier has pixels"):
        value_of("logit", classifier, label=3)
    with pytest.raises(InputError, match="0 of 30 inputs have a row at place 16"):
        value_of("score", *given, place=16)(images)
    with pytest.raises(SettingError, match="`place` is for a classifier with several rows"):
        value_of("logit", CLASSIFIER, label=1, place=0)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (lambda images: images.sum((2, 3))[:, :1], r"shape \(16,\); got \(16, 1\)\. Take one number"),
        (lambda images: images.sum(), r"got \(\)\."),
        (lambda images: torch.full((len(images),), torch.nan), "got 16 of 16 NaN"),
    ],
)
def test_a_value_that_is_not_one_finite_number_per_image_is_refused(value, said):
    with pytest.raises(SettingError, match=said):
        shapley_parts(value, IMAGE, grid_regions(8, 8, 2, 2))
    with pytest.raises(SettingError, match=said):
        curves(value, IMAGE, IMAGE[0], steps=7)


def test_regions_of_every_kind_of_integer_are_numbers_and_no_masks():
    expected = shapley_parts(LOGIT, IMAGE, grid_regions(8, 8, 2, 2)).values
    for kind in (torch.uint8, torch.int8, torch.int32):
        found = shapley_parts(LOGIT, IMAGE, grid_regions(8, 8, 2, 2).to(kind))
        torch.testing.assert_close(found.values, expected)
        torch.testing.assert_close(found.map, expected[grid_regions(8, 8, 2, 2)])
    with pytest.raises(SettingError, match="`regions_of_masks`"):
        shapley_parts(LOGIT, IMAGE, grid_regions(8, 8, 1, 2).bool())
    for integers in (lambda x: shapley_parts(LOGIT, x), lambda x: curves(LOGIT, x, IMAGE[0])):
        with pytest.raises(SettingError, match=r"`image` must be \(C, H, W\), of floats; got torch.uint8"):
            integers((255 * IMAGE).byte())
    assert exact_shapley(torch.tensor([0, 1, 2, 5])).tolist() == [2, 3]
    with pytest.raises(SettingError, match="`numbers` must be"):
        exact_shapley(torch.zeros(4, 1))


def test_regions_of_masks_and_what_is_refused():
    assert regions_of_masks(torch.tensor([[[0, 1]], [[1, 1]]]))[0].tolist() == [1, 0]
    with pytest.raises(SettingError, match="mask 1 has no pixel"):
        regions_of_masks(torch.tensor([[[0, 1]], [[0, 1]]]))
    for masks in ([], torch.ones(2, 2), [torch.ones(2, 2), torch.ones(3, 3)]):
        with pytest.raises(SettingError, match="`masks` must be"):
            regions_of_masks(masks)
    with pytest.raises(SettingError, match="numbered 0 to 0"):
        shapley_parts(LOGIT, IMAGE, torch.ones(8, 8, dtype=torch.int64))
    with pytest.raises(SettingError, match="one per pixel"):
        shapley_parts(LOGIT, IMAGE, torch.zeros(4, 4, dtype=torch.int64))
    with pytest.raises(SettingError, match="does not fit"):
        grid_regions(2, 2, 3, 1)
    with pytest.raises(SettingError, match="`baseline` must be one of"):
        shapley_parts(LOGIT, IMAGE, baseline="black")
    with pytest.raises(SettingError, match="a score needs a detector"):
        value_of("score", CLASSIFIER)
    with pytest.raises(SettingError, match="`number` must be"):
        value_of("p-value", CLASSIFIER)
    with pytest.raises(SettingError, match="a logit is of a class"):
        value_of("logit", CLASSIFIER, label=3)
