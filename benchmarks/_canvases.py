"""Canvases of 64x64 pixels: MNIST digits on crops of textures, with the class of each pixel, boxes and label sets.

Digits 0 to 7 are the known classes, numbered 1 to 8 (0 is the background); 8, 9 and capital letters are unknown, 255.
Each quarter of a canvas holds at most one object. Canvases depend on split, seed and index alone, and splits share
neither digit images nor textures.

    from benchmarks._canvases import Canvases
    image, mask, boxes = Canvases("../shared", "train").canvas(0, digits=2, unknown=1)
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

SIZE, QUARTER = 64, 32
KNOWN = 8
"""Number of known classes: the digits 0 to 7, whose classes are 1 to 8."""
UNKNOWN = 255
LETTERS = "AEFGHKMNPRTUWXY"
"""Capitals that resemble no digit."""
SPLITS = {"train": range(6), "held-out": range(6, 8), "test": range(8, 10)}
"""Which rows of each file a split takes, by row number modulo 10."""

Split = Literal["train", "held-out", "test"]
Kind = Literal["digits", "letters"]
Box = tuple[int, int, int, int, int]


class Canvas(NamedTuple):
    """One canvas.

    Parameters
    ----------
    image : array (3, 64, 64), uint8
        RGB.
    mask : array (64, 64), int64
        Class of each pixel: 0 background, 1..8 known, 255 unknown.
    boxes : list of (x0, y0, x1, y1, class)
        The smallest box around each object's pixels, x1 and y1 excluded.
    """

    image: np.ndarray
    mask: np.ndarray
    boxes: list[Box]

    @property
    def labels(self) -> np.ndarray:
        """Which known classes are on it (8,), 0 or 1; column i is class i + 1, the digit i."""
        found = np.zeros(KNOWN, dtype=np.int64)
        found[[box[4] - 1 for box in self.boxes if box[4] != UNKNOWN]] = 1
        return found


@dataclass
class Canvases:
    """The canvases of one split.

    Parameters
    ----------
    shared : path
        Folder with `data/ood/mnist.parquet` and `data/ood/textures.parquet`.
    split : {"train", "held-out", "test"}
        No digit image and no texture is in two of them.
    seed : int
        Another one gives other canvases of the same images.
    """

    shared: str | Path
    split: Split
    seed: int = 0
    _textures: list[np.ndarray] = field(init=False, repr=False)
    _digits: dict[int, list[np.ndarray]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        folder = Path(self.shared) / "data" / "ood"
        self._textures = [image for image, _ in self._rows(folder / "textures.parquet", "RGB")]
        self._digits = {digit: [] for digit in range(10)}
        for image, digit in self._rows(folder / "mnist.parquet", "L"):
            self._digits[digit].append(image)

    def canvas(self, index: int, digits: int, unknown: int = 0, *, kind: Kind = "digits") -> Canvas:
        """The canvas of this index, with `digits` different known digits and `unknown` unknown objects, at most 4.

        Unknown objects are the digits 8 and 9, or letters.
        """
        rng = np.random.default_rng((self.seed, list(SPLITS).index(self.split), index))
        image, mask, boxes = self._background(rng), np.zeros((SIZE, SIZE), dtype=np.int64), []
        quarters = rng.permutation(4)[: digits + unknown]
        if len(quarters) < digits + unknown:
            raise ValueError(f"a canvas holds at most 4 objects; got {digits} + {unknown}.")
        known = rng.permutation(KNOWN)[:digits]
        for place, quarter in enumerate(quarters):
            if place < digits:
                stroke, label = self._digit(rng, int(known[place])), int(known[place]) + 1
            else:
                stroke = self._letter(rng) if kind == "letters" else self._digit(rng, int(rng.integers(8, 10)))
                label = UNKNOWN
            boxes.append(_paste(rng, image, mask, stroke, int(quarter), label))
        return Canvas(image.transpose(2, 0, 1).copy(), mask, boxes)

    def _rows(self, path: Path, mode: str) -> list[tuple[np.ndarray, int]]:
        rows = pq.read_table(path).to_pylist()
        chosen = [row for number, row in enumerate(rows) if number % 10 in SPLITS[self.split]]
        images = [Image.open(io.BytesIO(row["image"]["bytes"])).convert(mode) for row in chosen]
        return [(np.asarray(image), row["label"]) for image, row in zip(images, chosen, strict=True)]

    def _background(self, rng: np.random.Generator) -> np.ndarray:
        texture = self._textures[rng.integers(len(self._textures))]
        top, left = (rng.integers(length - 2 * SIZE + 1) for length in texture.shape[:2])
        crop = texture[top : top + 2 * SIZE, left : left + 2 * SIZE].astype(np.float64)
        return crop.reshape(SIZE, 2, SIZE, 2, 3).mean((1, 3)).round().astype(np.uint8)

    def _digit(self, rng: np.random.Generator, digit: int) -> np.ndarray:
        images = self._digits[digit]
        return images[rng.integers(len(images))]

    def _letter(self, rng: np.random.Generator) -> np.ndarray:
        drawn = Image.new("L", (28, 28))
        ImageDraw.Draw(drawn).text((14, 14), rng.choice(list(LETTERS)), 255, self._font, anchor="mm", stroke_width=0.5)
        return np.asarray(drawn.rotate(float(rng.uniform(-12, 12)), Image.Resampling.BILINEAR))

    @cached_property
    def _font(self) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
        return ImageFont.load_default(24)


def _paste(
    rng: np.random.Generator, image: np.ndarray, mask: np.ndarray, stroke: np.ndarray, quarter: int, label: int
) -> Box:
    """Draw a stroke into a quarter, in a colour that differs from what lies below; returns its box."""
    size = int(rng.integers(22, 30))
    alpha = np.asarray(Image.fromarray(stroke).resize((size, size), Image.Resampling.BILINEAR)) / 255
    down, right = rng.integers(QUARTER - size + 1, size=2)
    top, left = QUARTER * (quarter // 2) + int(down), QUARTER * (quarter % 2) + int(right)
    below = image[top : top + size, left : left + size]
    bright = below[alpha > 0.5].mean() < 128
    colour = rng.integers(200, 256, size=3) if bright else rng.integers(0, 56, size=3)
    below[:] = (below * (1 - alpha[..., None]) + colour * alpha[..., None]).round().astype(np.uint8)
    mask[top : top + size, left : left + size][alpha > 0.5] = label
    ys, xs = np.nonzero(alpha > 0.5)
    return left + int(xs.min()), top + int(ys.min()), left + int(xs.max()) + 1, top + int(ys.max()) + 1, label
