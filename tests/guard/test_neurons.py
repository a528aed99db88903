"""What is kept of the neurons is what NumPy finds, survives a file, and is refused where it does not fit."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

import oodline as ol
from oodline.errors import HeadError, MismatchError, NotFittedError, StatisticsError
from oodline.guard.artifact import read_artifact
from oodline.guard.model_card import section
from oodline.guard.neurons import Neurons
from oodline.model.head import HeadInfo
from oodline.testing import toy_loader, toy_problem


@pytest.fixture
def problem():
    classifier, loader = toy_problem()
    neurons, detector = Neurons(samples=4), ol.LINe(p_a=0.5, p_w=0.5, clip=5.0)
    ol.fit([detector, neurons], classifier, loader)
    return classifier, loader, detector, neurons


def test_it_holds_means_spreads_and_top_samples(problem):
    classifier, [(images, labels)], _, neurons = problem
    f = classifier(images).features.double().numpy()
    for c in range(3):
        mine = f[labels.numpy() == c]
        np.testing.assert_allclose(neurons.mean[c], mine.mean(0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(neurons.spread[c], mine.std(0, ddof=1), rtol=1e-5, atol=1e-6)
    for d in range(16):
        expected = sorted(range(60), key=lambda i: (-f[i, d], i))[:4]
        assert neurons.top_index[:, d].tolist() == expected
        assert np.allclose(neurons.top_values[:, d], f[expected, d])


def test_it_survives_a_file(problem, tmp_path):
    classifier, _, detector, neurons = problem
    guard = ol.Guard(classifier, detector, neurons=neurons).calibrate(toy_loader(seed=1))
    path = guard.save(tmp_path / "guard.safetensors")
    loaded = read_artifact(path).neurons
    for name, value in neurons.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    images = toy_loader(seed=2)[0][0]
    again = ol.Guard.load(path, classifier)
    assert [e.to_dict() for e in again.explain(images)] == [e.to_dict() for e in guard.explain(images)]


def test_it_belongs_to_one_classifier(problem):
    _, _, _, neurons = problem
    other, loader = toy_problem(seed=1)
    with pytest.raises(MismatchError, match="'neurons' was fitted on another classifier"):
        ol.Guard(other, ol.LINe().fit(other, loader), neurons=neurons)
    with pytest.raises(NotFittedError, match="Neurons is not fitted"):
        ol.Guard(other, ol.Energy(), neurons=Neurons())


def test_a_head_of_several_layers_is_refused():
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Sequential(
        torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3)))  # fmt: skip
    with pytest.raises(HeadError, match="an explanation needs one linear layer as head"):
        ol.fit([Neurons()], ol.Classifier(model, "2"), toy_loader(seed=1))


def test_a_state_that_does_not_fit_is_refused(problem):
    classifier, _, _, neurons = problem
    head, state = HeadInfo.of(classifier.head), neurons.state_dict()
    assert Neurons.from_state_dict(state, head).samples == 4
    for change in (
        {"mean": state["mean"][:2]},
        {"spread": state["spread"].double()},
        {"top_index": state["top_index"].int()},
        {"top_index": state["top_index"][:2]},
        {"top_index": state["top_index"].flatten()},
        {"top_values": state["top_values"][:, :3]},
        {"more": state["mean"]},
    ):
        with pytest.raises(StatisticsError, match="the state of Neurons must"):
            Neurons.from_state_dict({**state, **change}, head)
    with pytest.raises(StatisticsError, match="the state of Neurons must"):
        Neurons.from_state_dict({"mean": state["mean"]}, head)


def test_a_multi_label_classifier_is_refused():
    model, [(inputs, _)] = toy_problem()[0].model, toy_problem()[1]
    several = torch.zeros(len(inputs), 3, dtype=torch.int64)
    with pytest.raises(HeadError, match="means by the one class of each sample"):
        ol.fit([ol.JointEnergy(), Neurons()], ol.Classifier(model, task="multilabel"), [(inputs, several)])


def test_pictures_go_along_with_the_file_and_into_the_explanation(problem, tmp_path):
    classifier, _, detector, neurons = problem
    first = neurons.top_index[0].unique()
    neurons.keep_pictures(lambda i: Image.new("RGB", (90, 60), (4 * i, 0, 0)), most=len(first))
    guard = ol.Guard(classifier, detector, neurons=neurons).calibrate(toy_loader(seed=1))
    loaded = ol.Guard.load(guard.save(tmp_path / "guard.safetensors"), classifier)
    kept = loaded.neurons.pictures
    assert f"| training images | {len(first)} small pictures, which whoever has the file can see |" in section(loaded)
    assert torch.equal(kept.index, first)  # each neuron's most exciting image, before any second one
    for i in first.tolist():
        assert kept.image(i).size == (48, 32)
        assert abs(kept.image(i).getpixel((5, 5))[0] - 4 * i) < 4
    assert kept.image(int(first.max()) + 1) is None
    [explanation] = loaded.explain(torch.zeros(1, 4))
    for sample in explanation.missing[0].samples:
        assert sample.picture == kept.uri(sample.index)
    assert explanation.missing[0].samples[0].picture.startswith("data:image/jpeg;base64,/9j/")


def test_pictures_that_are_none_are_refused(problem):
    neurons = problem[3].keep_pictures(lambda i: Image.new("RGB", (8, 8)), most=2)
    state, large = neurons.state_dict(), BytesIO()
    Image.new("RGB", (900, 900)).save(large, "JPEG")
    for broken in (
        {"picture_ends": state["picture_ends"].flip(0)},
        {"picture_index": state["picture_index"][:1]},
        {"picture_bytes": state["picture_bytes"][:-1]},
        {"picture_bytes": torch.zeros_like(state["picture_bytes"])},
        {"picture_bytes": state["picture_bytes"].long()},
        dict(zip(("picture_index", "picture_ends", "picture_bytes"), (
            torch.tensor([0]), torch.tensor([len(large.getvalue())]),
            torch.frombuffer(bytearray(large.getvalue()), dtype=torch.int8)), strict=True)),
    ):  # fmt: skip
        with pytest.raises(StatisticsError, match="pictures must"):
            Neurons.from_state_dict(state | broken, neurons.fitted_on)
    del state["picture_ends"]
    with pytest.raises(StatisticsError, match="pictures of Neurons must hold"):
        Neurons.from_state_dict(state, neurons.fitted_on)
