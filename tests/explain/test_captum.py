"""Shapley values of parts and activation times gradient equal those of captum."""

import pytest
import torch
from torch import nn

from oodline.explain.baselines import baseline_of
from oodline.explain.maps import place_maps
from oodline.explain.parts import shapley_parts
from oodline.explain.regions import grid_regions, regions_of_masks
from oodline.model.classifier import Classifier

attr = pytest.importorskip("captum.attr", reason="tests of captum: pip install 'oodline[dev]'")
IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
MASKS = torch.zeros(2, 8, 8)
MASKS[0, :3], MASKS[1, 2:5, 4:] = 1, 1


@pytest.fixture(scope="module")
def model():
    """A network whose features are no mean of a map: there is a normalisation behind the pooling."""
    torch.manual_seed(0)
    layers = [
        nn.Identity(),
        nn.Conv2d(3, 8, 3),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.LayerNorm(8),
        nn.Linear(8, 3),
    ]
    return nn.Sequential(*layers).double().eval()


def test_shapley_values_of_a_grid_and_of_masks(model):
    image, empty = IMAGES[0], baseline_of(IMAGES[0], "mean")
    for regions in (grid_regions(8, 8, 2, 2), regions_of_masks(MASKS)):
        ours = shapley_parts(lambda images: model(images)[:, 1], image, regions, baseline="mean")
        theirs = attr.ShapleyValues(model).attribute(
            image[None], empty[None], target=1, feature_mask=regions.repeat(1, 3, 1, 1)
        )
        torch.testing.assert_close(ours.map.float().expand(3, 8, 8), theirs[0], atol=1e-5, rtol=1e-5)  # float32


def test_activation_times_gradient_of_a_layer_and_of_the_pixels_of_masks(model):
    classifier = Classifier(model)
    weight = classifier.head.linear.weight.detach()[1].expand(1, 2, 8)
    ours = place_maps(classifier, IMAGES, weight)
    theirs = attr.LayerGradientXActivation(model, model[3]).attribute(IMAGES, target=1, attribute_to_layer_input=True)
    assert ours.start.module == "3" and not ours.exact
    torch.testing.assert_close(ours.values[0], theirs.sum(1).detach())
    pixels = place_maps(classifier, IMAGES, weight, layer="0").values[0, 0]
    theirs = attr.InputXGradient(model).attribute(IMAGES[:1].clone().requires_grad_(), target=1)[0].sum(0)
    regions = regions_of_masks(MASKS)
    for k in range(3):
        torch.testing.assert_close(pixels[regions == k].sum(), theirs[regions == k].sum().detach())
