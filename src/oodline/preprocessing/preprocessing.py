"""`Preprocessing`: from an image's pixels to the tensor that a classifier expects, as plain data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, FiniteFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from oodline._util.pixels import standard_image
from oodline.errors import InputError
from oodline.preprocessing.geometry import Crop, Interpolation, Picture, Resize, Rounding, Step


class Preprocessing(BaseModel):
    """Resize, centre-crop, scale to [0, 1], normalise: the evaluation transform of nearly every image classifier.

    `Preprocessing.of(transform)` makes one from a transform of torchvision or timm, or a processor of transformers.

    Parameters
    ----------
    resize : int or (int, int), optional
        Length of the shorter side after resizing, or an exact (height, width); None leaves the size alone.
    crop : int or (int, int), optional
        Centre crop (a square, or height and width), padded with zeros where the image is smaller; None does not crop.
    mean, std : tuple of float
        One value per channel, for pixels in [0, 1]; zeros and ones by default. Every scaling is said by them: pixels
        from 0 to 255 are std 1/255, pixels from -1 to 1 are mean 0.5 and std 0.5.
    interpolation : {"nearest", "bilinear", "bicubic", "lanczos", "nearest-exact", "box", "hamming"}
        How images are resized (always antialiased).
    mode : {"RGB", "BGR", "L", "LLL"}
        Colour in either order, grey, or grey three times: what an image is converted to first.
    transparency : {"drop", "white"}
        Leave transparency out, or show the image on white.
    crop_rounding : {"nearest", "zero", "down"}
        Which of two middles is cropped; see `oodline.preprocessing.geometry.Crop`.
    arithmetic : {"pil", "uint8", "float32"}
        What resizes: PIL, or torchvision on tensors of these numbers. They differ by less than one grey level.
    steps : tuple of Resize, Crop and Pad
        In place of `resize` and `crop`, for what these cannot say; see `oodline.preprocessing.geometry`.

    Examples
    --------
    >>> p = Preprocessing(resize=32, crop=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    >>> p(Image.new("L", (40, 64), 255)).shape, float(p(Image.new("L", (40, 64), 255)).max())
    (torch.Size([3, 32, 32]), 2.0)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    unit: ClassVar[str] = "images"
    """What its inputs are, in words."""

    resize: PositiveInt | tuple[PositiveInt, PositiveInt] | None = None
    crop: PositiveInt | tuple[PositiveInt, PositiveInt] | None = None
    mean: tuple[FiniteFloat, ...] = (0.0, 0.0, 0.0)
    std: tuple[PositiveFloat, ...] = (1.0, 1.0, 1.0)
    interpolation: Interpolation = "bilinear"
    mode: Literal["LLL", "BGR", "RGB", "L"] = "RGB"
    transparency: Literal["drop", "white"] = "drop"
    crop_rounding: Rounding = "nearest"
    arithmetic: Literal["pil", "uint8", "float32"] = "pil"
    steps: tuple[Step, ...] = ()

    @classmethod
    def of(cls, transform: Callable[..., Any], *, mode: Literal["RGB", "L"] | None = None) -> Preprocessing:
        """What a transform of torchvision or timm, or an image processor of transformers, does, as plain data.

        The result is compared with the transform on test images, and is returned only if it does the same.

        Parameters
        ----------
        transform : Preprocessing or callable
            A torchvision `Compose` (v1 or v2) or the preset of its weights, a timm transform, an image processor of
            transformers; a `Preprocessing` comes back as it is.
        mode : {"RGB", "L"}, optional
            Whether images are colour or grey, where the transform does not say so.

        Raises
        ------
        SettingError
            Its steps cannot be expressed, or the pixels are not the same; says which step, or by how much.

        Examples
        --------
        >>> from torchvision import transforms as tv
        >>> p = Preprocessing.of(tv.Compose([tv.Resize(36), tv.CenterCrop(32), tv.ToTensor()]))
        >>> p.resize, p.crop, p.interpolation
        (36, (32, 32), 'bilinear')
        """
        from oodline.preprocessing.library_transforms import preprocessing_of

        return preprocessing_of(transform, mode)

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
        fills = [step.fill for step in self.steps if not isinstance(step, Resize)]
        drawn = 1 if self.mode == "LLL" else channels
        if wrong := [fill for fill in fills if not isinstance(fill, int) and len(fill) != drawn]:
            raise ValueError(f"mode {self.mode} is filled with {drawn} values, but fill is {wrong[0]}")
        return self

    @model_validator(mode="after")
    def _one_way_to_say_the_size(self) -> Self:
        if self.steps and not self.resize is self.crop is None:
            raise ValueError("steps replaces resize and crop; give one or the other")
        return self

    def __call__(self, image: Image.Image) -> Tensor:
        """Turn one PIL image into a float32 tensor (channels, height, width)."""
        return self.normalise(self.pixels(image))

    def batch(self, images: Sequence[Image.Image]) -> Tensor:
        """Turn N PIL images into one float32 tensor (N, channels, height, width).

        Raises
        ------
        InputError
            They have different sizes after preprocessing.

        Examples
        --------
        >>> Preprocessing(resize=8, crop=8).batch([Image.new("RGB", (9, 12)), Image.new("L", (8, 8))]).shape
        torch.Size([2, 3, 8, 8])
        """
        tensors = [self(image) for image in images]
        sizes = {tuple(tensor.shape) for tensor in tensors}
        if len(sizes) > 1:
            raise InputError(
                f"images have different sizes after preprocessing: {', '.join(map(str, sorted(sizes)))}. Judge them "
                "one at a time, or set a crop in the preprocessing."
            )
        return torch.stack(tensors)

    def pixels(self, image: Image.Image) -> Tensor:
        """All steps but the last: one image as float32 in [0, 1], (channels, height, width)."""
        converted = self._converted(standard_image(image))
        picture: Picture = converted
        if self.arithmetic != "pil":
            values = as_tensor(converted)
            picture = values if self.arithmetic == "uint8" else values.float() / 255
        for step in self.geometry:
            picture = step(picture)
        pixels = as_tensor(picture) if isinstance(picture, Image.Image) else picture
        if not pixels.is_floating_point():
            pixels = pixels.float() / 255
        if self.mode == "BGR":
            return pixels.flip(0)
        return pixels.expand(3, -1, -1).contiguous() if self.mode == "LLL" else pixels

    def mask(self, classes: Tensor) -> Tensor:
        """Bring a mask (H, W) of classes where the image's pixels go: resized to the nearest, 255 where padded.

        >>> mask = torch.arange(16).reshape(4, 4)
        >>> Preprocessing(resize=2, crop=4).mask(mask)
        tensor([[255, 255, 255, 255],
                [255,   5,   7, 255],
                [255,  13,  15, 255],
                [255, 255, 255, 255]])
        """
        found: Picture = classes.unsqueeze(0)
        for step in self.geometry:
            found = step.of_mask()(found)
        assert isinstance(found, Tensor)
        return found.squeeze(0)

    @property
    def geometry(self) -> tuple[Step, ...]:
        """`steps`, or those that `resize` and `crop` stand for.

        >>> [step.do for step in Preprocessing(resize=36, crop=32).geometry]
        ['resize', 'crop']
        """
        steps: list[Step] = list(self.steps)
        if self.resize is not None:
            shorter = isinstance(self.resize, int)
            height, width = (self.resize,) * 2 if isinstance(self.resize, int) else self.resize
            aspect: Literal["cover", "stretch"] = "cover" if shorter else "stretch"
            steps.append(Resize(height=height, width=width, aspect=aspect, interpolation=self.interpolation))
        if self.crop is not None:
            height, width = (self.crop,) * 2 if isinstance(self.crop, int) else self.crop
            steps.append(Crop(height=height, width=width, rounding=self.crop_rounding))
        return tuple(steps)

    @property
    def input_size(self) -> tuple[int, int] | None:
        """Height and width of what it makes, where they are the same for all images, else None.

        >>> Preprocessing(resize=36, crop=32).input_size, Preprocessing(resize=36).input_size
        ((32, 32), None)
        """
        size: tuple[int, int] | None = None
        for step in self.geometry:
            size = step.fixed(size)
        return size

    def example(self) -> Tensor | None:
        """Random pixels as two inputs, to try a classifier on; None where they have no fixed size.

        >>> Preprocessing(crop=8).example().shape
        torch.Size([2, 3, 8, 8])
        """
        if self.input_size is None:
            return None
        return torch.rand(2, len(self.mode), *self.input_size, generator=torch.Generator().manual_seed(0))

    def describe(self) -> str:
        """In words: what is not the default.

        >>> Preprocessing(resize=36, crop=32).describe()
        'resize 36, crop 32'
        """
        stated = self.model_dump(exclude_defaults=True)
        return ", ".join(f"{key} {value}" for key, value in stated.items()) or "pixels in [0, 1]"

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the largest image on the way, for an image of this size.

        >>> Preprocessing(resize=32).resized(640, 320)
        (64, 32)
        """
        sizes = [(height, width)]
        for step in self.geometry:
            sizes.append(step.size(*sizes[-1]))
        high, wide = max(sizes[1:] or sizes, key=lambda size: size[0] * size[1])
        return wide, high

    def normalise(self, pixels: Tensor) -> Tensor:
        """The last step alone: pixels (..., channels, height, width), uint8 or in [0, 1], minus mean, by std."""
        if not pixels.is_floating_point():
            pixels = pixels.float() / 255
        mean, std = (torch.tensor(v).to(pixels).view(-1, 1, 1) for v in (self.mean, self.std))
        return (pixels - mean) / std

    def _converted(self, image: Image.Image) -> Image.Image:
        if self.transparency == "white" and ("A" in image.getbands() or "transparency" in image.info):
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert("L" if self.mode in ("L", "LLL") else "RGB")


def pictures_in(value: object) -> list[Image.Image]:
    """One PIL image, or a list of them, as a list; empty where it is anything else.

    >>> len(pictures_in(Image.new("L", (2, 2)))), pictures_in(torch.zeros(1)), pictures_in(["a"])
    (1, [], [])
    """
    if isinstance(value, Image.Image):
        return [value]
    if isinstance(value, list | tuple) and all(isinstance(one, Image.Image) for one in value):
        return list(value)
    return []


def as_tensor(image: Image.Image) -> Tensor:
    """The values of an image, uint8 (channels, height, width).

    Examples
    --------
    >>> as_tensor(Image.new("RGB", (4, 8))).shape
    torch.Size([3, 8, 4])
    """
    values = torch.from_numpy(np.array(image))
    return values.unsqueeze(0) if values.ndim == 2 else values.permute(2, 0, 1).contiguous()
