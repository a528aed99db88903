"""What replaces a part of an image that is left out: its blur, its mean colour, noise like it, or zero."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from oodline.errors import SettingError

Baseline = Literal["blur", "mean", "noise", "zero"]

BASELINES = {
    "blur": "the image blurred",
    "mean": "the image's mean colour",
    "noise": "noise of the image's mean and spread",
    "zero": "zero after preprocessing",
    "given": "an image that was given",
}
"""Each in words, as an explanation states it."""


def baseline_of(image: Tensor, baseline: str | Tensor, seed: int = 0) -> Float[Tensor, "c h w"]:
    """What stands for "nothing" in place of an image.

    "blur" is the mean over a window of a quarter of the shorter side, applied three times, which is nearly a Gaussian.

    Raises
    ------
    SettingError
        It has another shape than the image, or an unknown name; or the image is not one of floats.

    Examples
    --------
    >>> baseline_of(torch.tensor([[[1.0, 3.0]]]), "mean")
    tensor([[[2., 2.]]])
    """
    check_image(image)
    if isinstance(baseline, Tensor):
        if baseline.shape != image.shape:
            raise SettingError(
                f"`baseline` must have the shape of the image, {tuple(image.shape)}; got {tuple(baseline.shape)}."
            )
        return baseline.to(image)
    mean = image.mean((1, 2), keepdim=True)
    if baseline == "zero":
        return torch.zeros_like(image)
    if baseline == "mean":
        return mean.expand_as(image).clone()
    if baseline == "noise":
        spread = image.std((1, 2), keepdim=True, unbiased=False)
        noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed)).to(image)
        return mean + spread * noise
    if baseline == "blur":
        half = max(1, min(image.shape[1:]) // 8)
        for _ in range(3):
            padded = nn.functional.pad(image.unsqueeze(0), (half,) * 4, mode="replicate")
            image = nn.functional.avg_pool2d(padded, 2 * half + 1, stride=1)[0]
        return image
    raise SettingError(f"`baseline` must be one of {', '.join(list(BASELINES)[:4])}, or an image; got {baseline!r}.")


def check_image(image: Tensor) -> None:
    """Raise `SettingError` where an image is not (C, H, W) of floats, as a network reads it."""
    if image.ndim != 3 or not image.is_floating_point() or image.numel() == 0:
        raise SettingError(
            f"`image` must be (C, H, W), of floats; got {image.dtype} of shape {tuple(image.shape)}. Preprocess it as "
            "for the classifier."
        )
