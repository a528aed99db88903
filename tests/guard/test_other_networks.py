"""A guard's file is refused by every network but the one that it was calibrated on."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import oodline as ol
from oodline.errors import ArtifactError, MismatchError, SettingError
from oodline.guard.artifact import read_artifact
from oodline.model.fingerprint import Fingerprint
from oodline.testing import toy_loader, toy_problem


class Net(nn.Module):
    """A body with batch-norm, a constant that is not saved and one that is not a buffer, and the toy head."""

    def __init__(self, toy: nn.Module) -> None:
        super().__init__()
        self.register_buffer("shift", torch.zeros(4), persistent=False)
        self.scale = 1.0
        self.body = toy[0]
        self.norm = nn.BatchNorm1d(16)
        self.relu = nn.ReLU()
        self.fc = toy[2]

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.fc(self.relu(self.norm(self.body(self.scale * (inputs - self.shift)))))


@pytest.fixture
def made(tmp_path):
    """A network, its guard, and the guard's file."""
    model = Net(toy_problem()[0].model).eval()
    classifier = ol.Classifier(model)
    detector = ol.LINe(p_a=0.5, p_w=0.5, clip=5.0).fit(classifier, toy_problem()[1])
    guard = ol.Guard(classifier, detector).calibrate(toy_loader(seed=1))
    return model, guard, guard.save(tmp_path / "guard.safetensors")


def first_layer(model):
    nn.init.normal_(model.body.weight)


def means_of_batch_norm(model):
    model.norm.running_mean += 1


def one_value(model):
    model.body.weight.data[3, 2] += 1e-3


def an_unsaved_buffer(model):
    model.shift += 1


def a_constant(model):
    model.scale = 2.0


def another_forward(model):
    model.relu = nn.GELU()


def epsilon(model):
    model.norm.eps = 10.0


CHANGES = {
    first_layer: "other weights before it: 1 of 8 tensors differ: 'body.weight'",
    means_of_batch_norm: "1 of 8 tensors differ: 'norm.running_mean'",
    one_value: "1 of 8 tensors differ: 'body.weight'",
    an_unsaved_buffer: "buffers that are not saved differ: 'shift'",
    a_constant: "the same inputs give logits that differ by up to",
    another_forward: "the same inputs give logits that differ by up to",
    epsilon: "the same inputs give logits that differ by up to",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_another_network_with_the_same_head_is_refused_and_the_first_difference_is_named(made, change):
    model, guard, path = made
    other = copy.deepcopy(model)
    with torch.no_grad():
        change(other)
    with pytest.raises(MismatchError, match=CHANGES[change]):
        ol.Guard.load(path, ol.Classifier(other))
    with pytest.warns(ol.OtherWeightsWarning, match=f"{CHANGES[change]}.*promised: a test"):
        loaded = ol.Guard.load(path, ol.Classifier(other), allow_other_weights="a test")
    assert loaded.other_weights == "a test"
    loaded(torch.zeros(2, 4))
    same = ol.Guard.load(path, ol.Classifier(copy.deepcopy(model)))  # any warning is an error here
    inputs = toy_loader(seed=2)[0][0]
    assert torch.equal(same(inputs).score, guard(inputs).score)


def test_a_reason_is_written_to_the_next_file(made, tmp_path):
    model, _, path = made
    other = copy.deepcopy(model)
    first_layer(other)
    with pytest.warns(ol.OtherWeightsWarning):
        loaded = ol.Guard.load(path, ol.Classifier(other), allow_other_weights="fine-tuned")
    assert read_artifact(loaded.save(tmp_path / "again")).other_weights == "fine-tuned"
    with pytest.raises(SettingError, match="allow_other_weights must be a reason"):
        ol.Guard.load(path, ol.Classifier(other), allow_other_weights=" ")


def test_another_head_of_the_same_size_needs_a_reason_and_one_of_another_size_has_none(made):
    model, _, path = made
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.fc.bias += 1
    with pytest.raises(MismatchError, match="a head of the same size but other weights"):
        ol.Guard.load(path, ol.Classifier(other))
    with pytest.warns(ol.OtherWeightsWarning, match="another bias"):
        ol.Guard.load(path, ol.Classifier(other), allow_other_weights="another bias")(torch.zeros(2, 4))
    other.fc = nn.Linear(16, 5)
    with pytest.raises(MismatchError, match="3 classes and 16 features"):
        ol.Guard.load(path, ol.Classifier(other), allow_other_weights="another size")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_another_precision_and_double_is_the_same_weights(made, dtype):
    model, guard, path = made
    known = Fingerprint.of(model)
    assert known.difference(Fingerprint.of(copy.deepcopy(model).double())) == ""
    found = known.difference(Fingerprint.of(copy.deepcopy(model).to(dtype)))
    assert found.startswith(f"the values are {str(dtype)[6:]} where they were float32")
    with pytest.raises(MismatchError, match="in the same precision"):
        ol.Guard.load(path, ol.Classifier(copy.deepcopy(model).to(dtype)))
    with pytest.warns(ol.OtherWeightsWarning, match="less memory"):
        half = ol.Guard.load(path, ol.Classifier(copy.deepcopy(model).to(dtype)), allow_other_weights="less memory")
    inputs = toy_loader(seed=2)[0][0]
    assert float((half(inputs).is_ood == guard(inputs).is_ood).double().mean()) > 0.9


def test_what_does_not_change_a_network_is_accepted(made):
    model, guard, path = made
    wrapped = copy.deepcopy(model)
    wrapped.norm.num_batches_tracked += 7
    wrapped.train()
    for other in (wrapped, nn.Sequential(copy.deepcopy(model)), nn.DataParallel(copy.deepcopy(model))):
        loaded = ol.Guard.load(path, ol.Classifier(other))
        assert torch.equal(loaded(torch.ones(2, 4)).score, guard(torch.ones(2, 4)).score)
    assert wrapped.training
    assert Fingerprint.of(model).difference(Fingerprint.of(torch.compile(model, backend="eager"))) == ""


def test_fingerprints_know_names_values_and_shapes():
    one = nn.Linear(2, 3)
    known = Fingerprint.of(one)
    assert known.difference(Fingerprint.of(nn.Sequential(one))) == ""
    assert known.difference(Fingerprint.of(nn.DataParallel(one))) == ""
    assert "1 tensors are missing ('bias')" in known.difference(Fingerprint.of(nn.Linear(2, 3, bias=False)))
    assert "1 are new ('bias')" in Fingerprint.of(nn.Linear(2, 3, bias=False)).difference(known)
    turned = nn.Linear(3, 2)
    turned.weight = nn.Parameter(one.weight.detach().reshape(2, 3))
    turned.bias = one.bias
    assert known.difference(Fingerprint.of(turned)) == "1 of 2 tensors differ: 'weight'"


def test_inputs_are_kept_only_where_that_is_asked_for(made, tmp_path):
    _, guard, path = made
    held_out = toy_loader(seed=1)
    assert read_artifact(path).probe.kept == {}
    guard.calibrate(held_out, keep_inputs=3)
    probe = read_artifact(guard.save(tmp_path / "kept")).probe
    assert torch.equal(probe.inputs, held_out[0][0][:3])
    activations = guard.classifier(held_out[0][0][:3])
    torch.testing.assert_close(probe.logits, activations.logits)
    torch.testing.assert_close(probe.scores["line"], guard.detector(activations).double())
    with pytest.raises(SettingError, match="`keep_inputs` must be between 0 and 8; got 9"):
        guard.calibrate(held_out, keep_inputs=9)


def test_a_detector_that_computes_something_else_is_noticed(made, tmp_path):
    _, guard, path = made
    artifact = read_artifact(path)
    artifact.detectors["line"].largest.fill_(1.0)
    with pytest.raises(MismatchError, match="'line' gives the same inputs scores that differ by up to"):
        artifact.check(guard.classifier)


def test_models_of_tokens_and_masks_have_a_probe_and_random_ones_have_none(tmp_path):
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.fc, self.noise = nn.Embedding(50, 16), nn.Linear(16, 3), 0.0

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            pooled = (self.embed(ids) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            return self.fc(pooled + self.noise * torch.randn_like(pooled))

    model = Tokens()
    batch = {"ids": torch.randint(50, (40, 7)), "mask": torch.ones(40, 7, dtype=torch.int64)}
    guard = ol.Guard(ol.Classifier(model), ol.Energy()).calibrate([batch])
    path = guard.save(tmp_path / "tokens")
    assert {n: (f.shape, f.dtype) for n, f in read_artifact(path).probe.fields.items()} == {
        "ids": ((7,), "int64"),
        "mask": ((7,), "int64"),
    }
    ol.Guard.load(path, ol.Classifier(model))(batch)
    model.noise = 5.0
    with pytest.raises(MismatchError, match="logits that differ"):
        ol.Guard.load(path, ol.Classifier(model))
    with pytest.warns(ol.UnsteadyClassifierWarning, match="Run twice"):
        assert guard.calibrate([batch]).probe is None


def test_a_probe_that_asks_for_much_memory_is_refused(made):
    _, _, path = made
    probe = read_artifact(path).probe
    huge = {"": probe.fields[""].model_copy(update={"shape": (2**40,)})}
    tensors = {k.removeprefix("probe/"): v for k, v in probe.state_dict().items()}
    with pytest.raises(ArtifactError, match="the probe does not hold inputs"):
        type(probe).from_state_dict(huge, tensors, read_artifact(path).head)


def test_a_loader_that_can_be_read_once_is_read_once(made):
    _, guard, _ = made
    batches = toy_loader(seed=1)
    again = guard.calibrate(iter(batches)).calibration
    assert torch.equal(again.scores, guard.calibrate(batches).calibration.scores)
    assert len(again.scores) == 60
