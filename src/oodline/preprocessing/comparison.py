"""Check by test images that a `Preprocessing` gives the same pixels as a library's own transform."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from PIL import Image
from torch import Tensor

from oodline.errors import SettingError
from oodline.preprocessing.preprocessing import Preprocessing

TOLERANCE = 1e-2
"""Mean absolute difference of an image at most, in the numbers that the model is given."""

CLOSE = TOLERANCE / 5
"""A simpler candidate is taken before a closer one below this."""

FAR = 3.0
"""Grey levels that neither rounding nor resampling can explain."""


@dataclass(frozen=True, eq=False)
class Sample:
    """A test image, and what a library's transform makes of it."""

    name: str
    image: Image.Image
    expected: Tensor


@dataclass(frozen=True)
class Difference:
    """The mean absolute difference on one test image; infinite where the shapes differ, which `text` says."""

    amount: float
    text: str


@lru_cache(1)
def test_images() -> dict[str, Image.Image]:
    """Images of many shapes and kinds, always the same, by what they are."""
    return {
        "a small image": _picture(37, 53),
        "a landscape": _picture(333, 500),
        "a long portrait": _picture(601, 180),
        "a grey image": _picture(260, 347).convert("L"),
        "a transparent image": _transparent(_picture(90, 120)),
    }


def samples_of(transform: Callable[[Image.Image], Any], mode: Literal["RGB", "L"] = "RGB") -> list[Sample]:
    """What a transform makes of the test images.

    Grey and transparent ones are left out where it does not take them: then they are converted before it, as here.

    Raises
    ------
    SettingError
        It fails on an ordinary image, or gives no image.
    """
    samples: list[Sample] = []
    for name, image in test_images().items():
        optional = image.mode != "RGB"
        picture = image.convert("L") if mode == "L" else image
        if mode == "L" and optional and image.mode != "L":
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                made = transform(picture.copy())
        except Exception as error:  # a transform of somebody else may raise anything
            if optional and samples:
                continue
            raise SettingError(f"it fails on {name}: {type(error).__name__}: {_first_line(error)}.") from error
        expected = _one_image(made)
        if expected is None or len(expected) not in (1, 3):
            if optional and samples:
                continue
            raise SettingError(f"for {name} it returns {_kind(made)} instead of one tensor (channels, height, width).")
        if not samples or len(expected) == len(samples[0].expected):
            samples.append(Sample(name, picture, expected))
    return samples


def difference(preprocessing: Preprocessing, samples: Iterable[Sample]) -> Difference:
    """The largest difference on the samples; the first above `TOLERANCE` ends the search."""
    worst = Difference(0.0, "")
    for sample in samples:
        found = _difference(preprocessing, sample)
        if not found.amount <= worst.amount:
            worst = found
        if worst.amount > TOLERANCE:
            break
    return worst


def nearest(families: Iterable[Sequence[Preprocessing]], samples: list[Sample]) -> Preprocessing:
    """The first candidate that is close to the samples, or the closest within `TOLERANCE`.

    Parameters
    ----------
    families : iterable of sequence of Preprocessing
        Candidates that differ in rounding or transparency only: if the first of a family is far away on the first
        sample, the others are not tried.
    samples : list of Sample
        The first one the cheapest.

    Raises
    ------
    SettingError
        None is; says how far the closest is, and on which image.
    """
    best, least = None, Difference(math.inf, "")
    for family in families:
        first = _difference(family[0], samples[0])
        if first.amount * 255 * max(family[0].std) > FAR:
            least = first if first.amount < least.amount or not least.text else least
            continue
        for candidate in family:
            found = difference(candidate, samples)
            if found.amount <= CLOSE:
                return candidate
            if found.amount <= least.amount:
                best, least = candidate, found
    if best is None or least.amount > TOLERANCE:
        raise SettingError(f"the nearest Preprocessing gives other pixels: {least.text}.")
    return best


def _difference(preprocessing: Preprocessing, sample: Sample) -> Difference:
    wide, high = sample.image.size
    text = f"{sample.name} of {wide} x {high} pixels"
    size = high, wide
    for step in preprocessing.geometry:
        size = step.size(*size)
    shape = (1 if preprocessing.mode == "L" else 3, *size)
    if shape != sample.expected.shape:
        return Difference(math.inf, f"{text} becomes {tuple(sample.expected.shape)}, not {shape}")
    bare = preprocessing.model_copy(update={"mean": (), "std": ()})
    amount = float((preprocessing.normalise(_pixels(bare, sample)) - sample.expected).abs().mean())
    # NaN is a difference
    return Difference(math.inf if math.isnan(amount) else amount, f"{text} differs by {amount:.3g} on average")


@lru_cache(4)
def _pixels(preprocessing: Preprocessing, sample: Sample) -> Tensor:
    """Before they are normalised: candidates differ in mean and standard deviation more often than in the rest."""
    return preprocessing.pixels(sample.image)


def _one_image(made: Any) -> Tensor | None:
    if not isinstance(made, Tensor):
        return None
    image = made[0] if made.ndim == 4 and len(made) == 1 else made
    return image.as_subclass(Tensor).float() if image.ndim == 3 else None


def _kind(made: Any) -> str:
    return f"a tensor {tuple(made.shape)}" if isinstance(made, Tensor) else f"a {type(made).__name__}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _picture(height: int, width: int) -> Image.Image:
    """Smooth shades, edges, a fine pattern and noise: what resamplings and crops differ on."""
    rng = np.random.default_rng(height)
    shades = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((width, height), 3)
    y, x = np.mgrid[:height, :width]
    pattern = 40 * np.sin(x / 1.7)[..., None] * np.cos(y / 2.3)[..., None] + 30 * ((x // 17 + y // 11) % 2)[..., None]
    pixels = np.asarray(shades) * 0.7 + pattern + rng.normal(0, 12, (height, width, 3)) + 20
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _transparent(image: Image.Image) -> Image.Image:
    alpha = np.linspace(0, 255, image.height * image.width).reshape(image.height, image.width)
    image.putalpha(Image.fromarray(alpha.astype(np.uint8)))
    return image


__all__ = ["CLOSE", "TOLERANCE", "Difference", "Sample", "difference", "nearest", "samples_of", "test_images"]
