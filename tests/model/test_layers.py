"""Layers read in the hook equal what is computed from whole outputs; and where `layers="auto"` reads."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn

from oodline import Classifier
from oodline.errors import HeadError
from oodline.model.depths import depths
from oodline.model.layers import PooledLayer, channel_axis, pooled
from oodline.statistics import Covariance, Reservoir, SideBySide

CIFAR = Path(__file__).parents[2] / "examples" / "cifar_models.py"


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 8, 3),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(32, 4),
    )
    return Classifier(model), torch.randn(10, 3, 6, 6)


@pytest.mark.parametrize("name", ["0", "1", "2"])
def test_a_pooled_layer_equals_moments_of_the_whole_output(small, name):
    classifier, images = small
    reading = PooledLayer(name, "mean-std")
    found = classifier(images, layers=[name, reading, PooledLayer(name)]).layers
    maps = found[name].double().numpy()
    np.testing.assert_allclose(found[PooledLayer(name)], maps.mean((2, 3)), rtol=1e-5, atol=1e-6)
    expected = np.concatenate([maps.mean((2, 3)), maps.std((2, 3))], 1)
    np.testing.assert_allclose(found[reading], expected, rtol=1e-5, atol=1e-6)


def test_vectors_are_read_as_they_are_and_apart_from_what_follows_in_place(small):
    classifier, images = small
    flat = classifier(images, layers=["4", PooledLayer("4", "mean-std")]).layers
    assert torch.equal(flat["4"], flat[PooledLayer("4", "mean-std")])
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(inplace=True), nn.Linear(7, 2))
    x = torch.randn(9, 5)
    read = Classifier(model)(x, layers=[PooledLayer("0")]).layers[PooledLayer("0")]
    assert torch.equal(read, model[0](x)) and (read < 0).any()


def test_tokens_have_their_channels_last_and_padding_does_not_count():
    tokens = torch.randn(3, 5, 4)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]])
    torch.testing.assert_close(pooled(tokens), tokens.mean(1))
    assert torch.equal(pooled(tokens, "cls"), tokens[:, 0])
    found = pooled(tokens, "mean-std", mask=mask)
    for row, kept in enumerate((5, 2, 1)):
        own = tokens[row, :kept].double()
        expected = torch.cat([own.mean(0), own.std(0, unbiased=False)])
        torch.testing.assert_close(found[row].double(), expected, rtol=1e-5, atol=1e-6)


def test_the_mask_of_the_inputs_is_used():
    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.fc = nn.Embedding(20, 6), nn.Linear(6, 3)

        def forward(self, input_ids, attention_mask):
            return self.fc(self.words(input_ids)[:, 0])

    classifier, reading = Classifier(Text()), PooledLayer("words")
    short = {"input_ids": torch.tensor([[3, 4]]), "attention_mask": torch.ones(1, 2, dtype=torch.long)}
    padded = {"input_ids": torch.tensor([[3, 4, 0, 0]]), "attention_mask": torch.tensor([[1, 1, 0, 0]])}
    one, other = (classifier(batch, layers=[reading]).layers[reading] for batch in (short, padded))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("shape", "module", "axis"),
    [
        ((2, 9, 5), None, 2),
        ((2, 5, 9, 9), None, 1),
        ((2, 9, 9, 5), None, 3),
        ((2, 9, 9, 9), None, 1),
        ((2, 8, 8, 5), nn.BatchNorm2d(8), 1),
        ((2, 6, 4, 8), nn.LayerNorm(8), 3),
        ((2, 8, 4, 6), nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU()), 1),
    ],
)
def test_the_axis_of_channels(shape, module, axis):
    assert channel_axis(torch.empty(shape), module) == axis


def test_statistics_of_a_layer_merge():
    torch.manual_seed(0)
    classifier = Classifier(nn.Sequential(nn.Conv2d(3, 6, 3), nn.Flatten(), nn.Linear(96, 3)))
    images, labels = torch.randn(30, 3, 6, 6), torch.arange(30) % 3
    readings = (PooledLayer("0", "mean-std"), PooledLayer("0"))

    def filled(rows):
        covariance, sample = Covariance(readings[0]), Reservoir(50, SideBySide(readings), "label")
        for statistic in (covariance, sample):
            statistic.update(classifier(images[rows], layers=readings, index=rows), labels[rows])
        return covariance, sample

    whole, parts = filled(torch.arange(30)), [filled(rows) for rows in torch.arange(30).split([4, 26])]
    merged = parts[1][0].merge(parts[0][0])
    torch.testing.assert_close(merged.pooled(), whole[0].pooled())
    torch.testing.assert_close(parts[0][1].merge(parts[1][1]).rows, whole[1].rows)
    values = classifier(images, layers=readings).layers[readings[0]].double().numpy()
    centred = np.concatenate([values[labels == c] - values[labels == c].mean(0) for c in range(3)])
    np.testing.assert_allclose(whole[0].pooled(), centred.T @ centred / 30, rtol=1e-6, atol=1e-12)


def test_what_cannot_be_read_is_refused(small):
    classifier, images = small
    for reading, message in (
        (PooledLayer("nowhere"), "no module named 'nowhere'"),
        (PooledLayer("0", "cls"), r"the layer '0': .* has no first token; .* Take pool='mean'"),
    ):
        with pytest.raises(HeadError, match=message):
            classifier(images, layers=[reading])

    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused, self.scalar = nn.Linear(4, 2), nn.Linear(4, 2), nn.Identity()

        def forward(self, x):
            self.scalar(x.sum())
            return self.used(x)

    with pytest.raises(HeadError, match="the layer 'unused' was not called"):
        Classifier(Unused())(torch.ones(3, 4), layers=[PooledLayer("unused")])
    with pytest.raises(HeadError, match=r"the layer 'scalar' returns a tensor of shape \(\)"):
        Classifier(Unused())(torch.ones(3, 4), layers=[PooledLayer("scalar")])


def test_the_first_of_several_tensors_is_read():
    class Block(nn.Module):
        def forward(self, x):
            return x + 1, None

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.fc = Block(), nn.Linear(4, 2)

        def forward(self, x):
            return self.fc(self.block(x)[0])

    x = torch.randn(3, 4)
    assert torch.equal(Classifier(Net())(x, layers=[PooledLayer("block")]).layers[PooledLayer("block")], x + 1)


def cifar(name):
    spec = importlib.util.spec_from_file_location("cifar_models", CIFAR)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)()


# network -> image size, depths, and channels there
NETWORKS = {
    "cifar:resnet20": (32, ("layer1.1", "layer2.0", "layer3.0", "layer3.2"), (16, 32, 64, 64)),
    "cifar:densenet100": (32, ("block1", "trans1", "trans2", "block3"), (216, 108, 150, 342)),
    "torchvision:resnet18": (64, ("layer1.1", "layer2.1", "layer3.1", "layer4.1"), (64, 128, 256, 512)),
    "torchvision:convnext_tiny": (
        64,
        ("features.3.0", "features.5.2", "features.5.7", "features.7.2"),
        (192, 384, 384, 768),
    ),
    "torchvision:swin_t": (64, ("features.3.0", "features.5.1", "features.5.4", "features.7.1"), (192, 384, 384, 768)),
    "torchvision:vit_b_32": (224, tuple(f"encoder.layers.encoder_layer_{i}" for i in (2, 5, 8, 11)), (768,) * 4),
    "timm:vit_tiny_patch16_224": (224, tuple(f"blocks.{i}" for i in (2, 5, 8, 11)), (192,) * 4),
    "timm:convnext_atto": (64, tuple(f"stages.{i}" for i in range(4)), (40, 80, 160, 320)),
    "timm:swin_tiny_patch4_window7_224": (224, tuple(f"layers.{i}" for i in range(4)), (96, 192, 384, 768)),
    "timm:resnet10t": (64, tuple(f"layer{i}.0" for i in range(1, 5)), (64, 128, 256, 512)),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_four_depths_of_a_network(network):
    size, expected, channels = NETWORKS[network]
    library, _, name = network.partition(":")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = {
            "cifar": lambda: cifar(name),
            "torchvision": lambda: getattr(torchvision.models, name)(weights=None),
            "timm": lambda: timm.create_model(name, pretrained=False),
        }[library]()
        images = torch.randn(2, 3, size, size)
    classifier = Classifier(model)
    readings = [PooledLayer(module) for module in depths(model, classifier.head_name)]
    assert tuple(reading.module for reading in readings) == expected
    found = classifier(images, layers=readings).layers
    assert tuple(row.shape[1] for row in found.values()) == channels
    assert all(row.shape[0] == 2 and row.isfinite().all() for row in found.values())


def test_depths_of_networks_without_blocks():
    mlp = nn.Sequential(
        nn.Linear(4, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2), nn.Softmax(dim=1)
    )
    assert depths(mlp, "5") == ("0", "1", "3", "4")
    assert depths(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), "2") == ("0", "1")
    assert depths(nn.Linear(4, 2), "") == ()
