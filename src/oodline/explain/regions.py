"""Parts of an image: a grid, superpixels, or masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from oodline.errors import SettingError, missing_extra


def grid_regions(height: int, width: int, rows: int, columns: int) -> Int[Tensor, "h w"]:
    """Rectangles of about the same size, numbered row by row.

    Raises
    ------
    SettingError
        There would be more rows or columns than pixels.

    Examples
    --------
    >>> grid_regions(2, 3, 1, 3)
    tensor([[0, 1, 2],
            [0, 1, 2]])
    """
    if not (1 <= rows <= height and 1 <= columns <= width):
        raise SettingError(f"a grid of {rows} x {columns} does not fit an image of {height} x {width} pixels.")
    down = torch.arange(height) * rows // height
    across = torch.arange(width) * columns // width
    return down.unsqueeze(1) * columns + across


def superpixels(image: Float[Tensor, "c h w"], count: int = 12) -> Int[Tensor, "h w"]:
    """Regions of similar colour, about `count`, by SLIC (Achanta et al., TPAMI 2012) of scikit-image.

    Raises
    ------
    MissingExtraError
        scikit-image is not installed.
    """
    try:
        from skimage.segmentation import slic
    except ImportError as error:
        raise missing_extra("scikit-image", "superpixels", "superpixels") from error
    image = image.float()
    low, high = image.min(), image.max()
    pixels = ((image - low) / (high - low).clamp(min=1e-12)).movedim(0, -1).cpu().numpy()
    found = torch.from_numpy(slic(pixels, n_segments=count, start_label=0, channel_axis=-1)).long()
    numbered: Tensor = torch.unique(found, return_inverse=True)[1]
    return numbered


def regions_of_masks(masks: Sequence[Tensor] | Tensor) -> Int[Tensor, "h w"]:
    """Regions of masks (K, H, W): a pixel is in the first mask that has it; those in none are one more region.

    Raises
    ------
    SettingError
        There is no mask, they are of several sizes, or one has no pixel of its own.

    Examples
    --------
    >>> regions_of_masks(torch.tensor([[[1, 0, 0]], [[1, 1, 0]]]))
    tensor([[0, 1, 2]])
    """
    given = [torch.as_tensor(mask) != 0 for mask in masks]
    if not given or given[0].ndim != 2 or len({mask.shape for mask in given}) > 1:
        raise SettingError(
            f"`masks` must be (K, H, W), at least one; got shapes {[tuple(mask.shape) for mask in given]}."
        )
    stacked = torch.stack(given)
    stacked = torch.cat([stacked, torch.ones_like(stacked[:1])])
    regions = stacked.int().argmax(0)
    for k in range(len(stacked) - 1):
        if not bool((regions == k).any()):
            raise SettingError(f"mask {k} has no pixel that no mask before it has. Leave it out.")
    return regions


def checked_regions(regions: Tensor, image: Float[Tensor, "c h w"]) -> Int[Tensor, "h w"]:
    """The regions in int64, on the CPU: as bytes they would select by mask, and not by number.

    Raises
    ------
    SettingError
        They are not numbers from 0 on, each of some pixel, of an image of that size.
    """
    size = tuple(image.shape[1:])
    if regions.dtype == torch.bool:
        raise SettingError("`regions` must be integers; got torch.bool. Of masks make them by `regions_of_masks`.")
    if tuple(regions.shape) != size or regions.is_floating_point() or regions.is_complex():
        raise SettingError(
            f"`regions` must be integers {size}, one per pixel; got {regions.dtype} of shape {tuple(regions.shape)}."
        )
    regions = regions.to("cpu", torch.int64)
    present = torch.unique(regions)
    if not torch.equal(present, torch.arange(len(present))):
        raise SettingError(
            f"`regions` must be numbered 0 to {len(present) - 1}, each for some pixel; got {present.tolist()}."
        )
    return regions
