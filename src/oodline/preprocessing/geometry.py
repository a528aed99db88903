"""Steps that change the size of an image, as plain data: resize, crop and pad.

Pictures of PIL are changed by PIL, as torchvision does it, and tensors by torchvision, which is imported only there: it
imports PyTorch's compiler, and that takes as long as PyTorch itself.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from PIL import Image, ImageOps
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

Picture = Image.Image | Tensor
"""A PIL image, or a tensor (channels, height, width)."""

Interpolation = Literal["nearest-exact", "box", "hamming", "nearest", "bilinear", "bicubic", "lanczos"]
RESAMPLING = {"nearest-exact": Image.Resampling.NEAREST, **{one.name.lower(): one for one in Image.Resampling}}
Rounding = Literal["nearest", "zero", "down"]
Fill = Annotated[int, Field(ge=0, le=255)] | tuple[Annotated[int, Field(ge=0, le=255)], ...]


IGNORED = 255
"""What a mask says of pixels of no class."""


class _Step(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after the step."""
        raise NotImplementedError

    def fixed(self, before: tuple[int, int] | None) -> tuple[int, int] | None:
        """Height and width after the step where they are the same for all images, else None."""
        return None if before is None else self.size(*before)

    def of_mask(self) -> Any:
        """The same step for a mask of classes: what is added around it is 255, of no class."""
        return self.model_copy(update={"fill": IGNORED})


class Resize(_Step):
    """Resize to `height` and `width`, or to a size that keeps the aspect ratio.

    Parameters
    ----------
    height, width : int, optional
        Of the box; if omitted, the image's own, for `multiple`.
    aspect : {"stretch", "cover", "fit"}
        Exactly the box; or the aspect ratio is kept and the image is the smallest that covers the box (a square box is
        then the length of the shorter edge), or the largest that fits in it (of the longer edge).
    rounding : {"down", "nearest"}
        Of the edge that the box does not decide.
    limit : int, optional
        Length of the longer edge at most, where the image covers the box; the shorter one is rounded by
        `limit_rounding`.
    multiple : int
        Both lengths become multiples of it, by `multiple_rounding`.
    antialias : bool
        For tensors; PIL always does.

    Examples
    --------
    >>> Resize(height=32, width=32, aspect="cover").size(320, 640)
    (32, 64)
    >>> Resize(height=32, width=32, aspect="fit").size(320, 640)
    (16, 32)
    """

    do: Literal["resize"] = "resize"
    height: PositiveInt | None = None
    width: PositiveInt | None = None
    aspect: Literal["stretch", "cover", "fit"] = "stretch"
    rounding: Literal["down", "nearest"] = "down"
    limit: PositiveInt | None = None
    limit_rounding: Literal["down", "nearest"] = "down"
    multiple: PositiveInt = 1
    multiple_rounding: Literal["down", "up"] = "up"
    interpolation: Interpolation = "bilinear"
    antialias: bool = True

    @model_validator(mode="after")
    def _a_box_or_none(self) -> Self:
        if (self.height is None) != (self.width is None):
            raise ValueError("height and width must be given together")
        if self.limit is not None and self.aspect != "cover":
            raise ValueError('limit must go with aspect="cover"')
        return self

    def __call__(self, image: Picture) -> Picture:
        """Resize one image."""
        height, width = self.size(*size_of(image))
        if isinstance(image, Image.Image):
            return image.resize((width, height), RESAMPLING[self.interpolation])
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional as tv

        found: Tensor = tv.resize(
            image, [height, width], InterpolationMode(self.interpolation), antialias=self.antialias
        )
        return found

    def of_mask(self) -> Resize:
        """The same step for a mask of classes, which are not averaged."""
        return self.model_copy(update={"interpolation": "nearest-exact", "antialias": False})

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that an image of this size gets."""
        high, wide = self._kept(height, width)
        if self.multiple > 1:
            high, wide = (-(-n // self.multiple) if self.multiple_rounding == "up" else n // self.multiple
                          for n in (high, wide))  # fmt: skip
            high, wide = high * self.multiple, wide * self.multiple
        return max(high, 1), max(wide, 1)

    def fixed(self, before: tuple[int, int] | None) -> tuple[int, int] | None:
        """The box, where the image is stretched to it."""
        if before is None and self.height is not None and self.width is not None and self.aspect == "stretch":
            before = self.height, self.width
        return super().fixed(before)

    def _kept(self, height: int, width: int) -> tuple[int, int]:
        if self.height is None or self.width is None:
            return height, width
        if self.aspect == "stretch":
            return self.height, self.width
        by_height = self.height * width >= self.width * height
        if (self.aspect == "cover") == by_height:
            high, wide = self.height, self._other(width, self.height, height)
        else:
            high, wide = self._other(height, self.width, width), self.width
        if self.limit is None or max(high, wide) <= self.limit:
            return high, wide
        if self.limit_rounding == "nearest":  # as detection models do: both from the unrounded shorter edge
            raw = self.limit * min(height, width) / max(height, width)
            short, long = round(raw), int(raw * max(height, width) / min(height, width))
        else:
            short, long = self.limit * min(high, wide) // max(high, wide), self.limit
        return (short, long) if high < wide else (long, short)

    def _other(self, length: int, wanted: int, edge: int) -> int:
        return round(length / (edge / wanted)) if self.rounding == "nearest" else length * wanted // edge


class Crop(_Step):
    """Take the middle; where the image is smaller, it is padded first.

    Parameters
    ----------
    height, width : int, optional
        Of the crop.
    share : (float, float), optional
        Height and width in place of these, as fractions of the image's shorter edge.
    rounding : {"nearest", "zero", "down"}
        Which of two middles it is where the rest is odd. "nearest" takes the even one, and that toward zero where it
        pads.
    fill : int or tuple of int
        What is padded with, 0 to 255.

    Examples
    --------
    >>> Crop(height=2, width=2)(Image.new("L", (4, 8))).size
    (2, 2)
    """

    do: Literal["crop"] = "crop"
    height: PositiveInt | None = None
    width: PositiveInt | None = None
    share: tuple[PositiveFloat, PositiveFloat] | None = None
    rounding: Rounding = "nearest"
    fill: Fill = 0

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if (self.height is None) != (self.width is None) or (self.height is None) == (self.share is None):
            raise ValueError("a crop must have either height and width, or share")
        return self

    def __call__(self, image: Picture) -> Picture:
        """Crop one image."""
        height, width = size_of(image)
        high, wide = self.size(height, width)
        top, left = self._start(height - high), self._start(width - wide)
        if top < 0 or left < 0 or high > height or wide > width:
            edges = [max(-left, 0), max(-top, 0), max(left + wide - width, 0), max(top + high - height, 0)]
            image = padded(image, edges, self.fill)
        top, left = max(top, 0), max(left, 0)
        if isinstance(image, Image.Image):
            return image.crop((left, top, left + wide, top + high))
        return image[..., top : top + high, left : left + wide]

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the crop."""
        if self.share is not None:
            high, wide = (max(int(share * min(height, width)), 1) for share in self.share)
            return high, wide
        assert self.height is not None and self.width is not None
        return self.height, self.width

    def fixed(self, before: tuple[int, int] | None) -> tuple[int, int] | None:
        """The crop, where it is not a share."""
        return super().fixed((1, 1) if self.share is None else before)

    def _start(self, rest: int) -> int:
        if self.rounding == "down":
            return rest // 2
        return round(rest / 2) if self.rounding == "nearest" and rest > 0 else int(rest / 2)


class Pad(_Step):
    """Add pixels around an image.

    Parameters
    ----------
    border : (int, int, int, int), optional
        To the left, at the top, to the right and at the bottom.
    height, width : int, optional
        Pad to the right and at the bottom up to this size, in place of a border.
    square : bool
        Pad so, up to the longer edge.
    fill : int or tuple of int
        0 to 255.

    Examples
    --------
    >>> Pad(square=True)(Image.new("L", (4, 8))).size
    (8, 8)
    """

    do: Literal["pad"] = "pad"
    border: tuple[NonNegativeInt, NonNegativeInt, NonNegativeInt, NonNegativeInt] | None = None
    height: PositiveInt | None = None
    width: PositiveInt | None = None
    square: bool = False
    fill: Fill = 0

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if (self.height is None) != (self.width is None):
            raise ValueError("height and width must be given together")
        if (self.border is not None) + (self.height is not None) + self.square != 1:
            raise ValueError("a pad takes a border, or height and width, or square")
        return self

    def __call__(self, image: Picture) -> Picture:
        """Pad one image."""
        height, width = size_of(image)
        high, wide = self.size(height, width)
        return padded(image, list(self.border or (0, 0, wide - width, high - height)), self.fill)

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that an image of this size gets."""
        if self.border is not None:
            left, top, right, bottom = self.border
            return height + top + bottom, width + left + right
        if self.square:
            return max(height, width), max(height, width)
        return max(height, self.height or 0), max(width, self.width or 0)

    def fixed(self, before: tuple[int, int] | None) -> tuple[int, int] | None:
        """The size, where it is stated."""
        stated = None if self.height is None or self.width is None else (self.height, self.width)
        return super().fixed(before or stated)


def padded(image: Picture, edges: list[int], fill: Fill) -> Picture:
    """An image with `edges` (left, top, right, bottom) added to it; `fill` counts from 0 to 255 for any image."""
    if isinstance(image, Image.Image):
        bands = len(image.getbands())
        drawn = fill if isinstance(fill, int) and bands == 1 else (fill,) * bands if isinstance(fill, int) else fill
        left, top, right, bottom = edges
        return ImageOps.expand(image, (left, top, right, bottom), drawn)
    from torchvision.transforms.v2 import functional as tv

    colour: Any = fill if isinstance(fill, int) else list(fill)
    if image.is_floating_point():
        colour = fill / 255 if isinstance(fill, int) else [value / 255 for value in fill]
    found: Tensor = tv.pad(image, edges, fill=colour)
    return found


def size_of(image: Picture) -> tuple[int, int]:
    """Height and width.

    Examples
    --------
    >>> size_of(Image.new("L", (4, 8)))
    (8, 4)
    """
    height, width = (image.height, image.width) if isinstance(image, Image.Image) else image.shape[-2:]
    return height, width


Step = Annotated[Resize | Crop | Pad, Field(discriminator="do")]
