"""Layers of a network as a detector reads them: one row per sample, made in the forward hook.

Maps and tokens are reduced as soon as a module returns them, so no pass holds whole maps longer than the module that
made them takes, and statistics of any number of samples are statistics of vectors.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from oodline.errors import HeadError
from oodline.model.reading import at_least_float32

if TYPE_CHECKING:
    from oodline.model.activations import Activations

Pool = Literal["mean", "mean-std", "cls"]
"""The mean of each channel over space or tokens; beside it the standard deviation; or the first token."""


@dataclass(frozen=True)
class LayerReading(abc.ABC):
    """What is read of the output of one module: a vector per sample. Equal readings are made once in a pass.

    It may stand wherever a layer is named (`Detector.layers`, `Classifier(...)(inputs, layers=...)`), and is a source
    of statistics, such as `Covariance(PooledLayer("layer1"))`.

    Parameters
    ----------
    module : str
        Name of the module, as `model.named_modules()` has it.
    """

    module: str

    @abc.abstractmethod
    def read(self, output: Tensor, module: nn.Module, mask: Tensor | None = None) -> Float[Tensor, "n k"]:
        """Vectors (N, K) of what the module returned, sharing no memory with it; called in the forward hook.

        Parameters
        ----------
        output : Tensor (N, ...)
            In at least single precision.
        module : nn.Module
            That returned it.
        mask : Tensor (N, T), optional
            Which tokens are not padding, where the inputs say so.
        """

    def __call__(self, activations: Activations, groups: Int[Tensor, " n"]) -> Float[Tensor, "n k"]:
        """The vectors of a pass that was made for it."""
        return activations.layers[self]

    def __str__(self) -> str:
        return self.module

    def heard(self, output: Any, module: nn.Module, mask: Tensor | None = None) -> Tensor:
        """Read the tensor that a module returned, or the first of several, as blocks of transformers return them.

        Raises
        ------
        HeadError
            There is no tensor of one row per sample and at least one number in it.
        """
        first = output[0] if isinstance(output, tuple | list) and output else output
        if not isinstance(first, Tensor) or first.ndim < 2:
            what = f"a tensor of shape {tuple(first.shape)}" if isinstance(first, Tensor) else type(first).__name__
            raise HeadError(f"the layer '{self.module}' returns {what}; name one that returns a tensor (N, ...).")
        return self.read(at_least_float32(first), module, mask)


@dataclass(frozen=True)
class PooledLayer(LayerReading):
    """The output of a module, pooled to a mean, mean and standard deviation, or first token; see `pooled`.

    Parameters
    ----------
    module : str
        Name of the module.
    pool : {"mean", "mean-std", "cls"}
        How.

    Examples
    --------
    >>> from oodline import Classifier
    >>> classifier = Classifier(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2)))
    >>> layer = PooledLayer("1", "mean-std")
    >>> classifier(torch.ones(5, 3, 4, 4), layers=[layer]).layers[layer].shape
    torch.Size([5, 16])
    """

    pool: Pool = "mean"

    def read(self, output: Tensor, module: nn.Module, mask: Tensor | None = None) -> Float[Tensor, "n k"]:
        """The pooled output."""
        try:
            return pooled(output, self.pool, module=module, mask=mask)
        except HeadError as error:
            raise HeadError(f"the layer '{self.module}': {error}") from error


def pooled(
    output: Tensor, pool: Pool = "mean", *, module: nn.Module | None = None, mask: Tensor | None = None
) -> Float[Tensor, "n k"]:
    """One vector per sample of what a module returned: K = C channels, or 2 C with their standard deviations.

    Vectors (N, C) stay as they are. Tokens (N, T, C) have their channels last; where a mask says which are padding, the
    others count. Maps have them where `channel_axis` says.

    Parameters
    ----------
    output : Tensor (N, C), (N, T, C) or (N, ..., C, ...)
        In at least single precision.
    pool : {"mean", "mean-std", "cls"}
        Mean of each channel over all places; that and their (population) standard deviation; or the first token.
    module : nn.Module, optional
        That returned it; its layers' sizes tell which axis holds the channels.
    mask : Tensor (N, T), optional
        Nonzero where a token is not padding.

    Raises
    ------
    HeadError
        "cls" of something that is not tokens.

    Examples
    --------
    >>> maps = torch.tensor([[[[1.0, 3.0], [1.0, 3.0]]]])
    >>> pooled(maps, "mean-std")
    tensor([[2., 1.]])
    >>> pooled(torch.arange(6.0).reshape(1, 3, 2), "cls")
    tensor([[0., 1.]])
    """
    if output.ndim == 2:
        return output.clone()
    if pool == "cls":
        if output.ndim != 3:
            raise HeadError(
                f"an output of shape {tuple(output.shape)} has no first token; tokens are (N, T, C). Take pool='mean'."
            )
        return output[:, 0].clone()
    places = output.movedim(channel_axis(output, module), -1).flatten(1, -2)
    if mask is not None and output.ndim == 3 and mask.shape[1:] == output.shape[1:2]:
        weight = mask.to(output).unsqueeze(2)
        weight = weight / weight.sum(1, keepdim=True).clamp(min=1)
    else:
        weight = places.new_full((), 1 / places.shape[1])
    mean = (places * weight).sum(1) if weight.ndim else places.mean(1)
    if pool == "mean":
        return mean
    variance = ((places - mean.unsqueeze(1)).square() * weight).sum(1)
    return torch.cat([mean, variance.sqrt()], dim=1)


def channel_axis(output: Tensor, module: nn.Module | None = None) -> int:
    """Which axis of an output holds the channels: 1, or the last.

    Of tokens (N, T, C) it is the last. Of maps, (N, C, H, W) or with channels last as in Swin transformers, it is the
    one of axis 1 and the last whose size is that of a layer of the module (of a normalisation, convolution or linear
    layer). Where that fits both or neither, it is the last if all the others are equal and it differs, as of a square
    image with channels last; else it is axis 1.

    Examples
    --------
    >>> channel_axis(torch.empty(2, 96, 7, 7)), channel_axis(torch.empty(2, 7, 7, 96))
    (1, 3)
    >>> channel_axis(torch.empty(2, 8, 8, 5), nn.Conv2d(3, 8, 1))
    1
    >>> channel_axis(torch.empty(2, 6, 4, 8), nn.LayerNorm(8))
    3
    """
    last = output.ndim - 1
    if output.ndim == 3:
        return last
    first, *between, final = output.shape[1:]
    sizes = set() if module is None else set().union(*(_widths(layer) for layer in module.modules()))
    if (first in sizes) != (final in sizes):
        return 1 if first in sizes else last
    return last if all(size == first for size in between) and final != first else 1


def _widths(layer: nn.Module) -> set[int]:
    names = ("out_features", "out_channels", "num_features", "num_channels")
    found = {value for name in names if isinstance(value := getattr(layer, name, None), int)}
    shape = getattr(layer, "normalized_shape", ())
    return found | ({int(shape[-1])} if isinstance(shape, tuple | torch.Size) and shape else set())


Layer = str | LayerReading
"""A module by name, whose whole output is read, or what is read of it."""


def layer_key(layer: Layer) -> str:
    """The name under which what is heard of a layer in a pass is kept."""
    return f"layer {layer}" if isinstance(layer, str) else f"layer {layer!r}"
