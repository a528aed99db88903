"""What detectors suppose of the data, compared with what a fit measured; and defaults that follow the data."""

from __future__ import annotations

import warnings
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

import oodline as ol
from oodline.detectors.assumptions import TellsApart, made_of
from oodline.detectors.base import Detector
from oodline.detectors.catalog import CATALOG, create_detector
from oodline.detectors.paper import Paper
from oodline.detectors.parts.neuron_states import neuron_states
from oodline.errors import AssumptionWarning
from oodline.model.activations import Activations, Needs
from oodline.model.classifier import Classifier
from oodline.model.head import LinearHead
from oodline.statistics import Facts
from oodline.testing import activations_of

CLASSES, WIDTH = 5, 40


def problem(per_class: int = 40, *, signed: bool = False, scale: float = 1.0) -> tuple[Classifier, list]:
    """Features that are the inputs, each class strong in a block of its own, and a head that reads the blocks."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(per_class * CLASSES) % CLASSES
    own = (torch.arange(WIDTH) % CLASSES == labels[:, None]).float()
    features = scale * (2 * own + 0.5 * torch.randn(len(labels), WIDTH, generator=generator).abs())
    if signed:
        features = features - features.mean()
    head = nn.Linear(WIDTH, CLASSES)
    with torch.no_grad():
        head.weight.copy_((torch.arange(WIDTH) % CLASSES == torch.arange(CLASSES)[:, None]).float())
        head.bias.zero_()
    return Classifier(nn.Sequential(nn.Identity(), head)), [(features, labels)]


def sentences(detector: Detector, classifier: Classifier, loader: list) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        detector.fit(classifier, loader)
    return [str(one.message) for one in caught if one.category is AssumptionWarning]


@pytest.mark.parametrize("name", ["line", "react", "ash-s", "ash-b", "scale", "dice", "vra", "bats", "ddcs", "fm-pls"])
def test_signed_features_are_named_with_their_share(name):
    classifier, loader = problem(signed=True)
    share = f"{float((loader[0][0] < 0).double().mean()):.1%} are negative"
    assert [text for text in sentences(create_detector(name), classifier, loader) if share in text]
    classifier, loader = problem()
    assert not [text for text in sentences(create_detector(name), classifier, loader) if "negative" in text]


def test_a_clip_of_another_network_says_how_much_it_cuts():
    classifier, loader = problem()
    features = loader[0][0]
    for build in (lambda clip: ol.LINe(clip=clip), lambda clip: ol.ReAct(clip=clip)):
        for clip in (0.3, 0.5):
            (text,) = sentences(build(clip), classifier, loader)
            assert f"clip={clip} cuts {float((features > clip).double().mean()):.0%} of the activations" in text
        assert sentences(build(10.0), classifier, loader) == []


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("name", ["line", "react", "fm-pls"])
def test_defaults_mean_the_same_on_features_of_any_size(name, scale):
    classifier, loader = problem(scale=scale)
    detector = create_detector(name)
    assert sentences(detector, classifier, loader) == []
    expected = torch.quantile(loader[0][0], 0.98)
    torch.testing.assert_close(detector.largest, expected, rtol=1e-3, atol=0)


def test_the_papers_values_are_presets():
    paper = ol.LINe.preset("imagenet-resnet50")
    assert repr(paper) == repr(ol.LINe(p_a=0.1, p_w=0.1, clip=0.8))
    assert ol.ReAct.preset("imagenet-resnet50").settings["clip"] == "90%"


@pytest.mark.parametrize(("per_class", "k"), [(1, 1), (9, 1), (20, 2), (50, 5), (500, 50), (2000, 50)])
def test_the_neighbour_is_bounded_by_the_size_of_a_class(per_class, k):
    knn = ol.KNN()
    knn.neighbours = torch.zeros(per_class * CLASSES, WIDTH)
    head = LinearHead(torch.zeros(CLASSES, WIDTH), torch.zeros(CLASSES))
    assert knn.neighbour(activations_of(torch.zeros(2, WIDTH), head)) == k
    assert ol.KNN(k=7).neighbour(activations_of(torch.zeros(2, WIDTH), head)) == 7


def test_a_neighbour_beyond_the_class_is_named():
    classifier, loader = problem()
    assert sentences(ol.KNN(), classifier, loader) == []
    (text,) = sentences(ol.KNN(k=100), classifier, loader)
    assert "k = 100, and the bank holds 40 images per class (median)" in text


@pytest.mark.parametrize("name", ["openmax", "caref", "kl-matching", "conjnorm"])
def test_too_few_images_of_a_class_are_named(name):
    classifier, loader = problem(per_class=2)
    (text,) = sentences(create_detector(name), classifier, loader)
    assert "2 images per class (median)" in text


@pytest.mark.parametrize("name", ["mahalanobis", "relative-mahalanobis", "neco", "cop", "residual"])
def test_too_few_images_for_a_covariance_are_named(name):
    classifier, loader = problem(per_class=15)
    texts = sentences(create_detector(name), classifier, loader)
    assert any("75 samples for a covariance of 40 features, which needs 80 or more" in text for text in texts)


@pytest.mark.parametrize(
    ("width", "sharpened", "pruned"), [(8, 4, 4), (33, 17, 17), (64, 32, 32), (342, 34, 137), (2048, 205, 819)]
)
def test_activation_shaping_keeps_at_least_32_features_or_half(width, sharpened, pruned):
    features = torch.rand(3, width) + 0.1
    for detector, kept in ((ol.ASHS(), sharpened), (ol.ASHP(), pruned)):
        assert int((detector.shape(features) > 0).sum(1)[0]) == kept
    given = ol.ASHS(p=0.9).shape(features)
    assert int((given > 0).sum(1)[0]) == max(1, width - round(width * 0.9))


@pytest.mark.parametrize(("alpha", "said"), [(10.0, False), (1e3, True)])
def test_a_sigmoid_too_steep_for_the_gradients_is_named(alpha, said):
    classifier, loader = problem(scale=0.2)
    states = neuron_states(classifier(loader[0][0]), alpha)
    share = float(((states < 0.01) | (states > 0.99)).double().mean())
    texts = sentences(ol.NAC(full=5, alpha=alpha), classifier, loader)
    assert any(f"alpha = {alpha:g} puts {share:.0%} of the neuron states at 0 or 1" in text for text in texts) == said
    assert (share > 0.4) == said


def test_a_kernel_space_of_most_dimensions_is_named():
    classifier, loader = problem()
    corp = ol.CoRP(size=32, gamma=50.0, explained=0.9)
    texts = sentences(corp, classifier, loader)
    kept = 32 - corp.left_out.shape[1]
    assert kept > 16
    assert any(f"explained = 0.9 takes {kept} of the 32 dimensions" in text for text in texts)
    assert not any(
        "dimensions that the kernel" in t for t in sentences(ol.CoRP(size=128, explained=0.5), classifier, loader)
    )


def test_a_method_that_is_not_published_in_full_says_so():
    classifier, loader = problem()
    (text,) = sentences(create_detector("hact"), classifier, loader)
    assert "not all of the method is published: the paper leaves bins, layers and thresholds open" in text


class Backwards(Detector):
    """Prefers whatever is small."""

    name = "backwards"
    needs = Needs.FEATURES
    paper = Paper("An example of a detector", "none 2000")
    assumes: ClassVar = (TellsApart(),)

    def score(self, activations: Activations) -> Tensor:
        return -activations.features.amax(1)


def test_a_score_that_prefers_mixtures_says_in_how_many_pairs():
    classifier, loader = problem()
    (text,) = sentences(Backwards(), classifier, loader)
    assert "it prefers a training image to the mean of two of different classes in 0% of the pairs" in text
    assert "where MSP does in 100%" in text


def test_mixtures_are_of_two_classes():
    classifier, loader = problem()
    sample = classifier(loader[0][0])
    found = dict(made_of(sample))
    mixed, drawn = found["the mean of two of different classes"], found["features drawn from many"]
    partner = 2 * mixed - sample.features
    labels = torch.cdist(partner, sample.features).argmin(1) % CLASSES
    assert (labels != loader[0][1]).all()
    torch.testing.assert_close(drawn.sort(0).values, sample.features.sort(0).values)


def test_of_a_scorer_in_a_rectifier_too_and_not_of_members_of_a_fusion():
    classifier, loader = problem(signed=True)
    texts = sentences(ol.PriorNormalised(scorer=ol.ASHS()), classifier, loader)
    assert [text for text in texts if text.startswith("ASHS may do worse")]
    assert sentences(ol.Fuse("line+energy"), classifier, loader) == []


def test_classes_that_differ_by_chance_alone_are_no_prior():
    classifier, loader = problem()
    assert sentences(ol.PriorNormalised(), classifier, loader) == []
    features, labels = loader[0]
    (text,) = sentences(ol.PriorNormalised(), classifier, [(features[3:], labels[3:])])
    assert "1.03 times" in text


def test_a_temperature_of_memorised_data_stays_one():
    classifier, loader = problem()
    with pytest.warns(AssumptionWarning, match=r"200 samples of which 100.00% are classified correctly.* T stays 1"):
        detector = ol.TemperatureScaling().fit(classifier, loader)
    assert float(detector.temperature) == 1.0


def test_facts_of_parts_are_those_of_the_whole():
    features = torch.randn(50, 4).clamp(min=-0.5)
    features[::7] = 0.0
    whole, one, other = Facts(), Facts(), Facts()
    whole.update(activations_of(features), None)
    one.update(activations_of(features[:20]), None)
    other.update(activations_of(features[20:]), None)
    one.merge(other)
    assert one.count.tolist() == whole.count.tolist() == features.argmax(1).bincount(minlength=4).tolist()
    assert (one.zeros, one.negatives) == (whole.zeros, whole.negatives)
    assert whole.negatives == float((features < 0).double().mean())


def test_every_assumption_can_be_checked_on_every_detector():
    classifier, loader = problem()
    lighter = {"corp": "corp,size=64", "weiper-msp": "weiper-msp,repeats=5", "weiper-kld": "weiper-kld,repeats=5"}
    for name in CATALOG:
        detector = create_detector(lighter.get(name, name))
        if not detector.needs_network and detector.reads_data:
            assert all(len(text.split()) > 8 for text in sentences(detector, classifier, loader))


def test_a_map_whose_leading_part_decides_the_class_is_named():
    layers = (nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    classifier, images, rankfeat = Classifier(nn.Sequential(*layers)), torch.rand(40, 1, 8, 8), ol.RankFeat()
    with torch.no_grad():  # every class is predicted of some
        layers[-1].bias -= classifier(images).logits.mean(0)
    classifier = Classifier(nn.Sequential(*layers))
    activations = classifier(images, needs=rankfeat.all_needs)
    changed = rankfeat.rectify(activations).logits.argmax(1) != activations.logits.argmax(1)
    assert 0.2 < changed.double().mean() < 1
    with pytest.warns(AssumptionWarning, match=f"changes the predicted class of {changed.double().mean():.0%} of"):
        rankfeat.fit(classifier, [images[:25], images[25:]])
