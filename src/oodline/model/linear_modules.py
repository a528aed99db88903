"""Find modules that may compute `W f + b`, by the shapes of their tensors; comparing values decides later.

A candidate has a weight of two dimensions, or is a convolution of size 1: no list of classes could name every
library's own `Linear`. transformers' `Conv1D` keeps its weight transposed. A convolution of another size is linear in
the windows that it reads.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

NOT_LINEAR = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)
"""Have a weight that may have two dimensions, and multiply no features by it."""


@dataclass(frozen=True, eq=False)
class Affine:
    """The tensors of `W f + b`, shared with their module.

    Parameters
    ----------
    weight : Tensor (C, D)
        One row per output.
    bias : Tensor (C,)
        Zeros where the module has none.
    channel : int
        Which dimension of the module's input holds the D features: the last, or 1 for a convolution.
    window : nn.Conv2d, optional
        The convolution, where it reads a window around each place: the features are then those of the window.
    """

    weight: Tensor
    bias: Tensor
    channel: int = -1
    window: nn.Conv2d | None = None

    def windows(self, values: Tensor) -> Tensor:
        """Inputs of the module with the features of a place as channels (N, D, H, W): what it reads, window by window.

        Examples
        --------
        >>> import torch
        >>> conv, x = nn.Conv2d(2, 3, 3, padding=1), torch.randn(1, 2, 5, 5)
        >>> affine = affine_of(conv)
        >>> made = affine(affine.windows(x).flatten(2).mT)
        >>> torch.allclose(made, conv(x).flatten(2).mT, atol=1e-6)
        True
        """
        conv = self.window
        if conv is None or values.ndim != 4 or values.shape[1] != conv.in_channels:
            return values
        # left, right, above and below: what forward pads, whether given as numbers or as "same"
        around = conv._reversed_padding_repeated_twice
        spans = [step * (size - 1) for step, size in zip(conv.dilation, conv.kernel_size, strict=True)]
        height = values.shape[2] + around[2] + around[3] - spans[0]
        width = values.shape[3] + around[0] + around[1] - spans[1]
        padded = nn.functional.pad(values, around)
        found: Tensor = nn.functional.unfold(padded, conv.kernel_size, dilation=conv.dilation)
        return found.reshape(*found.shape[:2], height, width)

    def places(self, values: Tensor, rows: int) -> Tensor | None:
        """Inputs or outputs of the module as (rows, places, D or C); None where they cannot be laid out so."""
        if values.ndim < 2:
            return None
        if self.channel == 1 and values.ndim > 2:
            values = values.flatten(2).transpose(1, 2)
        if values.shape[0] != rows and (values.shape[0] < rows or values.shape[0] % rows):  # rows times crops is fine
            return None
        return values.reshape(rows, -1, values.shape[-1])

    def __call__(self, values: Tensor) -> Tensor:
        """Compute `W f + b` over the last dimension."""
        return nn.functional.linear(values, self.weight.to(values), self.bias.to(values))


def affine_of(module: nn.Module, *, detach: bool = True) -> Affine | None:
    """The tensors of a module that may be `W f + b`, of each window for a convolution; None where it cannot be.

    With `detach` false, gradients flow through them to the module's parameters.

    Examples
    --------
    >>> affine_of(nn.Conv2d(4, 3, 1)).weight.shape, affine_of(nn.Conv2d(4, 3, 3)).weight.shape, affine_of(nn.ReLU())
    (torch.Size([3, 4]), torch.Size([3, 36]), None)
    """
    weight = _tensor(module, "weight")
    if isinstance(module, NOT_LINEAR) or weight is None or not weight.is_floating_point() or weight.ndim < 2:
        return None
    if any(size != 1 for size in weight.shape[2:]):
        return _of_windows(module, weight)
    if getattr(module, "groups", 1) != 1:
        return None
    if any(step not in (0, 1, "valid", "same") for step in _steps(module)):
        return None
    bias = _tensor(module, "bias")
    if detach:
        weight, bias = weight.detach(), None if bias is None else bias.detach()
    matrix, channel = weight.flatten(1), -1 if weight.ndim == 2 else 1
    if bias is not None and bias.numel() not in matrix.shape:
        return None
    if _transposed(module, matrix, bias):
        matrix = matrix.T
    return Affine(matrix, matrix.new_zeros(len(matrix)) if bias is None else bias.flatten(), channel)


def linear_names(model: nn.Module, *, windows: bool = False) -> Iterator[tuple[str, Affine]]:
    """Names and tensors of all modules that may be linear, in the model's order; those of windows, if asked to.

    Examples
    --------
    >>> [name for name, _ in linear_names(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)))]
    ['0', '2']
    """
    for name, module in model.named_modules():
        # the inside of a compiled module has the weight of its outside
        affine = None if name.endswith("._orig_mod") else affine_of(module)
        if affine is not None and (windows or affine.window is None):
            yield name, affine


def is_quantized(module: nn.Module) -> bool:
    """Whether the module keeps its weight as integers.

    Examples
    --------
    >>> is_quantized(nn.Linear(2, 2))
    False
    """
    weight = getattr(module, "weight", None)
    if callable(weight) and not isinstance(weight, Tensor):
        return "quantized" in type(module).__module__
    if not isinstance(weight, Tensor) or is_lazy(weight):
        return False
    return weight.is_quantized or not (weight.is_floating_point() or weight.is_complex())


def candidates(model: nn.Module, classes: int | None = None, *, but: Container[str] = (), most: int = 5) -> str:
    """Say in a sentence which modules could be named as head, the last ones first.

    Parameters
    ----------
    model : nn.Module
        Where to look.
    classes : int, optional
        Outputs that a head must have, where they are known.
    but : container of str
        Those that were refused.
    most : int
        How many to name.
    """
    layers = [
        f"'{name}' ({type(model.get_submodule(name)).__name__} {affine.weight.shape[1]} -> {affine.weight.shape[0]})"
        for name, affine in linear_names(model)
        if name not in but and classes in (None, affine.weight.shape[0])
    ][::-1]
    if not layers:
        if classes is None and not but:
            return (
                "It has no linear layer and no 1x1 convolution at all: oodline needs a classifier with a linear head."
            )
        of = "" if classes is None else f" of {classes} outputs"
        return f"It has no{' other' if but else ''} linear layer{of}: oodline needs a classifier with a linear head."
    more = f" and {len(layers) - most} earlier ones" if len(layers) > most else ""
    return (
        f"Candidates: {', '.join(layers[:most])}{more}. "
        "Pass the one whose output is the logits: Classifier(model, head='NAME'), or --head NAME."
    )


def _tensor(module: nn.Module, name: str) -> Tensor | None:
    found = getattr(module, name, None)
    return found if isinstance(found, Tensor) and not is_lazy(found) and not found.is_quantized else None


def _of_windows(module: nn.Module, weight: Tensor) -> Affine | None:
    if not isinstance(module, nn.Conv2d) or module.groups != 1 or module.padding_mode != "zeros":
        return None
    if any(step != 1 for step in module.stride):
        return None
    bias, matrix = _tensor(module, "bias"), weight.detach().flatten(1)
    return Affine(matrix, matrix.new_zeros(len(matrix)) if bias is None else bias.detach(), 1, module)


def _steps(module: nn.Module) -> Iterator[Any]:
    # a convolution that skips or adds places is not a map from each place to itself
    for name, plain in (("stride", 1), ("padding", 0)):
        value = getattr(module, name, plain) if isinstance(module, nn.modules.conv._ConvNd) else plain
        for step in value if isinstance(value, tuple) else (value,):
            yield step if isinstance(step, str) else 0 if step == plain else 2


def _transposed(module: nn.Module, weight: Tensor, bias: Tensor | None) -> bool:
    inputs, outputs = getattr(module, "nx", None), getattr(module, "nf", None)  # as transformers' Conv1D has it
    inputs, outputs = getattr(module, "in_features", inputs), getattr(module, "out_features", outputs)
    if isinstance(outputs, int) and weight.shape[0] != weight.shape[1]:
        return outputs == weight.shape[1] and inputs in (None, weight.shape[0])
    if weight.shape[0] == weight.shape[1]:
        return getattr(module, "nf", None) == weight.shape[1] and not isinstance(module, nn.Linear)
    return bias is not None and bias.numel() == weight.shape[1]
