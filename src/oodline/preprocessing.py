"""From an image file's pixels to the tensor a classifier was trained on, as plain data that an artifact can carry."""

from __future__ import annotations

from typing import Any, Literal, Self

import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, FiniteFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from oodline._util.pixels import standard_image


class Preprocessing(BaseModel):
    """Resize, centre-crop, scale to [0, 1], normalise: the evaluation transform of nearly every image classifier.

    Parameters
    ----------
    resize : int or (int, int), optional
        Length of the shorter side after resizing, or an exact (height, width); None leaves the size alone.
    crop : int or (int, int), optional
        Centre crop (a square, or height and width); None does not crop.
    mean, std : tuple of float
        One value a channel, for pixels in [0, 1]; zeros and ones by default.
    interpolation : {"nearest", "bilinear", "bicubic", "lanczos"}
        How PIL resizes (always antialiased).
    mode : {"RGB", "L"}
        Colour, or grey, what an image is converted to first.

    Examples
    --------
    >>> p = Preprocessing(resize=32, crop=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    >>> p(Image.new("L", (40, 64), 255)).shape, float(p(Image.new("L", (40, 64), 255)).max())
    (torch.Size([3, 32, 32]), 2.0)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    resize: PositiveInt | tuple[PositiveInt, PositiveInt] | None = None
    crop: PositiveInt | tuple[PositiveInt, PositiveInt] | None = None
    mean: tuple[FiniteFloat, ...] = (0.0, 0.0, 0.0)
    std: tuple[PositiveFloat, ...] = (1.0, 1.0, 1.0)
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    mode: Literal["RGB", "L"] = "RGB"

    @model_validator(mode="before")
    @classmethod
    def _one_channel_for_grey(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("mode") == "L":
            return {"mean": (0.0,), "std": (1.0,), **values}
        return values

    @model_validator(mode="after")
    def _one_value_a_channel(self) -> Self:
        channels = len(self.mode)
        if not len(self.mean) == len(self.std) == channels:
            raise ValueError(
                f"mode {self.mode} has {channels} channels, but mean and std have {len(self.mean)} and {len(self.std)}"
            )
        return self

    def __call__(self, image: Image.Image) -> Tensor:
        """Turn one PIL image into a float32 tensor (channels, height, width)."""
        return self.normalise(self.pixels(image))

    def pixels(self, image: Image.Image) -> Tensor:
        """All steps but the last: one image as float32 in [0, 1], (channels, height, width)."""
        image = standard_image(image).convert(self.mode)
        if self.resize is not None:
            size = [self.resize] if isinstance(self.resize, int) else list(self.resize)
            image = tv.resize(image, size, InterpolationMode(self.interpolation))
        if self.crop is not None:
            image = tv.center_crop(image, [self.crop] * 2 if isinstance(self.crop, int) else list(self.crop))
        pixels: Tensor = tv.to_tensor(image)
        return pixels

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height that an image of this size has after resizing, before cropping.

        >>> Preprocessing(resize=32).resized(640, 320)
        (64, 32)
        """
        if self.resize is None:
            return width, height
        if not isinstance(self.resize, int):
            return self.resize[1], self.resize[0]
        short, long = sorted((width, height))
        long = self.resize * long // short
        return (self.resize, long) if width < height else (long, self.resize)

    def normalise(self, pixels: Tensor) -> Tensor:
        """The last step alone: pixels (..., channels, height, width), uint8 or in [0, 1], minus mean, by std."""
        if not pixels.is_floating_point():
            pixels = pixels.float() / 255
        mean, std = (torch.tensor(v).to(pixels).view(-1, 1, 1) for v in (self.mean, self.std))
        return (pixels - mean) / std
