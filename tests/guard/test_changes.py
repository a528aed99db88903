"""A guard that was calibrated notices that its classifier or detector is no longer what it was."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import oodline as ol
from oodline.errors import MismatchError
from oodline.model.changes import Snapshot
from oodline.testing import toy_loader, toy_problem


@pytest.fixture
def guard():
    toy, loader = toy_problem()
    model = nn.Sequential(toy.model[0], nn.BatchNorm1d(16), nn.ReLU(), toy.model[2]).eval()
    classifier = ol.Classifier(model)
    return ol.Guard(classifier, ol.KNN(k=5).fit(classifier, loader)).calibrate(toy_loader(seed=1))


def a_step_of_an_optimiser(guard):
    model = guard.classifier.model
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
    model(torch.randn(8, 4)).sum().backward()
    optimiser.step()


def a_pass_in_training_mode(guard):
    guard.classifier.model.train()(torch.randn(8, 4))


def a_loaded_state(guard):
    state = {k: v + 1 if v.is_floating_point() else v for k, v in guard.classifier.model.state_dict().items()}
    guard.classifier.model.load_state_dict(state)


def through_data(guard):
    guard.classifier.model[0].weight.data.mul_(2)


def another_module(guard):
    guard.classifier.model[3] = nn.Linear(16, 3)


def another_parameter(guard):
    guard.classifier.model[3].bias = nn.Parameter(torch.ones(3))


def half_precision(guard):
    guard.classifier.model.half()


def another_model(guard):
    guard.classifier.model = copy.deepcopy(guard.classifier.model)


def the_detector_fitted_again(guard):
    guard.detector.fit(guard.classifier, toy_loader(seed=5))


def another_setting(guard):
    guard.detector.k = 1


def another_detector(guard):
    guard.detector = ol.Energy()


def the_detectors_state(guard):
    guard.detector.neighbours[0] += 1


OF_THE_CLASSIFIER = [
    a_step_of_an_optimiser,
    a_pass_in_training_mode,
    a_loaded_state,
    through_data,
    another_module,
    another_parameter,
    half_precision,
    another_model,
]
OF_THE_DETECTOR = [the_detector_fitted_again, another_setting, another_detector, the_detectors_state]


@pytest.mark.parametrize("change", OF_THE_CLASSIFIER + OF_THE_DETECTOR, ids=lambda change: change.__name__)
@pytest.mark.parametrize("loaded", [False, True], ids=["made", "loaded"])
def test_a_change_is_refused_until_the_guard_is_calibrated_again(guard, change, loaded, tmp_path):
    if loaded:
        guard = ol.Guard.load(guard.save(tmp_path / "guard"), guard.classifier)
    guard(torch.ones(2, 4))
    change(guard)
    what = "classifier" if change in OF_THE_CLASSIFIER else "detector"
    for use in (lambda: guard(torch.ones(2, 4)), lambda: guard.save(tmp_path / "no")):
        with pytest.raises(MismatchError, match=f"the {what} changed after the guard was calibrated: .*calibrate"):
            use()
    assert not (tmp_path / "no").exists()
    if change is half_precision or guard.detector.fitted_on is None:
        return
    guard.detector = ol.KNN(k=5).fit(guard.classifier, toy_problem()[1])
    guard.calibrate(toy_loader(seed=1))(torch.ones(2, 4))


def the_same_state(guard):
    guard.classifier.model.load_state_dict(guard.classifier.model.state_dict())


def there_and_back(guard):
    guard.classifier.model.double().float()


def the_same_fit(guard):
    guard.detector.fit(guard.classifier, toy_problem()[1])


def training_mode_alone(guard):
    guard.classifier.model.train()


def gradients(guard):
    guard.classifier.model(torch.randn(8, 4)).sum().backward()


def wider(guard):
    guard.detector.double()


@pytest.mark.parametrize(
    "change",
    [the_same_state, there_and_back, the_same_fit, training_mode_alone, gradients, wider],
    ids=lambda change: change.__name__,
)
def test_what_changes_no_value_is_no_change(guard, change):
    before = guard(torch.ones(2, 4))
    change(guard)
    for _ in range(2):
        torch.testing.assert_close(guard(torch.ones(2, 4)).score.float(), before.score)


def test_guards_of_one_detector_know_which_of_them_is_current(guard):
    other = ol.Guard(guard.classifier, guard.detector).calibrate(toy_loader(seed=2))
    guard(torch.ones(2, 4))
    other.detector.fit(guard.classifier, toy_loader(seed=3))
    other.calibrate(toy_loader(seed=4))(torch.ones(2, 4))
    with pytest.raises(MismatchError, match="the detector changed"):
        guard(torch.ones(2, 4))


def test_a_buffer_that_each_pass_changes_is_left_out(tmp_path):
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.fc = nn.Linear(4, 16), nn.Linear(16, 3)
            self.register_buffer("calls", torch.zeros(1))
            self.register_buffer("last", torch.zeros(1))

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            self.last = inputs.mean().reshape(1)
            return self.fc(self.body(inputs))

    model = Counting()
    guard = ol.Guard(ol.Classifier(model), ol.Energy()).calibrate(toy_loader(seed=1))
    path = guard.save(tmp_path / "guard")
    for one in (guard, ol.Guard.load(path, ol.Classifier(model))):
        one(torch.ones(2, 4))
        one(torch.ones(2, 4))
    nn.init.zeros_(model.body.bias)
    with pytest.raises(MismatchError, match=r"1 of 6 tensors differ: 'body\.bias'"):
        guard(torch.ones(2, 4))


def test_a_copy_of_a_guard_is_a_guard(guard):
    again = copy.deepcopy(guard)
    assert torch.equal(again(torch.ones(2, 4)).score, guard(torch.ones(2, 4)).score)
    again.classifier.model[0].weight.data.mul_(2)
    with pytest.raises(MismatchError, match="the classifier changed"):
        again(torch.ones(2, 4))
    guard(torch.ones(2, 4))


def test_layouts_views_and_inference_tensors_are_watched():
    layer = nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
    layer.register_buffer("view", torch.arange(1.0, 13).reshape(3, 4).T)
    layer.register_buffer("none", torch.zeros(0, 3))
    with torch.inference_mode():
        layer.register_buffer("inferred", torch.ones(5))
    snapshot = Snapshot(layer)
    assert snapshot.change() == ""
    for name in ("weight", "view", "inferred"):
        tensor = getattr(layer, name)
        with torch.inference_mode():
            tensor.mul_(2)
        assert snapshot.change() == f"1 of 5 tensors differ: '{name}'"
        with torch.inference_mode():
            tensor.div_(2)
    assert snapshot.change() == ""


class Scaled(nn.Module):
    """A classifier that computes with an attribute, and counts its calls."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.head, self.scale, self.calls = nn.BatchNorm1d(4), nn.Linear(4, 3), 1.0, 0

    def forward(self, x):
        self.calls += 1
        return self.head(self.scale * self.norm(x))


class Negative(Scaled):
    def forward(self, x):
        return self.head(-self.norm(x))


def set_forward(model):
    model.norm.forward = torch.zeros_like


CHANGES_OF_BEHAVIOUR = {
    "scale": lambda model: setattr(model, "scale", -5.0),
    "eps": lambda model: setattr(model.norm, "eps", 50.0),
    "class": lambda model: setattr(model, "__class__", Negative),
    "hooks": lambda model: model.norm.register_forward_hook(lambda module, inputs, output: output + 3),
    "forward": set_forward,
}


@pytest.mark.parametrize("name", CHANGES_OF_BEHAVIOUR)
def test_a_classifier_that_computes_otherwise_is_refused(name):
    model = Scaled()
    guard = ol.Guard(ol.Classifier(model), ol.Energy()).calibrate([torch.randn(60, 4)], 0.1)
    guard(torch.randn(5, 4))  # the count of calls changes, and no number
    CHANGES_OF_BEHAVIOUR[name](model)
    with pytest.raises(MismatchError, match=rf"another '{name}' in .*, and the same inputs give logits that differ"):
        guard(torch.randn(5, 4))


def test_what_changes_no_number_is_accepted_and_tried_out_once():
    model = Scaled()
    guard = ol.Guard(ol.Classifier(model), ol.Energy()).calibrate([torch.randn(60, 4)], 0.1)
    model.norm.register_forward_hook(lambda *_: None)
    guard(torch.randn(5, 4))
    before = model.calls
    guard(torch.randn(5, 4))
    assert model.calls == before + 1


def test_a_change_that_was_harmless_is_looked_at_again_when_it_goes_on():
    model = Scaled()
    guard = ol.Guard(ol.Classifier(model), ol.Energy()).calibrate([torch.randn(60, 4)], 0.1)
    model.norm.eps = 2e-5
    guard(torch.randn(5, 4))
    model.norm.eps = 50.0
    with pytest.raises(MismatchError, match="another 'eps' in BatchNorm1d"):
        guard(torch.randn(5, 4))
