"""Rows of segmentation networks: one per pixel of the head's map."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Int
from torch import Tensor, nn

from oodline._util.checked import checked_fields
from oodline._util.ranges import Range, Share
from oodline.data.batch import Inputs
from oodline.errors import ExportError, HeadError, LabelError
from oodline.model.agreement import precision
from oodline.model.linear_modules import affine_of
from oodline.model.outputs import tensors_of
from oodline.model.rows.per_input import Lowest
from oodline.model.rows.placed import PlacedRows, Returned

RESIZED = (("bilinear", False), ("bilinear", True), ("nearest", None), ("bicubic", False))
"""How models bring the map of their head to the size of the image."""


@checked_fields
@dataclass(frozen=True)
class Pixels(PlacedRows):
    """One row per pixel of the map that a segmentation network's head returns.

    The head is a convolution, a linear layer on patches, or a sum of such. Where the model brings its map to the
    size of the image afterwards, the rows are the pixels of the map itself, at the head's resolution.

    Parameters
    ----------
    region : float
        Share of an image's pixels that must be flagged together before the image is: the score of an image is that of
        its pixel at this rank.
    fit_share : float
        Share of the pixels that detectors are fitted on, chosen by a hash of their positions.
    ignore : int
        Label of pixels that are left out of fitting.

    Examples
    --------
    >>> from oodline.model.rows.row_classifier import RowClassifier
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    >>> activations = RowClassifier(model, Pixels())(torch.randn(2, 3, 5, 6))
    >>> activations.features.shape, activations.places.maps(activations.predicted).shape
    (torch.Size([60, 8]), torch.Size([2, 5, 6]))
    """

    region: Share = 0.01
    fit_share: Annotated[float, Range(0, 1, above=True)] = 0.05
    ignore: int = 255

    name: ClassVar = "pixels"
    unit: ClassVar = "pixel"

    @property
    def per_input(self) -> Lowest:  # type: ignore[override]
        """The score at the rank of the smallest region that counts."""
        return Lowest(share=self.region)

    def returned(self, model: nn.Module, output: Any, inputs: Inputs, heads: Mapping[str, Tensor]) -> Returned:
        """The pixels of the head's map."""
        whole = map_of(model, output)
        height, width = whole.shape[2:]
        if not heads or any(_size(value, whole) == (height, width) for value in heads.values()):
            return Returned(whole.flatten(2).transpose(1, 2), (height, width))
        maps = [made for name, value in heads.items() if (made := _as_map(model, name, value, whole)) is not None]
        for one in _sums(maps):
            if is_resized(one, whole):
                return Returned(one.flatten(2).transpose(1, 2), (one.shape[2], one.shape[3]))
        return Returned(whole.flatten(2).transpose(1, 2), (height, width))

    def grid_of(self, output: Tensor, inputs: Inputs) -> tuple[int, ...]:
        """Height and width of the head's map; of patches in rows, those of the image's aspect."""
        if output.ndim == 4:
            return (output.shape[2], output.shape[3])
        image = next((v for v in tensors_of(inputs) if v.ndim == 4), None)
        height = None if image is None else _height(output.shape[1], image)
        if height is None:
            raise ExportError("the head returns patches whose height and width the size of the input does not tell.")
        return (height, output.shape[1] // height)

    def labels(self, labels: Tensor, grid: tuple[int, ...], inputs: int) -> Int[Tensor, "n p"]:
        """The label at the middle of each pixel of the map."""
        labels = self._masks(labels, inputs)
        if tuple(labels.shape[1:]) != grid:
            resized = nn.functional.interpolate(labels.unsqueeze(1).double(), grid, mode="nearest-exact")
            labels = resized.squeeze(1).long()
        return torch.where(labels == self.ignore, -1, labels).flatten(1)

    def marks(self, labels: Tensor, grid: tuple[int, ...], inputs: int) -> Int[Tensor, "n p 2"]:
        """How many pixels of the mask that are nearest to each pixel of the map are 0, and how many are 1."""
        labels = self._masks(labels, inputs)
        size = grid[0] * grid[1]
        place = torch.arange(size).reshape(1, 1, *grid).double()
        nearest = nn.functional.interpolate(place, labels.shape[1:], mode="nearest-exact").long().flatten()
        where = torch.arange(inputs).unsqueeze(1) * size + nearest
        marks = torch.stack([labels == 0, labels == 1], 3).long().flatten(0, 2)
        return (
            torch.zeros(inputs * size, 2, dtype=torch.int64)
            .index_add_(0, where.flatten(), marks)
            .reshape(inputs, size, 2)
        )

    @staticmethod
    def _masks(labels: Tensor, inputs: int) -> Int[Tensor, "n h w"]:
        if labels.ndim == 4 and labels.shape[1] == 1:
            labels = labels.squeeze(1)
        if labels.ndim != 3 or labels.shape[0] != inputs or labels.is_floating_point():
            raise LabelError(
                f"labels of pixels must be whole numbers (N, H, W), one map per image; got {labels.dtype} of shape "
                f"{tuple(labels.shape)}."
            )
        return labels.cpu().long()


def map_of(model: nn.Module, output: Any) -> Tensor:
    """The map of logits (N, C, H, W) that a segmentation network returned.

    Raises
    ------
    HeadError
        There is none.

    Examples
    --------
    >>> map_of(nn.Identity(), {"out": torch.ones(1, 21, 4, 4), "aux": torch.ones(1, 21, 4, 4)}).shape
    torch.Size([1, 21, 4, 4])
    """
    for name in ("logits", "out"):  # of transformers and of torchvision
        found = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(found, Tensor):
            output = found
            break
    if isinstance(output, tuple | list) and len(output) == 1:
        output = output[0]
    if not isinstance(output, Tensor) or output.ndim != 4:
        got = f"a tensor of shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise HeadError(
            f"{type(model).__name__} must return one map of logits (N, C, H, W), as it is or as 'out' or 'logits'; got "
            f"{got}. Wrap it so that it does."
        )
    return output


def is_resized(small: Tensor, whole: Tensor) -> bool:
    """Whether a map (N, C, h, w), brought to the size of another (N, C, H, W), is that one, up to rounding.

    Examples
    --------
    >>> small = torch.randn(1, 3, 4, 4)
    >>> is_resized(small, nn.functional.interpolate(small, (9, 9), mode="bilinear"))
    True
    """
    if small.shape[:2] != whole.shape[:2]:
        return False
    values, target = small.detach().float(), whole.detach().float()
    allowed = 32 * precision(small, whole) * target.abs().max()
    for mode, corners in RESIZED:
        made = nn.functional.interpolate(values, target.shape[2:], mode=mode, align_corners=corners)
        if bool((made - target).abs().max() <= allowed):
            return True
    return False


def _size(value: Tensor, whole: Tensor) -> tuple[int, int] | None:
    height, width = whole.shape[2:]
    if value.ndim == 4:
        return (value.shape[2], value.shape[3]) if value.shape[1] == whole.shape[1] else None
    return (height, width) if value.ndim == 3 and value.shape[1] == height * width else None


def _as_map(model: nn.Module, name: str, value: Tensor, whole: Tensor) -> Tensor | None:
    if affine_of(model.get_submodule(name)) is None or value.shape[0] != whole.shape[0]:
        return None
    height = _height(value.shape[1], whole)
    if value.ndim == 3 and value.shape[2] == whole.shape[1] and height is not None:  # patches, of the image's aspect
        return value.transpose(1, 2).reshape(len(value), -1, height, value.shape[1] // height)
    return value if value.ndim == 4 and value.shape[1] == whole.shape[1] else None


def _height(patches: int, whole: Tensor) -> int | None:
    height = max(round((patches * whole.shape[2] / whole.shape[3]) ** 0.5), 1)
    return height if patches % height == 0 else None


def _sums(maps: list[Tensor]) -> Iterator[Tensor]:
    yield from reversed(maps)
    for several in (2, 3):
        for parts in combinations(maps, several):
            if len({part.shape for part in parts}) == 1:
                yield torch.stack(parts).sum(0)
