"""One pass gives features and logits, and leaves the model, its other users and its other threads alone."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, ViTConfig, ViTForImageClassification

import oodline as ol
from oodline.data.batch import Batch
from oodline.errors import HeadError, InputError
from oodline.model.activations import Needs
from oodline.testing import toy_loader, toy_problem

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


class ConvNet(nn.Module):
    """Batch norm, dropout and a global average pooling: all that a pass could disturb."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU()
        self.pool, self.drop, self.fc = nn.AdaptiveAvgPool2d(1), nn.Dropout(), nn.Linear(6, 4)

    def maps(self, x):
        return self.relu(self.norm(self.conv(x)))

    def forward(self, x):
        return self.fc(self.drop(self.pool(self.maps(x)).flatten(1)))


class Failing(nn.Module):
    def forward(self, x):
        raise RuntimeError("no kernel for this")


class Keywords(nn.Module):
    """Takes what a transformers model takes."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x, flag=True):
        return {"loss": None, "logits": self.fc(x)}


def state_of(model):
    """All that a pass has to leave as it was."""
    return {
        "modes": [m.training for m in model.modules()],
        "hooks": [(list(m._forward_hooks), list(m._forward_pre_hooks)) for m in model.modules()],
        "gradients": [(p.requires_grad, p.grad) for p in model.parameters()],
        "random": torch.get_rng_state().tolist(),
        "tensors": {key: value.tolist() for key, value in model.state_dict().items()},
        "grad enabled": torch.is_grad_enabled(),
    }


def test_features_and_logits_are_those_computed_by_hand():
    model, images = ConvNet(), torch.randn(5, 3, 8, 8)
    activations = ol.Classifier(model)(images)
    model.eval()
    with torch.no_grad():
        features = model.maps(images).mean((2, 3))
        assert torch.equal(activations.logits, model(images))
    torch.testing.assert_close(activations.features, features)
    torch.testing.assert_close(activations.logits, features @ model.fc.weight.T + model.fc.bias)
    assert activations.index.tolist() == [0, 1, 2, 3, 4]
    assert not activations.features.requires_grad
    assert activations.feature_map is None
    assert activations.inputs is None


@pytest.mark.parametrize("training", [(), ("",), ("", "drop", "norm"), ("drop",), ("", "conv", "fc")])
def test_a_model_comes_back_as_it_was(training):
    model = ConvNet().eval()
    for name in training:
        model.get_submodule(name).training = True
    model.conv.weight.requires_grad_(False)
    model.fc.register_forward_hook(lambda *_: None)
    before = state_of(model)
    classifier = ol.Classifier(model)
    classifier(torch.ones(2, 3, 8, 8), needs=Needs.FEATURE_MAP | Needs.INPUTS, layers=["norm"])
    list(classifier.stream([torch.ones(2, 3, 8, 8)]))
    assert state_of(model) == before


@pytest.mark.parametrize("bad", [torch.zeros(2, 5, 8, 8), torch.full((2, 3, 8, 8), float("nan"))])
def test_a_model_comes_back_as_it_was_also_from_a_pass_that_fails(bad):
    model = ConvNet().train()
    model.norm.eval()
    before = state_of(model)
    with pytest.raises(InputError):
        ol.Classifier(model)(bad, layers=["conv"])
    with pytest.raises(HeadError):
        ol.Classifier(model)(torch.ones(2, 3, 8, 8), layers=["conv", "nowhere"])
    assert state_of(model) == before
    failing = nn.Sequential(nn.Linear(3, 3), Failing(), nn.Linear(3, 2)).train()
    before = state_of(failing)
    with pytest.raises(InputError, match=r"Sequential refused a batch of shape \(2, 3\): no kernel for this"):
        ol.Classifier(failing)(torch.ones(2, 3))
    assert state_of(failing) == before


def test_hooks_of_others_see_the_pass_and_stay():
    model, seen = ConvNet(), []
    model.fc.register_forward_hook(lambda _m, _i, out: seen.append(out.shape))
    classifier = ol.Classifier(model)
    for _ in range(2):
        classifier(torch.ones(2, 3, 8, 8))
    assert seen == [(2, 4), (2, 4)]


def test_two_guards_on_one_model_do_not_disturb_each_other():
    classifier, loader = toy_problem()
    images = torch.randn(20, 4)
    detectors = [detector.fit(classifier, loader) for detector in (ol.LINe(), ol.ReAct())]
    guards = [ol.Guard(classifier, detector).calibrate(toy_loader(seed=1)) for detector in detectors]
    alone = [guard(images).score for guard in guards]
    second = ol.Classifier(classifier.model, "2")
    for _ in range(2):
        for guard, score in zip(guards, alone, strict=True):
            assert torch.equal(guard(images).score, score)
            assert torch.equal(second(images).logits, classifier(images).logits)


def test_threads_on_one_model_get_exactly_what_serial_runs_give():
    model = ConvNet().train()
    classifiers = [ol.Classifier(model), ol.Classifier(model, "fc")]
    batches = [torch.randn(n % 5 + 1, 3, 8, 8) for n in range(120)]
    before = state_of(model)
    barrier = threading.Barrier(4)

    def run(first):
        barrier.wait()
        found = {}
        for n in range(first, len(batches), 4):
            found[n] = classifiers[n % 2](batches[n], needs=Needs.FEATURE_MAP, layers=["conv"])
        return found

    with ThreadPoolExecutor(4) as pool:
        parallel = {n: a for found in pool.map(run, range(4)) for n, a in found.items()}
    for n, batch in enumerate(batches):
        serial = classifiers[0](batch, needs=Needs.FEATURE_MAP, layers=["conv"])
        assert torch.equal(parallel[n].features, serial.features)
        assert torch.equal(parallel[n].logits, serial.logits)
        assert torch.equal(parallel[n].feature_map, serial.feature_map)
        assert torch.equal(parallel[n].layers["conv"], serial.layers["conv"])
    assert state_of(model) == before


def test_overlapping_passes_restore_the_modes_after_the_last_one():
    model, inside, leave = nn.Sequential(nn.Linear(3, 3), nn.Dropout(), nn.Linear(3, 2)), [], threading.Event()
    arrived = threading.Event()

    def wait_once(*_):
        inside.append(model.training)
        if len(inside) == 1:
            arrived.set()
            assert leave.wait(30)

    model[0].register_forward_hook(wait_once)
    classifier = ol.Classifier(model.train())
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(classifier, torch.ones(2, 3))
        assert arrived.wait(30)
        fast = classifier(torch.ones(2, 3))
        assert not model.training  # the slow pass is not over
        leave.set()
        assert torch.equal(slow.result().logits, fast.logits)
    assert inside == [False, False]
    assert all(module.training for module in model.modules())


def test_a_float64_model_gives_float64():
    activations = ol.Classifier(ConvNet().double())(torch.randn(2, 3, 8, 8))
    assert activations.features.dtype == activations.logits.dtype == activations.head.weight.dtype == torch.float64
    torch.testing.assert_close(activations.head(activations.features), activations.logits, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_give_float32_near_the_full_model(dtype):
    model, images = ConvNet(), torch.randn(4, 3, 8, 8)
    full = ol.Classifier(model)(images)
    half = ol.Classifier(model.to(dtype))(images, needs=Needs.FEATURE_MAP, layers=["conv"])
    found = (half.features, half.logits, half.head.weight, half.feature_map, half.layers["conv"])
    assert {tensor.dtype for tensor in found} == {torch.float32}
    torch.testing.assert_close(half.logits, full.logits, rtol=0.05, atol=0.05)
    torch.testing.assert_close(half.head(half.features), half.logits, rtol=0.05, atol=0.05)


def test_autocast_gives_float32_near_the_full_model():
    classifier, images = ol.Classifier(ConvNet()), torch.randn(4, 3, 8, 8)
    full = classifier(images)
    with torch.autocast("cpu", torch.bfloat16):
        half = classifier(images)
    assert half.features.dtype == half.logits.dtype == half.head.weight.dtype == torch.float32
    assert not torch.equal(half.logits, full.logits)
    torch.testing.assert_close(half.logits, full.logits, rtol=0.05, atol=0.05)


def test_transformers_models_take_mappings_with_labels_and_return_objects_with_logits():
    model = BertForSequenceClassification(BertConfig(**SIZES, vocab_size=30, num_labels=4))
    classifier = ol.Classifier(model)
    words = {"input_ids": torch.randint(30, (3, 5)), "attention_mask": torch.ones(3, 5, dtype=torch.long)}
    [(activations, labels)] = classifier.stream([{**words, "labels": torch.tensor([3, 0, 1])}], needs=Needs.INPUTS)
    assert labels.tolist() == [3, 0, 1]
    assert torch.equal(activations.logits, model.eval()(**words).logits)
    assert activations.inputs.keys() == words.keys()
    [(_, labels)] = classifier.stream([{**words, "label": torch.tensor([1, 1, 1])}])
    assert labels.tolist() == [1, 1, 1]


def test_models_that_return_a_dict_or_an_object_have_the_logits_found():
    model = ViTForImageClassification(ViTConfig(**SIZES, image_size=16, patch_size=8, num_labels=3))
    images = torch.randn(2, 3, 16, 16)
    by_mapping, by_tensor = (ol.Classifier(model)(x).logits for x in ({"pixel_values": images}, images))
    assert torch.equal(by_mapping, by_tensor)
    assert torch.equal(ol.Classifier(Keywords())({"x": torch.ones(2, 4), "flag": True}).features, torch.ones(2, 4))


def test_a_model_that_returns_something_else_is_refused():
    class Pair(Keywords):
        def forward(self, x):
            return self.fc(x), self.fc(x)

    class Vector(Keywords):
        def forward(self, x):
            return self.fc(x)[:, 0]

    class Unused(Keywords):
        def forward(self, x):
            return x @ self.fc.weight.T

    class Softmax(Keywords):
        def forward(self, x):
            return self.fc(x).softmax(1)

    class Tokens(nn.Sequential):
        def forward(self, x):
            return super().forward(x).flatten(0, 1)

    with pytest.raises(HeadError, match=r"returns a tuple, not one tensor of logits: .* several heads"):
        ol.Classifier(Pair())(torch.ones(2, 4))
    with pytest.raises(InputError, match=r"logits of shape \(2,\), but one row per sample, \(N, C\), is needed"):
        ol.Classifier(Vector())(torch.ones(2, 4))
    with pytest.raises(HeadError, match="the head 'fc' was not called in the forward pass"):
        ol.Classifier(Unused())(torch.ones(2, 4))
    with pytest.raises(HeadError, match=r"output of 'fc', shape \(2, 3\), is not the logits"):
        ol.Classifier(Softmax())(torch.randn(2, 4))
    with pytest.raises(HeadError, match=r"reads an input of shape \(2, 5, 4\); one row of 4 features per sample"):
        ol.Classifier(Tokens(nn.Linear(4, 3)))(torch.ones(2, 5, 4))


def test_the_feature_map_is_found_before_the_pooling_or_by_name():
    model, images = ConvNet(), torch.randn(2, 3, 8, 8)
    maps = model.eval().maps(images)
    for name in (None, "relu"):
        activations = ol.Classifier(model, feature_map=name)(images, needs=Needs.FEATURE_MAP)
        assert torch.equal(activations.feature_map, maps)
    other = ol.Classifier(model, feature_map="conv")(images, needs=Needs.FEATURE_MAP)
    assert torch.equal(other.feature_map, model.conv(images))


def test_a_feature_map_that_is_not_there_is_asked_for_by_name():
    with pytest.raises(HeadError, match=r"no module named 'maps'. Its last modules: .*fc"):
        ol.Classifier(ConvNet(), feature_map="maps")
    with pytest.raises(HeadError, match=r"no feature map .* was found in ConvNet. Name the module .*feature_map='NAM"):
        ol.Classifier(ConvNet(), feature_map="drop")(torch.ones(2, 3, 8, 8), needs=Needs.FEATURE_MAP)
    classifier, loader = toy_problem()
    with pytest.raises(HeadError, match="no feature map"):
        classifier(loader[0][0], needs=Needs.FEATURE_MAP)
    two = nn.Sequential(nn.Conv2d(3, 6, 3), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(54, 2))
    with pytest.raises(HeadError, match=r"average pooling, shape \(2, 6, 6, 6\), does not average to the features"):
        ol.Classifier(two)(torch.randn(2, 3, 8, 8), needs=Needs.FEATURE_MAP)


def test_layers_are_kept_by_name():
    model, images = ConvNet().eval(), torch.randn(2, 3, 8, 8)
    activations = ol.Classifier(model)(images, layers=["conv", "pool"])
    assert list(activations.layers) == ["conv", "pool"]
    assert torch.equal(activations.layers["conv"], model.conv(images))
    with pytest.raises(HeadError, match="no module named 'stem'"):
        ol.Classifier(model)(images, layers=["stem"])


def test_batches_of_the_wrong_shape_empty_or_of_no_tensor_are_refused():
    classifier = ol.Classifier(ConvNet())
    with pytest.raises(InputError, match=r"ConvNet refused a batch of shape \(2, 1, 8, 8\): .*Check that it has"):
        classifier(torch.zeros(2, 1, 8, 8))
    with pytest.raises(InputError, match=r"at least one sample; this one has shape \(0, 3, 8, 8\)"):
        classifier(torch.zeros(0, 3, 8, 8))
    with pytest.raises(InputError, match=r"at least one sample; this one has shape \(\)"):
        classifier(torch.tensor(1.0))
    with pytest.raises(InputError, match="must be a tensor, a NumPy array of numbers, or a mapping of them; got list"):
        classifier([[1.0]])


def test_nan_is_refused_with_the_position_of_the_sample_in_its_data_set():
    images = torch.zeros(3, 3, 8, 8)
    images[1:] = float("nan")
    with pytest.raises(InputError, match=r"in 2 of 3 rows of this batch \(first: sample 41 of the data set\)"):
        ol.Classifier(ConvNet())(images, index=torch.tensor([40, 41, 42]))
    with pytest.raises(InputError, match=r"first: sample 5 of the data set"):
        list(ol.Classifier(ConvNet()).stream([torch.zeros(4, 3, 8, 8), images]))


def test_a_stream_takes_batches_of_every_kind_and_counts_on():
    classifier, images, labels = ol.Classifier(Keywords()), torch.randn(2, 4), torch.tensor([1, 2])
    batches = [
        images,
        (images, labels),
        [images],
        (images, ["a.png", "b.png"]),
        (images, [0, 1], "more"),
        {"x": images, "labels": labels},
        Batch(images, labels, torch.tensor([70, 90])),
        Batch(images, None, torch.tensor([91, 95])),
        (images[:1], labels[:1]),
    ]
    found = [(a.index.tolist(), None if y is None else y.tolist()) for a, y in classifier.stream(batches)]
    expected = [None, [1, 2], None, None, [0, 1], [1, 2], [1, 2], None, [1]]
    assert [y for _, y in found] == expected
    assert [i for i, _ in found] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11], [70, 90], [91, 95], [16]]


@pytest.mark.parametrize(("loader", "message"), [([], "yielded no batch"), ([()], "empty sequence as a batch")])
def test_an_empty_loader_or_batch_is_refused(loader, message):
    with pytest.raises(InputError, match=message):
        list(ol.Classifier(Keywords()).stream(loader))


def test_what_happens_to_the_model_later_is_seen():
    model = Keywords()
    classifier, x = ol.Classifier(model), torch.randn(2, 4)
    before = classifier.head.fingerprint
    with torch.no_grad():
        model.fc.weight.mul_(2)
    assert classifier.head.fingerprint != before
    torch.testing.assert_close(classifier(x).head(x), classifier(x).logits)
    model.double()
    assert classifier(x).logits.dtype == classifier.head.weight.dtype == torch.float64
    model.fc = nn.Linear(4, 7)
    assert classifier(x).logits.shape == (2, 7)
    assert classifier.head.num_classes == 7
    assert repr(classifier) == "Classifier(Keywords, head='fc', classes=7, features=4)"


def test_logits_changed_in_place_after_the_head_are_noticed():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3), nn.ReLU(inplace=True))
    with pytest.raises(HeadError, match="is not the logits"):
        ol.Classifier(model)(torch.randn(8, 4))


def test_layers_are_the_output_of_the_layer_also_before_an_operation_in_place():
    model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 3)), torch.randn(8, 4)
    assert torch.equal(ol.Classifier(model)(x, layers=["0"]).layers["0"], model[0](x))


def test_a_head_with_spectral_norm_comes_back_as_it_was():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), torch.nn.utils.parametrizations.spectral_norm(nn.Linear(6, 3)))
    before = state_of(model.train())
    ol.Classifier(model)(torch.randn(2, 4))
    assert state_of(model)["tensors"] == before["tensors"]


def test_a_head_called_by_keyword_is_read():
    class ByKeyword(Keywords):
        def forward(self, x):
            return self.fc(input=x)

    assert torch.equal(ol.Classifier(ByKeyword())(torch.ones(2, 4)).features, torch.ones(2, 4))


def test_a_refused_mapping_with_a_flag_in_it_is_described():
    with pytest.raises(InputError, match=r"refused a batch of shape \{'x': \(2, 5\)"):
        ol.Classifier(Keywords())({"x": torch.zeros(2, 5), "flag": True})


def test_an_empty_mapping_of_tensors_is_refused():
    with pytest.raises(InputError, match="at least one sample"):
        ol.Classifier(Keywords())({"x": torch.zeros(0, 4)})


def test_tensors_in_a_mapping_are_cast_as_a_tensor_on_its_own_is():
    assert ol.Classifier(Keywords().double())({"x": torch.ones(2, 4)}).logits.dtype == torch.float64


def test_gradients_equal_autograd_and_reach_layers():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 3))
    x = torch.randn(5, 4)
    found = ol.Classifier(model).gradients(x, lambda logits: logits.logsumexp(1), layers=["0"])
    leaf = x.clone().requires_grad_()
    hidden = model[0](leaf)
    expected = torch.autograd.grad(model[2](hidden.relu()).logsumexp(1).sum(), [leaf, hidden])
    assert torch.equal(found.inputs, expected[0])
    output, gradient = found.layers["0"]
    assert torch.equal(output, model[0](x))
    assert torch.equal(gradient, expected[1])
    assert all(p.grad is None for p in model.parameters())


class Detour(nn.Module):
    """A layer that is never called, one that leads nowhere, and one that returns two tensors."""

    def __init__(self):
        super().__init__()
        self.idle, self.aside, self.pair, self.fc = nn.Identity(), nn.Linear(4, 2), nn.LSTM(4, 5), nn.Linear(5, 3)

    def forward(self, x):
        self.aside(x)
        return self.fc(self.pair(x)[0])


@pytest.mark.parametrize(("name", "what"), [("idle", "was not called"), ("pair", "returns a tuple")])
def test_a_layer_without_one_output_is_refused(name, what):
    classifier = ol.Classifier(Detour())
    for run in (classifier, lambda x, **which: classifier.gradients(x, lambda logits: logits.amax(1), **which)):
        with pytest.raises(HeadError, match=f"'{name}' {what}"):
            run(torch.randn(6, 4), layers=[name])


def test_a_layer_that_leads_nowhere_has_no_gradient():
    with pytest.raises(InputError, match=r"the outputs of aside: .*not have been used"):
        ol.Classifier(Detour()).gradients(torch.randn(6, 4), lambda logits: logits.amax(1), layers=["aside"])


def test_tokens_have_no_gradient():
    model = nn.Sequential(nn.Embedding(9, 5), nn.Flatten(), nn.Linear(20, 3))
    with pytest.raises(InputError, match="one floating tensor"):
        ol.Classifier(model).gradients(torch.randint(0, 9, (6, 4)), lambda logits: logits.amax(1))
