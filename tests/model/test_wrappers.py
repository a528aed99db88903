"""Wrapped and compiled models are used as what they wrap; what cannot be listened to says so."""

import warnings

import pytest
import torch
from torch import nn

import oodline as ol
from oodline.errors import HeadError
from oodline.model.wrappers import uncompiled

X = torch.randn(6, 4)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


def compiled_in_place():
    model = network()
    model.compile(backend="eager")
    with torch.no_grad():
        model(X)
    return model


def compiled_inside():
    model = network()
    model[0], model[2] = (torch.compile(model[i], backend="eager") for i in (0, 2))
    with torch.no_grad():
        model(X)
    return model


WRAPPED = {
    "torch.compile": lambda: torch.compile(network(), backend="eager"),
    "Module.compile": compiled_in_place,
    "layers of it": compiled_inside,
    "DataParallel": lambda: nn.DataParallel(network()),
    "both": lambda: torch.compile(nn.DataParallel(network()), backend="eager"),
    "a traced graph of modules": lambda: torch.fx.symbolic_trace(network()),
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=list(WRAPPED))
def test_a_wrapped_model_gives_what_the_model_gives(wrap):
    plain, wrapped = ol.Classifier(network()), ol.Classifier(wrap())
    for _ in range(2):
        assert torch.equal(wrapped(X).features, plain(X).features)
        assert torch.equal(wrapped(X).logits, plain(X).logits)
    assert (wrapped.head_name, wrapped.head.fingerprint) == (plain.head_name, plain.head.fingerprint)


@torch.no_grad()
def test_compiled_code_runs_compiled_again_after_a_pass():
    runs = []

    def backend(graph, _inputs):
        return lambda *args: runs.append(1) or graph.forward(*args)

    model = nn.Sequential(torch.compile(nn.Linear(4, 8), backend=backend), nn.Linear(8, 3))
    model(X)
    before = len(runs)
    with uncompiled(model), uncompiled(model):
        model(X)
    assert len(runs) == before
    model(X)
    assert len(runs) == before + 1


def quantized():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(network(), {nn.Linear})


def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(network(), X)


REFUSED = {
    "TorchScript": (scripted, "the model is TorchScript: its features cannot be read. Pass the nn.Module"),
    "an exported program": (lambda: torch.export.export(network(), (X,)), "is an exported program"),
    "the module of one": (lambda: torch.export.export(network(), (X,)).module(), "is an exported program"),
    "int8": (quantized, r"'2' is a Linear, whose weight is kept as integers \(int8\)"),
    "meta": (lambda: network().to("meta"), "on the device 'meta', which holds no numbers"),
    "a function": (lambda: torch.relu, "model must be a torch.nn.Module; got builtin_function_or_method"),
}


@pytest.mark.parametrize(("build", "message"), REFUSED.values(), ids=list(REFUSED))
def test_what_cannot_be_listened_to_says_so(build, message):
    with pytest.raises(HeadError, match=message):
        ol.Classifier(build())
