"""Of several rows of an input one is explained: that of the lowest score, or at a place, as if it were an input."""

import json

import pytest
import torch
from torch import nn

import oodline as ol
from oodline.errors import InputError, SettingError
from oodline.testing import toy_image_guard

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.rand(12, 3, 4, 5, generator=GENERATOR)


@pytest.fixture(scope="module")
def guard():
    body, head = nn.Conv2d(3, 6, 1, bias=False), nn.Conv2d(6, 3, 1, bias=False)
    with torch.no_grad():  # two neurons for each colour, and each class a colour
        body.weight.copy_((torch.eye(3).repeat(2, 1) + 0.1 * torch.randn(6, 3, generator=GENERATOR))[:, :, None, None])
        head.weight.copy_(torch.eye(3).repeat(1, 2)[:, :, None, None])
    model = nn.Sequential(body, nn.ReLU(), head)
    labels = model(IMAGES).argmax(1)
    line, neurons = ol.LINe(p_a=0.1, p_w=0.1, clip=2.0), ol.Neurons(samples=2)
    classifier = ol.RowClassifier(model, ol.Pixels(fit_share=1.0))
    ol.fit([line, neurons], classifier, [(IMAGES, labels)])
    held_out = torch.rand(40, 3, 4, 5, generator=GENERATOR)
    return ol.Guard(classifier, line, neurons=neurons).calibrate(held_out, false_alarm=0.1)


def test_the_row_is_that_of_the_lowest_score_and_its_neurons_are_those_of_the_formula(guard):
    images = IMAGES[:3].clone()
    images[1, :, 2, 3] = 9  # far from all training pixels
    verdict, head = guard(images), guard.classifier.head.linear
    for i, explanation in enumerate(guard.explain(images)):
        scores = verdict.maps("score")[i]
        row, column = divmod(int(scores.argmin()), 5)
        said = explanation.verdict
        assert (said["place"], said["at"], said["grid"]) == (5 * row + column, [row, column], [4, 5])
        assert said["score"] == float(scores.min()) and said["is_ood"] == bool(verdict.maps("is_ood")[i, row, column])
        assert said["input"]["p_value"] == float(verdict.p_value[i])
        features = guard.classifier.model[:2](images[i : i + 1]).detach()[0, :, row, column]
        torch.testing.assert_close(explanation.found, head.weight[explanation.predicted_class].detach() * features)
        assert f"row {row}, column {column} of 4 x 5" in explanation.sentences[0]
        assert json.loads(explanation.to_json()) == explanation.to_dict()


def test_a_place_may_be_chosen_and_samples_are_inputs_with_their_places(guard):
    [explanation] = guard.explain(IMAGES[:1], place=7)
    assert explanation.verdict["at"] == [1, 2]
    assert explanation.verdict["score"] == float(guard(IMAGES[:1]).maps("score")[0, 1, 2])
    features = guard.classifier.model[:2](IMAGES).detach()
    images = IMAGES[:1].clone()
    images[0, :, 1, 2] = -9
    [explanation] = guard.explain(images, place=7)
    for neuron in (*explanation.missing, *explanation.unexpected):
        strongest = neuron.samples[0]
        own = features[:, neuron.neuron].flatten(1)
        assert own[strongest.index, strongest.place] == own.max() == pytest.approx(strongest.activation)
    assert explanation.missing


def test_the_figure_marks_the_place_and_what_cannot_be_is_refused(guard):
    [explanation] = guard.explain(IMAGES[:1], place=7)
    frame = explanation.plot().axes[0].patches[0].get_bbox()
    assert frame.bounds == pytest.approx((1.5, 0.5, 1, 1))  # the pixel in row 1, column 2
    with pytest.raises(InputError, match="input 0 has no row at place 20 to explain: its places go from 0 to 19"):
        guard.explain(IMAGES[:1], place=20)
    with pytest.raises(SettingError, match="are no images"):
        guard.neurons.keep_pictures(lambda i: None)
    with pytest.raises(SettingError, match="`place` is for a classifier with several rows"):
        toy_image_guard().explain(torch.zeros(1, 3, 8, 8), place=0)
