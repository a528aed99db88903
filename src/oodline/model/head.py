"""The head of a classifier: the layer that maps penultimate features to logits.

Most post-hoc detectors read the weight of the last linear layer, so it is found once, as plain tensors, and handed to
them inside `Activations`. A head is a small record that shares its tensors with the model and is built anew for
every pass: it can never be stale after `model.to(...)` or a weight update.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from oodline._util.digests import digest
from oodline.errors import HeadError
from oodline.model.head_name import HeadName, Task, task_of
from oodline.model.linear_modules import Affine, affine_of, candidates, is_quantized
from oodline.model.no_head import NoHead
from oodline.model.reading import combined


@dataclass(frozen=True, eq=False)
class LinearHead:
    """One linear layer: `logits = features @ weight.T + bias`.

    Parameters
    ----------
    weight : Tensor (C, D)
        One row per class.
    bias : Tensor (C,)
        Zeros where the layer has none.
    name : str
        What the classifier calls it.

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
    name: str = ""

    def __call__(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """Logits (N, C) of features (N, D)."""
        return nn.functional.linear(features, self.weight, self.bias)

    @property
    def linear(self) -> LinearHead:
        """The layer that reads the features: this one."""
        return self

    @property
    def task(self) -> Task:
        """What the logits are of: classes of which each sample has one, or labels of which it has any number."""
        return task_of(self.name)

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
        return LinearHead(self.weight.to(like), self.bias.to(like), self.name)


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
    name : str
        What the classifier calls it.

    Raises
    ------
    HeadError
        On `num_classes`: the layers do not turn a row of features into a row of logits.

    Examples
    --------
    >>> head = LayeredHead(LinearHead(torch.eye(2), torch.zeros(2)), nn.ReLU())
    >>> head(torch.tensor([[1.0, -2.0]])), head.num_classes
    (tensor([[1., 0.]]), 2)
    """

    first: LinearHead
    rest: nn.Module
    name: str = ""

    def __call__(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """Logits (N, C) of features (N, D)."""
        return self.finish(self.first(features))

    @property
    def linear(self) -> LinearHead:
        """The layer that reads the features."""
        return self.first

    @property
    def task(self) -> Task:
        """What the logits are of: classes of which each sample has one, or labels of which it has any number."""
        return task_of(self.name)

    @property
    def device(self) -> torch.device:
        """Where it lives."""
        return self.first.device

    def finish(self, hidden: Float[Tensor, "n h"]) -> Float[Tensor, "n c"]:
        """Logits from the output (N, H) of the first layer."""
        return self._rest(hidden)

    def _rest(self, hidden: Tensor) -> Tensor:
        dtype = next((p.dtype for p in self.rest.parameters()), hidden.dtype)
        return cast(Tensor, self.rest(hidden.to(dtype))).to(hidden.dtype)

    @cached_property
    def num_classes(self) -> int:
        """Number of logits C, which one row of zeros through the layers shows."""
        row = self.first.weight.new_zeros(1, self.num_features)
        try:
            with torch.no_grad():
                logits = self._rest(self.first(row))
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise HeadError(f"the head '{self.name}' fails on one row of features: {error}") from error
        if logits.ndim != 2 or len(logits) != 1:
            raise HeadError(
                f"the head '{self.name}' must return (N, C) for N rows of features; got {tuple(logits.shape)} for one."
            )
        return logits.shape[1]

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
        return LayeredHead(self.first.to(like), self.rest, self.name)


Head = LinearHead | LayeredHead | NoHead

BETWEEN = (nn.Dropout, nn.Dropout2d, nn.Flatten, nn.Identity, nn.AdaptiveAvgPool2d, nn.AvgPool2d)
"""What may follow a convolution that is the head."""


@dataclass(frozen=True)
class HeadInfo:
    """What is remembered of the head that something was fitted on: sizes, fingerprint and name."""

    num_classes: int
    num_features: int
    fingerprint: str
    name: str = field(default="", compare=False)

    @property
    def task(self) -> Task:
        """What the logits are of: classes of which each sample has one, or labels of which it has any number."""
        return task_of(self.name)

    @classmethod
    def of(cls, head: Head) -> HeadInfo:
        """Describe `head`."""
        return cls(head.num_classes, head.num_features, head.fingerprint, head.name)


def find_head(model: nn.Module, name: str | None = None, *, windows: bool = False) -> str:
    """Name of what seems to be the head of `model`: a first guess, which the first pass proves or corrects.

    Without `name`: what timm states in `pretrained_cfg["classifier"]`, the mean where it states several, else the last
    linear layer, else the last 1x1 convolution.

    Parameters
    ----------
    model : nn.Module
        A classifier.
    name : str, optional
        A module name: a linear layer, a 1x1 convolution, or an `nn.Sequential` of several layers that begins with a
        linear one. Or a sum of such, `0.5*head + 0.5*head_dist`, with `binary(...)` around it where one logit stands
        for two, or `multilabel(...)` where each logit is that of a label of its own.
    windows : bool
        A convolution that reads a window around each place may be named, too.

    Raises
    ------
    HeadError
        No head, or a module that cannot serve as one; the message lists the candidates.

    Examples
    --------
    >>> find_head(nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)))
    '3'
    """
    modules = dict(model.named_modules())
    if name is not None:
        parsed = HeadName.parse(name, modules)
        if parsed is None:
            raise HeadError(
                f"`head` must be a module's name, or a sum such as '0.5*head + 0.5*head_dist' with factors other than "
                f"0; got {name!r}. {candidates(model)}"
            )
        for part in parsed.names:
            if part not in modules:
                raise HeadError(f"{type(model).__name__} has no module named '{part}'. {candidates(model)}")
            if not windows and (affine := affine_of(modules[part])) is not None and affine.window is not None:
                raise _no_head(part, modules[part])
        head_of(model, parsed)
        return str(parsed)
    stated = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or ()
    stated = (stated,) if isinstance(stated, str) else stated
    inside = [_last(modules[part], part) if part in modules else None for part in stated]
    if inside and None not in inside:
        return str(HeadName(tuple((1 / len(inside), str(part)) for part in inside)))
    layer = _last(model, "")
    if layer is None:
        raise HeadError(f"{type(model).__name__} has no nn.Linear to serve as head. {candidates(model)}")
    return layer


def _last(module: nn.Module, prefix: str) -> str | None:
    """The last linear layer in a module; without any, a 1x1 convolution that nothing but pooling follows."""
    children = [(name, child) for name, child in module.named_modules() if not name.endswith("._orig_mod")]
    found = [(name, child, affine_of(child)) for name, child in children]
    names = [name for name, child, affine in found if is_quantized(child) or (affine and affine.channel == -1)]
    if not names:
        leaves = [(name, child, affine) for name, child, affine in found if next(child.children(), None) is None]
        last = next((one for one in reversed(leaves) if not isinstance(one[1], BETWEEN)), None)
        names = [last[0]] if last and last[2] and last[2].window is None else []
    return ".".join(part for part in (prefix, names[-1]) if part) if names else None


def head_of(model: nn.Module, name: HeadName, *, detach: bool = True) -> LinearHead | LayeredHead:
    """The head as a record that shares its tensors with the model, where it is one module; see `read_head`."""
    first = read_head(model.get_submodule(name.names[0]), name.names[0], detach=detach)
    if name.single and not name.binary:
        return replace(first, name=str(name))
    affines = [affine_of(model.get_submodule(part), detach=detach) for part in name.names]
    for part, affine in zip(name.names, affines, strict=True):
        if affine is None:
            raise HeadError(f"'{part}' is several layers, and cannot be a part of '{name}': name its last one.")
    made = combined([affine for affine in affines if affine], name)
    if name.binary:
        if len(made.weight) != 1:
            raise HeadError(
                f"binary=True is for a model of one logit, and '{name.names[0]}' has {len(made.weight)}: leave it out."
            )
        made = Affine(nn.functional.pad(made.weight, (0, 0, 1, 0)), nn.functional.pad(made.bias, (1, 0)))
    return LinearHead(made.weight, made.bias, str(name))


def read_head(module: nn.Module, name: str, *, detach: bool = True) -> LinearHead | LayeredHead:
    """The head as a record that shares its tensors with `module`; without `detach`, gradients flow to its weights."""
    if (affine := affine_of(module, detach=detach)) is not None:
        if affine.weight.is_meta:
            raise HeadError(
                f"the weight of '{name}' is on the device 'meta', which holds no numbers. Load the weights."
            )
        return LinearHead(affine.weight, affine.bias)
    if is_quantized(module):
        raise HeadError(
            f"'{name}' is a {type(module).__name__}, whose weight is kept as integers (int8): it rounds its input too, "
            "and is not W f + b. Fit and score with the model as it was before quantisation."
        )
    if isinstance(module, nn.Sequential):
        layers = list(module)
        while layers and isinstance(layers[0], nn.Dropout | nn.Identity | nn.Flatten):
            layers.pop(0)  # they change nothing in evaluation mode on features of two dimensions
        if layers and (affine := affine_of(layers[0], detach=detach)) is not None and affine.channel == -1:
            first = LinearHead(affine.weight, affine.bias)
            if len(layers) == 1:
                return first
            return LayeredHead(first, _evaluation_view(nn.Sequential(*layers[1:])), name)
    raise _no_head(name, module)


def _no_head(name: str, module: nn.Module) -> HeadError:
    return HeadError(
        f"'{name}' is a {type(module).__name__} and cannot serve as head: it must be a linear layer, a 1x1 "
        "convolution, or an nn.Sequential that begins with a linear layer."
    )


def _evaluation_view(module: nn.Module) -> nn.Module:
    # a head is also called between passes, when the model may be training: modules of our own, the model's tensors
    view = copy.copy(module)
    view._modules = {name: child and _evaluation_view(child) for name, child in module._modules.items()}
    view.training = False
    return view


def _fingerprint(tensors: list[Tensor]) -> str:
    return digest(
        *(part for tensor in tensors for part in (repr(tuple(tensor.shape)), tensor.to("cpu", torch.float32)))
    )
