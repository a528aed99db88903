"""`Forward` reads features and logits with gradients, and leaves the network as it was."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from oodline.errors import HeadError, InputError
from oodline.model.activations import Needs
from oodline.testing import toy_network
from oodline.training import CrossEntropy, Forward, T2FNorm, mix


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.ReLU(), nn.Linear(6, 3))


def test_gradients_are_those_of_the_plain_loop():
    model, x, y = network(), torch.randn(8, 4), torch.arange(8) % 3
    Forward(model)  # makes no pass yet
    forward = Forward(model)
    forward.find_head(x)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(1)
    nn.functional.cross_entropy(model(x), y).backward()
    expected, after = [p.grad.clone() for p in model.parameters()], model[1].running_mean.clone()
    model.load_state_dict(before)
    model.zero_grad()
    torch.manual_seed(1)
    CrossEntropy()(forward(x), y).backward()
    torch.testing.assert_close([p.grad for p in model.parameters()], expected)
    torch.testing.assert_close(model[1].running_mean, after)  # one pass, in training mode
    assert model.training and not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_finding_the_head_moves_no_statistics():
    model = network()
    Forward(model).find_head(torch.randn(8, 4))
    assert model.training and int(model[1].num_batches_tracked) == 0


def test_gradients_reach_the_weights_of_the_head():
    model = network()
    T2FNorm()(Forward(model)(torch.randn(8, 4), T2FNorm.needs), torch.arange(8) % 3).backward()
    assert float(model[-1].weight.grad.abs().sum()) > 0


def test_inputs_and_feature_map_on_request():
    model, images = toy_network(), torch.rand(3, 3, 8, 8)
    activations = Forward(model)(images, Needs.INPUTS | Needs.FEATURE_MAP)
    assert activations.inputs.requires_grad and not images.requires_grad
    torch.testing.assert_close(activations.feature_map.mean((2, 3)), activations.features)
    assert Forward(model)(images).feature_map is None and Forward(model, feature_map="1")(images).inputs is None


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(9, 5), nn.Linear(5, 3)

    def forward(self, input_ids):
        return SimpleNamespace(logits=self.head(self.embedding(input_ids).mean(1)))


def test_mappings_are_read_and_have_no_gradient_by_inputs():
    forward, batch = Forward(Tokens()), {"input_ids": torch.tensor([[1, 2], [3, 4]])}
    assert forward(batch).features.shape == (2, 5)
    with pytest.raises(InputError, match="must be one floating tensor"):
        forward(batch, Needs.INPUTS)


def test_half_precision_gives_float32():
    model = network()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        activations = Forward(model)(torch.randn(8, 4))
    assert activations.features.dtype == activations.logits.dtype == torch.float32
    CrossEntropy()(activations, torch.arange(8) % 3).backward()
    assert model[0].weight.grad.dtype == torch.float32


def test_a_wrapped_model_is_run_by_its_wrapper():
    class Wrapper(nn.DataParallel):
        calls = 0

        def forward(self, *inputs):
            self.calls += 1
            return self.module(*inputs)

    wrapper = Wrapper(network())
    Forward(wrapper)(torch.randn(8, 4))
    assert wrapper.calls == 1


def test_a_head_of_several_layers_is_no_matrix():
    model = nn.Sequential(nn.Linear(4, 6), nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)))
    forward = Forward(model, head="1")
    assert forward(torch.randn(2, 4)).features.shape == (2, 6)
    with pytest.raises(HeadError, match="needs a head of one linear layer; '1' is several"):
        forward(torch.randn(2, 4), T2FNorm.needs)


def test_what_is_mixed_has_one_shape():
    with pytest.raises(InputError, match=r"must have the shape of ID samples, \(3,\); got \(4,\)"):
        mix(torch.ones(2, 3), torch.tensor([0, 1]), torch.ones(2, 4))
