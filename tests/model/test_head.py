"""The head is found where a library puts it, refused with its candidates where it is not one, and never goes stale."""

import pytest
import timm
import torch
from torch import nn
from torchvision import models
from transformers import BertConfig, BertForSequenceClassification, ViTConfig, ViTForImageClassification

import oodline as ol
from oodline.errors import HeadError
from oodline.model.head import LayeredHead, LinearHead, find_head, read_head

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def small_vgg():
    with torch.device("meta"):  # its own classifier has 120 million weights
        model = models.vgg11(init_weights=False)
        model.classifier[0], model.classifier[3], model.classifier[6] = (
            nn.Linear(25088, 32),
            nn.Linear(32, 32),
            nn.Linear(32, 5),
        )
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.05)
    return model


def small_vit():
    return timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, num_classes=5)


def hf_vit():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return ViTForImageClassification(ViTConfig(**sizes, image_size=32, patch_size=16, num_labels=5))


MODELS = {
    "torchvision resnet18": (lambda: models.resnet18(num_classes=5), None, "fc"),
    "torchvision mobilenet_v3_small": (lambda: models.mobilenet_v3_small(num_classes=5), None, "classifier.3"),
    "torchvision vgg11": (small_vgg, None, "classifier.6"),
    "torchvision vgg11, all of its classifier": (small_vgg, "classifier", "classifier"),
    "torchvision densenet121": (lambda: models.densenet121(num_classes=5), None, "classifier"),
    "timm resnet18": (lambda: timm.create_model("resnet18", num_classes=5), None, "fc"),
    "timm mobilenetv2": (lambda: timm.create_model("mobilenetv2_050", num_classes=5), None, "classifier"),
    "timm vit_tiny": (small_vit, None, "head"),
    "transformers ViT": (hf_vit, None, "classifier"),
}


def logits_of(model, images):
    """What the model itself gives."""
    with torch.no_grad():
        output = model.eval()(images)
    return getattr(output, "logits", output)


@pytest.mark.parametrize(("build", "asked", "name"), MODELS.values(), ids=list(MODELS))
def test_the_head_of_a_library_model_is_found_and_maps_features_to_logits(build, asked, name):
    model = build()
    classifier = ol.Classifier(model, asked)
    assert classifier.head_name == name
    images = torch.randn(2, 3, 32, 32)
    activations = classifier(images)
    assert torch.equal(activations.logits, logits_of(model, images))
    torch.testing.assert_close(activations.head(activations.features), activations.logits)
    assert activations.head.num_classes == 5
    assert isinstance(activations.head, LayeredHead if asked else LinearHead)


def test_the_head_of_a_text_classifier_is_found():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = BertForSequenceClassification(BertConfig(**sizes, vocab_size=30, num_labels=4))
    classifier = ol.Classifier(model)
    assert classifier.head_name == "classifier"
    activations = classifier({"input_ids": torch.arange(10).view(2, 5), "attention_mask": torch.ones(2, 5).long()})
    torch.testing.assert_close(activations.head(activations.features), activations.logits)


def test_a_convolution_as_head_must_be_named_and_must_come_after_pooling():
    model = models.squeezenet1_0(num_classes=5)
    with pytest.raises(HeadError, match=r"no nn.Linear to serve as head\. Candidates: 'classifier.1' \(Conv2d 512 ->"):
        find_head(model)
    named = ol.Classifier(model, "classifier.1")
    assert (named.head.num_classes, named.head.num_features) == (5, 512)
    with pytest.raises(HeadError, match=r"output of 'classifier.1', shape \(1, 5, 3, 3\), is not the logits"):
        named(torch.ones(1, 3, 64, 64))


def test_a_convolution_after_pooling_is_a_head():
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 4, 1), nn.Flatten())
    activations = ol.Classifier(model, "3")(torch.randn(2, 3, 8, 8))
    assert activations.features.shape == (2, 6)
    torch.testing.assert_close(activations.head(activations.features), activations.logits)


def test_a_model_built_without_its_head_is_refused():
    with pytest.raises(HeadError, match=r"has no nn.Linear to serve as head"):
        ol.Classifier(timm.create_model("resnet18", num_classes=0))
    classifier = ol.Classifier(timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, num_classes=0))
    with pytest.raises(HeadError, match=r"'blocks.0.mlp.fc2', .* is not the logits that the model returns"):
        classifier(torch.randn(2, 3, 32, 32))


def test_no_head_an_unknown_name_and_a_module_that_cannot_serve_are_refused_with_the_candidates():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(HeadError, match="no linear layer and no 1x1 convolution at all"):
        find_head(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    with pytest.raises(HeadError, match=r"no module named 'fc'\. Candidates: '4' \(Linear 8 -> 2\), '2' \(Linear 16"):
        find_head(model, "fc")
    for name in ("0", "1", "3"):
        with pytest.raises(HeadError, match=rf"'{name}' is a \w+ and cannot serve as head"):
            find_head(model, name)
    assert find_head(model, "2") == "2"
    with pytest.raises(HeadError, match="and 3 earlier ones"):
        find_head(nn.Sequential(*(nn.Linear(2, 2) for _ in range(8))), "x")


def test_a_head_without_bias_has_a_bias_of_zeros():
    head = read_head(nn.Linear(4, 3, bias=False), "fc")
    assert torch.equal(head.bias, torch.zeros(3))


def test_a_layered_head_of_a_training_model_neither_drops_nor_counts():
    tail = nn.Sequential(nn.Dropout(), nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3))
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), tail).train()
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    activations = ol.Classifier(model, "2")(torch.randn(16, 4))
    for _ in range(2):
        torch.testing.assert_close(activations.head(activations.features), activations.logits)
    assert activations.head.num_classes == 3
    assert activations.head.linear.num_classes == 8
    assert all(module.training for module in model.modules())
    assert all(torch.equal(buffers[name], value) for name, value in model.named_buffers())


def test_a_head_shares_its_weights_with_the_model():
    tail = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    head = read_head(tail, "tail")
    with torch.no_grad():
        tail[0].weight.add_(1)
        tail[2].weight.mul_(2)
    x = torch.randn(2, 6)
    assert torch.equal(head(x), tail(x))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("build", [lambda: nn.Linear(6, 3), lambda: nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3))])
def test_the_fingerprint_tells_weights_apart_and_not_dtypes_or_devices(build, device):
    module = build()
    before = read_head(module, "fc").fingerprint
    assert read_head(module.double(), "fc").fingerprint == before
    assert read_head(module.to(device), "fc").fingerprint == before
    assert read_head(module.cpu().float(), "fc").fingerprint == before
    for parameter in module.parameters():
        value = parameter.detach().clone()
        with torch.no_grad():
            parameter.view(-1)[-1] += 1e-3
        assert read_head(module, "fc").fingerprint != before
        parameter.data = value
    assert read_head(module, "fc").fingerprint == before


@pytest.mark.parametrize("name", ["fc", "tail"])
def test_a_head_moves_to_the_dtype_of_the_features(name):
    module = nn.Linear(6, 3) if name == "fc" else nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    head = read_head(module, name)
    x = torch.randn(2, 6)
    assert head.linear.to(x) is head.linear
    moved = head.to(x.double())
    assert moved(x.double()).dtype == torch.float64
    torch.testing.assert_close(moved(x.double()), head(x).double())


def test_a_layered_head_knows_its_classes_before_any_pass():
    layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    model = nn.Sequential(nn.Identity(), layers)
    classifier = ol.Classifier(model, "1")
    assert classifier.head.num_classes == 3
    assert "classes=3" in repr(classifier)
    with pytest.raises(
        HeadError, match=r"the head '1' must return \(N, C\) for N rows of features; got \(3,\) for one"
    ):
        ol.Classifier(nn.Sequential(nn.Identity(), nn.Sequential(*layers, nn.Flatten(0))), "1")
    with pytest.raises(HeadError, match="the head '1' fails on one row of features"):
        ol.Classifier(nn.Sequential(nn.Identity(), nn.Sequential(nn.Linear(4, 8), nn.Linear(9, 3))), "1")
