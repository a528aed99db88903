"""The head of a classifier: what maps penultimate features to logits.

Most post-hoc detectors read the weight of the last linear layer, so it is found once, as plain tensors, and handed to
them inside `Activations`. A head is a small record that shares its tensors with the model and is built anew for
every pass: it can never be stale after `model.to(...)` or a weight update.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from oodline.errors import HeadError
from oodline.model.no_head import NoHead


@dataclass(frozen=True, eq=False)
class LinearHead:
    """One linear layer: `logits = features @ weight.T + bias`.

    Parameters
    ----------
    weight : Tensor (C, D)
        One row a class.
    bias : Tensor (C,)
        Zeros where the layer has none.

    Examples
    --------
    >>> head = LinearHead(torch.eye(2, 3), torch.zeros(2))
    >>> head.num_classes, head.num_features
    (2, 3)
    >>> head(torch.tensor([[1.0, 2.0, 3.0]]))
    tensor([[1., 2.]])
    """

    weight: Float[Tensor, "c d"]
    bias: Float[Tensor, " c"]

    def __call__(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """Logits (N, C) of features (N, D)."""
        return nn.functional.linear(features, self.weight, self.bias)

    @property
    def linear(self) -> LinearHead:
        """The layer that reads the features: this one."""
        return self

    @property
    def device(self) -> torch.device:
        """Where it lives."""
        return self.weight.device

    def finish(self, hidden: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        """What follows the first layer: nothing."""
        return hidden

    @property
    def num_classes(self) -> int:
        """Number of logits C."""
        return self.weight.shape[0]

    @property
    def num_features(self) -> int:
        """Number of penultimate features D."""
        return self.weight.shape[1]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of shape and values (as float32), by which a saved detector knows the classifier it was fitted on."""
        return _fingerprint([self.weight, self.bias])

    def to(self, like: Tensor) -> LinearHead:
        """Return the same head on the device and in the dtype of `like`; itself where it already is."""
        if self.weight.device == like.device and self.weight.dtype == like.dtype:
            return self
        return LinearHead(self.weight.to(like), self.bias.to(like))


@dataclass(frozen=True, eq=False)
class LayeredHead:
    """A head of several layers that begins with a linear one: `logits = rest(first(features))`.

    Detectors that need the one matrix between features and logits refuse it; LINe and those that only need to turn
    changed features into logits take it.

    Parameters
    ----------
    first : LinearHead
        The layer that reads the features; its `num_classes` is the width of the hidden layer.
    rest : nn.Module
        Everything after it, in evaluation mode.
    num_classes : int
        Number of logits C.

    Examples
    --------
    >>> head = LayeredHead(LinearHead(torch.eye(2), torch.zeros(2)), nn.ReLU(), num_classes=2)
    >>> head(torch.tensor([[1.0, -2.0]]))
    tensor([[1., 0.]])
    """

    first: LinearHead
    rest: nn.Module
    num_classes: int

    def __call__(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """Logits (N, C) of features (N, D)."""
        return self.finish(self.first(features))

    @property
    def linear(self) -> LinearHead:
        """The layer that reads the features."""
        return self.first

    @property
    def device(self) -> torch.device:
        """Where it lives."""
        return self.first.device

    def finish(self, hidden: Float[Tensor, "n h"]) -> Float[Tensor, "n c"]:
        """Logits from the output (N, H) of the first layer."""
        dtype = next((p.dtype for p in self.rest.parameters()), hidden.dtype)
        return cast(Tensor, self.rest(hidden.to(dtype))).to(hidden.dtype)

    @property
    def num_features(self) -> int:
        """Number of features D that the first layer reads."""
        return self.first.num_features

    @property
    def fingerprint(self) -> str:
        """SHA-256 of shapes and values of all layers."""
        return _fingerprint([self.first.weight, self.first.bias, *self.rest.state_dict().values()])

    def to(self, like: Tensor) -> LayeredHead:
        """Return the same head with its first layer in the dtype and on the device of `like`."""
        return LayeredHead(self.first.to(like), self.rest, self.num_classes)


Head = LinearHead | LayeredHead | NoHead


@dataclass(frozen=True)
class HeadInfo:
    """What is remembered of the head that something was fitted on: sizes and fingerprint."""

    num_classes: int
    num_features: int
    fingerprint: str

    @classmethod
    def of(cls, head: Head) -> HeadInfo:
        """Describe `head`."""
        return cls(head.num_classes, head.num_features, head.fingerprint)


def find_head(model: nn.Module, name: str | None = None) -> str:
    """Name of the module that is the head of `model`.

    Without `name`: what timm states in `pretrained_cfg["classifier"]`, else the last `nn.Linear`. Whether its output
    really is the logits is checked on every pass, since only a pass can tell.

    Parameters
    ----------
    model : nn.Module
        A classifier.
    name : str, optional
        A module name: an `nn.Linear`, a 1x1 `nn.Conv2d` applied after pooling, or an `nn.Sequential` of several
        layers that begins with a linear one.

    Raises
    ------
    HeadError
        No head, several heads, or a module that cannot serve as one; the message lists the candidates.

    Examples
    --------
    >>> find_head(nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)))
    '3'
    """
    if name is not None:
        modules = dict(model.named_modules())
        if name not in modules:
            raise HeadError(f"{type(model).__name__} has no module named '{name}'. {candidates(model)}")
        read_head(modules[name], name, num_classes=0)
        return name
    stated = (getattr(model, "pretrained_cfg", None) or {}).get("classifier")
    if isinstance(stated, tuple | list):
        raise HeadError(
            f"{type(model).__name__} has {len(stated)} heads ({', '.join(stated)}), and its logits are made of all of "
            f"them. Build it with one head, or pass head= if you run it with one. {candidates(model)}"
        )
    if stated and isinstance(dict(model.named_modules()).get(stated), nn.Linear):
        return str(stated)
    linear: list[str] = [n for n, m in model.named_modules() if _is_linear(m)]
    if not linear:
        raise HeadError(f"{type(model).__name__} has no nn.Linear to serve as head. {candidates(model)}")
    return linear[-1]


def read_head(module: nn.Module, name: str, num_classes: int) -> Head:
    """The head as a record that shares its tensors with `module`.

    `num_classes` is the number of logits that the model returns; only a `LayeredHead` needs to be told.
    """
    if _is_linear(module) or _is_pointwise(module):
        layer = cast(nn.Linear, module)
        weight = layer.weight.detach().flatten(1)
        bias = weight.new_zeros(weight.shape[0]) if layer.bias is None else layer.bias.detach()
        return LinearHead(weight, bias)
    if isinstance(module, nn.Sequential):
        layers = list(module)
        while layers and isinstance(layers[0], nn.Dropout | nn.Identity | nn.Flatten):
            layers.pop(0)  # they change nothing in evaluation mode on features of two dimensions
        if layers and _is_linear(layers[0]):
            first = cast(LinearHead, read_head(layers[0], name, 0))
            if len(layers) == 1:
                return first
            return LayeredHead(first, _evaluation_view(nn.Sequential(*layers[1:])), num_classes)
    raise HeadError(
        f"'{name}' is a {type(module).__name__} and cannot serve as head: it must be an nn.Linear, a 1x1 nn.Conv2d "
        "after pooling, or an nn.Sequential that begins with an nn.Linear."
    )


def _evaluation_view(module: nn.Module) -> nn.Module:
    # a head is also called between passes, when the model may be training: modules of our own, the model's tensors
    view = copy.copy(module)
    view._modules = {name: child and _evaluation_view(child) for name, child in module._modules.items()}
    view.training = False
    return view


def candidates(model: nn.Module, most: int = 5) -> str:
    """Say in a sentence which modules could be named as head, the last ones first."""
    found = list(_candidates(model))[::-1]
    if not found:
        return "It has no linear layer and no 1x1 convolution at all: oodline needs a classifier with a linear head."
    more = f" and {len(found) - most} earlier ones" if len(found) > most else ""
    return (
        f"Candidates: {', '.join(found[:most])}{more}. "
        "Pass the one whose output is the logits: Classifier(model, head='NAME'), or --head NAME."
    )


def _candidates(model: nn.Module) -> Iterator[str]:
    for name, module in model.named_modules():
        if _is_linear(module) or _is_pointwise(module):
            weight = cast(nn.Linear, module).weight
            yield f"'{name}' ({type(module).__name__} {weight.shape[1]} -> {weight.shape[0]})"


def _is_linear(module: nn.Module) -> bool:
    # a subclass with a forward of its own (cosine heads, adapters) is not W f + b
    return isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward


def _is_pointwise(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and module.stride == (1, 1)
        and module.padding in ((0, 0), "valid", "same")
        and module.groups == 1
    )


def _fingerprint(tensors: list[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        values = tensor.detach().to("cpu", torch.float32).contiguous()
        digest.update(repr(tuple(values.shape)).encode())
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()
