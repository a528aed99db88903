"""A head is what gives the logits by its numbers, whatever class its modules are of, and is served alike everywhere."""

import pytest
import timm
import torch
from torch import nn
from transformers import (
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    GPT2Config,
    GPT2ForSequenceClassification,
    LevitConfig,
    LevitForImageClassificationWithTeacher,
)
from transformers.pytorch_utils import Conv1D

import oodline as ol
from oodline.errors import HeadError
from oodline.model.activations import Needs
from oodline.model.head import LinearHead, read_head

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


class Net(nn.Module):
    """A body of one layer, a head, and what may follow it."""

    def __init__(self, head, after=lambda output: output):
        super().__init__()
        self.body, self.fc, self.after = nn.Linear(6, 8), head, after

    def forward(self, x):
        return self.after(self.fc(self.body(x).relu()))


class TwoHeads(nn.Module):
    def __init__(self, first=0.5, second=0.5, after=lambda output: output):
        super().__init__()
        self.body, self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 5), nn.Linear(8, 5, bias=False)
        self.factors, self.after = (first, second), after

    def forward(self, x):
        hidden = self.body(x)
        return self.after(self.factors[0] * self.a(hidden.relu()) + self.factors[1] * self.b(hidden.tanh()))


class OwnForward(nn.Linear):
    """As timm's, and many others': a linear layer that computes itself."""

    def forward(self, x):
        return (x.unsqueeze(-2) * self.weight).sum(-1) + self.bias


class CosineLinear(nn.Linear):
    def forward(self, x):
        return 10 * nn.functional.linear(nn.functional.normalize(x), nn.functional.normalize(self.weight))


class Adapter(nn.Module):
    """As PEFT's LoRA layers: the weight that it shows is not the one that it uses."""

    def __init__(self):
        super().__init__()
        self.base_layer, self.a, self.b = nn.Linear(8, 5), nn.Linear(8, 2, bias=False), nn.Linear(2, 5, bias=False)

    weight = property(lambda self: self.base_layer.weight)
    bias = property(lambda self: self.base_layer.bias)

    def forward(self, x):
        return self.base_layer(x) + self.b(self.a(x))


class Inside(nn.Module):
    """A head of one layer within a module that normalises first."""

    def __init__(self):
        super().__init__()
        self.bn, self.l = nn.BatchNorm1d(8), nn.Linear(8, 5)

    def forward(self, x):
        return self.l(self.bn(x))


def one_each(outputs):
    return outputs[torch.arange(len(outputs)), torch.tensor([6, 0, 3, 3])[: len(outputs)]]


def small_deit():
    return timm.create_model("deit_tiny_distilled_patch16_224", img_size=32, depth=1, num_classes=5)


def with_teacher():
    return DeiTForImageClassificationWithTeacher(DeiTConfig(**SIZES, image_size=32, patch_size=16, num_labels=5))


def levit_with_teacher():
    return LevitForImageClassificationWithTeacher(LevitConfig(image_size=64, depths=[1, 1, 1], num_labels=5))


def conv_head(*last):
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), *last, nn.Flatten())


X, TOKENS, IMAGES = torch.randn(6, 6), torch.randn(4, 7, 6), torch.randn(3, 3, 32, 32)

# how to build it, inputs, arguments, what the head is called, how many features
KINDS = {
    "a linear layer with a forward of its own": (lambda: Net(OwnForward(8, 5)), X, {}, "fc", 8),
    "a transposed weight": (lambda: Net(Conv1D(5, 8)), X, {}, "fc", 8),
    "a transposed square weight": (lambda: Net(Conv1D(8, 8)), X, {}, "fc", 8),
    "weight norm": (lambda: Net(nn.utils.parametrizations.weight_norm(nn.Linear(8, 5))), X, {}, "fc", 8),
    "a layer that is not there yet": (lambda: Net(nn.LazyLinear(5)), X, {}, "fc", 8),
    "a layer inside the stated head": (lambda: Net(Inside()), X, {}, "fc.l", 8),
    "timm's Linear": (lambda: timm.create_model("lcnet_050", num_classes=5), IMAGES, {}, "classifier", 1280),
    "the mean of two": (TwoHeads, X, {}, "0.5*a + 0.5*b", 16),
    "the sum of two": (lambda: TwoHeads(1, 1), X, {}, "a + b", 16),
    "a weighted difference": (lambda: TwoHeads(2, -0.7), X, {}, "2*a + -0.7*b", 16),
    "two heads, log_softmax": (
        lambda: TwoHeads(after=lambda o: o.log_softmax(1)), X, {}, "0.5*a + 0.5*b", 16,
    ),
    "timm's distilled": (small_deit, IMAGES, {}, "0.5*head + 0.5*head_dist", 384),
    "transformers' DeiT with teacher": (
        with_teacher, IMAGES, {}, "0.5*cls_classifier + 0.5*distillation_classifier", 32,
    ),
    "transformers' LeViT with teacher": (
        levit_with_teacher, torch.randn(3, 3, 64, 64), {},
        "0.5*classifier.linear + 0.5*classifier_distill.linear", 768,
    ),
    "log_softmax": (lambda: Net(nn.Linear(8, 5), lambda o: o.log_softmax(1)), X, {}, "fc", 8),
    "centred logits": (lambda: Net(nn.Linear(8, 5), lambda o: o - o.mean(1, keepdim=True)), X, {}, "fc", 8),
    "the first token": (lambda: Net(nn.Linear(8, 5), lambda o: o[:, 0]), TOKENS, {}, "fc", 8),
    "another token for each": (lambda: Net(nn.Linear(8, 5), one_each), TOKENS, {}, "fc", 8),
    "a token's log_softmax": (lambda: Net(nn.Linear(8, 5), lambda o: o[:, 2].log_softmax(1)), TOKENS, {}, "fc", 8),
    "the mean of all tokens": (lambda: Net(nn.Linear(8, 5), lambda o: o.mean(1)), TOKENS, {}, "fc", 8),
    "a convolution after pooling": (
        lambda: conv_head(nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 4, 1)), IMAGES, {}, "3", 6,
    ),
    "a convolution before pooling": (
        lambda: conv_head(nn.Conv2d(6, 4, 1), nn.AdaptiveAvgPool2d(1)), IMAGES, {}, "2", 6,
    ),
    "one logit": (lambda: Net(nn.Linear(8, 1)), X, {"binary": True}, "binary(fc)", 8),
    "one logit, squeezed": (lambda: Net(nn.Linear(8, 1), lambda o: o[:, 0]), X, {"binary": True}, "binary(fc)", 8),
    "a temperature that was asked for": (
        lambda: Net(nn.Linear(8, 5), lambda o: o / 4), X, {"head": "0.25*fc"}, "0.25*fc", 8,
    ),
    "a tuple of one": (lambda: Net(nn.Linear(8, 5), lambda o: (o,)), X, {}, "fc", 8),
    "logits as a map of one pixel": (lambda: Net(nn.Linear(8, 5), lambda o: o[..., None, None]), X, {}, "fc", 8),
}  # fmt: skip


def returned(model, inputs):
    with torch.no_grad():
        output = model.eval()(inputs)
    output = getattr(output, "logits", output)
    output = output[0] if isinstance(output, tuple) else output
    return output.reshape(len(inputs), -1)


@pytest.mark.parametrize(("build", "inputs", "given", "name", "width"), KINDS.values(), ids=list(KINDS))
def test_a_head_of_any_kind_maps_features_to_logits(build, inputs, given, name, width):
    torch.manual_seed(0)
    model = build()
    classifier = ol.Classifier(model, **given)
    activations = classifier(inputs)
    assert classifier.head_name == name
    assert isinstance(activations.head, LinearHead)
    assert activations.features.shape == (len(inputs), width)
    torch.testing.assert_close(activations.head(activations.features), activations.logits, rtol=1e-4, atol=1e-5)
    expected = returned(model, inputs)
    if given.get("binary"):
        expected = torch.cat([torch.zeros_like(expected), expected], 1)
    torch.testing.assert_close(activations.logits.softmax(1), expected.softmax(1))
    torch.testing.assert_close(ol.Energy()(activations), activations.logits.logsumexp(1))


@pytest.mark.parametrize(("build", "inputs", "given", "name", "width"), KINDS.values(), ids=list(KINDS))
def test_a_graph_and_gradients_and_a_classifier_by_its_heads_name_read_the_same(build, inputs, given, name, width):
    torch.manual_seed(0)
    classifier = ol.Classifier(build(), **given)
    activations = classifier(inputs)
    traced = classifier.trace(inputs[:2])
    torch.testing.assert_close(traced.features, activations.features[:2], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(traced.logits, activations.logits[:2], rtol=1e-4, atol=1e-5)
    again = ol.Classifier(classifier.model, classifier.head_name)
    assert again.head.fingerprint == activations.head.fingerprint
    assert torch.equal(again(inputs).features, activations.features)
    seen = []
    classifier.gradients(inputs, lambda logits: seen.append(logits.detach()) or logits.amax(1))
    torch.testing.assert_close(seen[0], activations.logits)


def test_the_last_token_that_is_no_padding_is_selected():
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32, "vocab_size": 50}
    model = GPT2ForSequenceClassification(GPT2Config(**sizes, num_labels=5, pad_token_id=0)).eval()
    ids = torch.randint(5, 50, (3, 9))
    ids[1, 4:] = 0
    batch = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    activations = ol.Classifier(model)(batch)
    with torch.no_grad():
        hidden = model.transformer(**batch).last_hidden_state
    torch.testing.assert_close(activations.features, hidden[torch.arange(3), torch.tensor([8, 3, 8])])
    one = ol.Classifier(model)({"input_ids": ids[:1, :1]})
    torch.testing.assert_close(one.head(one.features), one.logits)


def test_a_mean_over_tokens_that_are_no_padding_is_read_by_the_mask():
    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.fc = nn.Embedding(20, 8), nn.Linear(8, 5)

        def forward(self, input_ids, attention_mask):
            kept = attention_mask.unsqueeze(2).float()
            return {"logits": (self.fc(self.words(input_ids)) * kept).sum(1) / kept.sum(1)}

    model, ids = Text(), torch.randint(20, (4, 7))
    mask = (torch.arange(7) < torch.tensor([[7], [3], [5], [1]])).long()
    activations = ol.Classifier(model)({"input_ids": ids, "attention_mask": mask})
    means = torch.stack([model.words(row[keep.bool()]).mean(0) for row, keep in zip(ids, mask, strict=True)])
    torch.testing.assert_close(activations.features, means.detach())


def test_the_one_tensor_of_an_output_is_the_logits_whatever_it_is_called():
    class Named(Net):
        def forward(self, x):
            return {"last_hidden_state": super().forward(x), "hidden_states": None}

    model = Named(nn.Linear(8, 5))
    torch.testing.assert_close(ol.Classifier(model)(X).logits, model(X)["last_hidden_state"].detach())


def test_the_features_of_two_heads_stand_side_by_side():
    model = TwoHeads(0.25, 3)
    activations = ol.Classifier(model)(X)
    hidden = model.body(X).detach()
    torch.testing.assert_close(activations.features, torch.cat([hidden.relu(), hidden.tanh()], 1))
    torch.testing.assert_close(activations.head.weight, torch.cat([0.25 * model.a.weight, 3 * model.b.weight], 1))
    torch.testing.assert_close(activations.head.bias, 0.25 * model.a.bias)


@pytest.mark.parametrize("model", [Net(nn.Linear(8, 5)), TwoHeads()], ids=["one", "two"])
def test_weights_that_change_are_read_again(model):
    classifier = ol.Classifier(model)
    before = classifier(X)
    known = before.head.fingerprint
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    after = classifier(X)
    assert not torch.allclose(after.logits, before.logits)
    torch.testing.assert_close(after.head(after.features), after.logits)
    assert after.head.fingerprint != known


def test_a_head_that_stops_being_one_is_noticed_on_the_next_pass():
    model = Net(nn.Linear(8, 5))
    classifier = ol.Classifier(model)
    classifier(X)
    model.after = torch.tanh
    with pytest.raises(HeadError, match="returns tanh of the output of 'fc'"):
        classifier(X)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_precision_decides_how_near_is_equal(dtype):
    torch.manual_seed(0)
    for build, name in ((lambda: Net(nn.Linear(8, 5)), "fc"), (TwoHeads, "0.5*a + 0.5*b")):
        classifier = ol.Classifier(build().to(dtype))
        activations = classifier(X)
        assert classifier.head_name == name
        torch.testing.assert_close(activations.head(activations.features), activations.logits, rtol=0.05, atol=0.05)
    with pytest.raises(HeadError, match="is a CosineLinear, and what it returns is not W f"):
        ol.Classifier(Net(CosineLinear(8, 5)).to(dtype))(X)


def test_autocast_is_no_other_head():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        activations = ol.Classifier(Net(nn.Linear(8, 5)))(X)
    torch.testing.assert_close(activations.head(activations.features), activations.logits, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("head", [CosineLinear(8, 5), Adapter()], ids=["cosine", "adapter"])
def test_a_layer_that_is_not_linear_is_refused_with_the_difference_and_is_not_offered(head):
    model = Net(head)
    hidden = model.body(X).relu()
    off = (nn.functional.linear(hidden, head.weight, head.bias) - head(hidden)).abs().max().item()
    for name in (None, "fc"):
        with pytest.raises(HeadError, match=rf"'fc' is a \w+, .* differ by up to {off:.3g}\.") as caught:
            ol.Classifier(model, name)(X)
        assert "Candidates" not in str(caught.value)


def test_a_guard_and_scores_of_a_found_head_go_to_a_classifier_that_has_not_run_yet(tmp_path):
    torch.manual_seed(0)
    model = TwoHeads()
    classifier = ol.Classifier(model)
    inputs = torch.randn(200, 6)
    loader = [(inputs, classifier(inputs).logits.argmax(1))]
    knn = ol.KNN(k=3).fit(classifier, loader)
    guard = ol.Guard(classifier, knn).calibrate([torch.randn(100, 6)], false_alarm=0.1)
    path = guard.save(tmp_path / "guard.safetensors")
    loaded = ol.Guard.load(path, ol.Classifier(model))
    assert torch.equal(loaded(X).score, guard(X).score)
    assert torch.equal(ol.score(knn, ol.Classifier(model), [X])["knn"], ol.score(knn, classifier, [X])["knn"])


def test_fitting_before_any_pass_uses_the_head_that_the_pass_finds():
    torch.manual_seed(0)
    model, inputs = TwoHeads(), torch.randn(200, 6)
    loader = [(inputs, torch.arange(200) % 5)]
    found, named = ol.Classifier(model), ol.Classifier(model, "0.5*a + 0.5*b")
    for make in (lambda: ol.LINe(), lambda: ol.Mahalanobis(), lambda: ol.DICE()):
        first, second = make().fit(found, loader), make().fit(named, loader)
        torch.testing.assert_close(first(found(X)), second(named(X)))


def test_a_cache_gives_the_head_that_a_pass_finds(tmp_path):
    from oodline.evaluation.cache import CachedClassifier
    from oodline.testing import toy_images

    class Images(TwoHeads):
        def forward(self, x):
            return super().forward(x.flatten(1)[:, :6])

    _, loader = toy_images(tmp_path)
    model, folder = Images(), tmp_path / "cache"
    [first, again] = [
        torch.cat([a.head(a.features) for a, _ in CachedClassifier(ol.Classifier(model), folder).stream(loader)])
        for _ in range(2)
    ]
    assert torch.equal(first, again)
    assert again.shape == (12, 5)


def test_binary_is_two_logits_and_has_a_default():
    torch.manual_seed(0)
    model = Net(nn.Linear(8, 1))
    classifier = ol.Classifier(model, binary=True)
    inputs = torch.randn(300, 6)
    activations = classifier(inputs)
    z = model(inputs).detach()[:, 0]
    torch.testing.assert_close(activations.logits, torch.stack([torch.zeros_like(z), z], 1))
    torch.testing.assert_close(activations.logits.softmax(1)[:, 1], z.sigmoid())
    labels = (torch.arange(300) % 2).long()
    detector = ol.default(classifier).fit(classifier, [(inputs, labels)])
    assert "line" not in [member.name for member in detector.detectors]
    assert bool(torch.isfinite(detector(activations)).all())


def test_one_number_per_sample_is_no_classifier_without_binary_and_several_are_none_with_it():
    with pytest.raises(
        HeadError, match=r"returns one number per sample\. .* Classifier\(model, binary=True\), or --bin"
    ):
        ol.Classifier(Net(nn.Linear(8, 1)))(X)
    with pytest.raises(HeadError, match="binary=True is for a model of one logit, and 'fc' has 3"):
        ol.Classifier(Net(nn.Linear(8, 3)), binary=True)
    with pytest.raises(HeadError, match=r"one number per sample.* returns sigmoid of the output of 'fc'"):
        ol.Classifier(Net(nn.Linear(8, 1), torch.sigmoid))(X)


def test_the_map_before_an_averaged_convolution_can_be_named():
    model = conv_head(nn.Conv2d(6, 4, 1), nn.AdaptiveAvgPool2d(1))
    activations = ol.Classifier(model, feature_map="1")(IMAGES, needs=Needs.FEATURE_MAP)
    torch.testing.assert_close(activations.feature_map.mean((2, 3)), activations.features)


def test_a_row_for_each_token_is_not_a_row_for_each_sample():
    with pytest.raises(HeadError, match="reads an input of shape"):
        ol.Classifier(Net(nn.Linear(8, 5), lambda o: o.flatten(0, 1)))(TOKENS)


def test_an_unreadable_sum_is_refused():
    for name, words in (
        ("0.5*a + nothing", "has no module named 'nothing'"),
        ("a + ", "must be a module's name"),
    ):
        with pytest.raises(HeadError, match=words):
            ol.Classifier(TwoHeads(), name)
    with pytest.raises(HeadError, match=r"output of 'a'.*They are the output of '0.5\*a \+ 0.5\*b': pass that as head"):
        ol.Classifier(TwoHeads(), "a")(X)


def test_a_subclass_of_sequential_that_computes_something_else_is_no_layered_head():
    class Skips(nn.Sequential):
        def forward(self, x):
            return super().forward(x) + x.sum(1, keepdim=True) * torch.arange(5)

    tail = Skips(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5))
    with pytest.raises(HeadError, match="output of 'fc'"):
        ol.Classifier(Net(tail), "fc")(X)
    assert read_head(tail, "fc").num_classes == 5


@pytest.mark.parametrize("name", ["1e400*0", "0*0", "nan*0"])
def test_a_factor_that_is_no_factor_is_refused(name):
    with pytest.raises(HeadError, match="`head` must be a module's name, or a sum such as"):
        ol.Classifier(nn.Sequential(nn.Linear(3, 2)), head=name)


@pytest.mark.parametrize("seed", range(3))
def test_one_logit_is_not_called_a_soft_cap_of_itself(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
    with pytest.raises(HeadError, match="binary=True") as caught:
        ol.Classifier(model)(torch.randn(20, 6))
    assert "tanh" not in str(caught.value)
