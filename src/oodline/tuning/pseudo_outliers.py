"""Pseudo-outliers: what is not a training image any more, made of ID images by one transform each.

Every transform takes prepared inputs (N, C, H, W), as the classifier takes them, and gives as many of the same size.
The random choices come from a CPU generator, so that a seed gives the same pseudo-outliers on every device. None reads
labels. Those that mix images mix them within the batch, which therefore must not hold one class alone.

`NEAR` keeps large parts of objects and puts them where they do not belong, as near OOD data shows known parts in
unknown wholes. `FAR` keeps textures, colours or masses, and no object. `docs/results/tune.md` shows which settings
each picks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from oodline.errors import InputError

Images = Float[Tensor, "n c h w"]
Transform = Callable[[Tensor, Generator], Tensor]
"""From prepared images (N, C, H, W) and a generator on the CPU to as many pseudo-outliers."""


def turn(images: Images, generator: Generator) -> Images:
    """A quarter turn, to the left or to the right; upside down where height and width differ.

    Examples
    --------
    >>> bar = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])
    >>> turn(bar, Generator().manual_seed(0)).sum(3)
    tensor([[[0., 2.]]])
    """
    if images.shape[2] != images.shape[3]:
        return images.flip((2, 3))
    left = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(_column(left, images), images.rot90(1, (2, 3)), images.rot90(3, (2, 3)))


def blend(images: Images, generator: Generator) -> Images:
    """Mean of each image and another of the batch: evidence for two objects, neither of them whole.

    Examples
    --------
    >>> pair = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1)
    >>> blend(pair, Generator()).flatten()
    tensor([0.5000, 0.5000])
    """
    return (images + images[_partners(len(images), generator)]) / 2


def mosaic(images: Images, generator: Generator) -> Images:
    """Four quadrants, three of them each from another image of the batch at its own place: parts of several objects.

    Examples
    --------
    >>> pair = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 1, 2, 2)
    >>> mosaic(pair, Generator())[0, 0]
    tensor([[0., 1.],
            [1., 1.]])
    """
    height, width = images.shape[2] // 2, images.shape[3] // 2
    top, bottom, left, right = slice(height), slice(height, None), slice(width), slice(width, None)
    mixed = images.clone()
    for rows, columns in ((top, right), (bottom, left), (bottom, right)):
        mixed[:, :, rows, columns] = images[_partners(len(images), generator)][:, :, rows, columns]
    return mixed


def patch_shuffle(images: Images, generator: Generator, *, grid: int = 8) -> Images:
    """Cut each image into grid x grid patches and put them back in a random order: parts without their places.

    Keeps every pixel. Where a side is not a multiple of `grid`, the last rows or columns stay where they are; a side
    shorter than `grid` is cut into its pixels.

    Examples
    --------
    >>> image = torch.arange(16.0).reshape(1, 1, 4, 4)
    >>> patch_shuffle(image, Generator().manual_seed(1), grid=2)[0, 0]
    tensor([[ 2.,  3.,  8.,  9.],
            [ 6.,  7., 12., 13.],
            [10., 11.,  0.,  1.],
            [14., 15.,  4.,  5.]])
    """
    n, channels, height, width = images.shape
    rows, columns = min(grid, height), min(grid, width)
    h, w = height // rows, width // columns
    cut = images[..., : h * rows, : w * columns].reshape(n, channels, rows, h, columns, w)
    patches = cut.permute(0, 2, 4, 1, 3, 5).reshape(n, rows * columns, channels, h, w)
    order = torch.rand(n, rows * columns, generator=generator).argsort(1).to(images.device)
    patches = patches[torch.arange(n, device=images.device).unsqueeze(1), order]
    placed = patches.reshape(n, rows, columns, channels, h, w).permute(0, 3, 1, 4, 2, 5)
    shuffled = images.clone()
    shuffled[..., : h * rows, : w * columns] = placed.reshape(n, channels, h * rows, w * columns)
    return shuffled


def magnify(images: Images, generator: Generator, *, factor: int = 4) -> Images:
    """A random window of 1 / factor of each side, enlarged to the whole: a texture without its object."""
    height, width = images.shape[2:]
    h, w = max(1, height // factor), max(1, width // factor)
    tops = torch.randint(height - h + 1, (len(images),), generator=generator).tolist()
    lefts = torch.randint(width - w + 1, (len(images),), generator=generator).tolist()
    windows = [image[:, t : t + h, s : s + w] for image, t, s in zip(images, tops, lefts, strict=True)]
    return torch.nn.functional.interpolate(torch.stack(windows), (height, width), mode="bilinear")


def blur(images: Images, generator: Generator, *, strength: float = 1 / 12) -> Images:
    """Gaussian blur with a standard deviation of `strength` times the shorter side: masses without detail."""
    height, width = images.shape[2:]
    sigma = strength * min(height, width)
    fy, fx = (torch.fft.fftfreq(2 * side).to(images) for side in (height, width))
    gain = torch.exp(-2 * (torch.pi * sigma) ** 2 * (fy[:, None] ** 2 + fx[None, :] ** 2))
    # mirrored at its borders an image is periodic: the opposite side does not bleed in
    mirrored = torch.cat([images, images.flip(2)], 2)
    mirrored = torch.cat([mirrored, mirrored.flip(3)], 3)
    smooth: Tensor = torch.fft.ifft2(torch.fft.fft2(mirrored) * gain).real
    return smooth[:, :, :height, :width].contiguous()


def noise(images: Images, generator: Generator, *, strength: float = 1.0) -> Images:
    """Gaussian noise added, with `strength` times the standard deviation of each channel of the batch."""
    deviation = images.std((0, 2, 3), keepdim=True, unbiased=False)
    return images + strength * deviation * torch.randn(images.shape, generator=generator).to(images)


def phase_scramble(images: Images, generator: Generator) -> Images:
    """Random phases under the image's own amplitude spectrum: its texture, no contour.

    All channels turn by the same phases, those of a random real image: colours stay together, and the result is real.
    """
    n, _, height, width = images.shape
    phases = torch.fft.fft2(torch.randn(n, 1, height, width, generator=generator).to(images))
    phases = phases / phases.abs().clamp_min(torch.finfo(images.dtype).tiny)
    phases[..., 0, 0] = 1  # the mean colour has no phase to scramble
    scrambled: Tensor = torch.fft.ifft2(torch.fft.fft2(images) * phases).real
    return scrambled


NEAR: Mapping[str, Transform] = MappingProxyType(
    {"turn": turn, "blend": blend, "mosaic": mosaic, "quadrants": partial(patch_shuffle, grid=2)}
)
"""Large parts of objects where they do not belong, by the name that tables print."""

FAR: Mapping[str, Transform] = MappingProxyType(
    {
        "magnify": magnify,
        "blur": blur,
        "noise": noise,
        "phase-scramble": phase_scramble,
        "patch-shuffle": patch_shuffle,
    }
)
"""Textures, colours or masses, and no object."""


def _partners(n: int, generator: Generator) -> Tensor:
    # a random cycle through all: nobody is his own partner
    if n < 2:
        raise InputError("images are mixed with others of their batch, and a batch of one image has none.")
    order = torch.randperm(n, generator=generator)
    partners = torch.empty_like(order)
    partners[order] = order.roll(1)
    return partners


def _column(values: Tensor, images: Tensor) -> Tensor:
    return values.to(images.device).reshape(-1, 1, 1, 1)
