"""Convert an image of any PIL mode to 8-bit pixels, upright, or refuse it.

Two choices hold everywhere, from `fit` to the page of `serve`. The orientation that EXIF states is applied: a
photograph counts as a person sees it, not as the camera was held. Transparency is left out, as torchvision and timm
leave it out: the colours that are stored count, whatever their alpha. A `Preprocessing` may show them on white, as some
processors of transformers do.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from oodline.errors import InputError

_ORIENTATION = 274
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_STATES_ORIENTATION = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")
"""Entries of `Image.info` from which PIL reads an orientation."""

_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0
"""Tags of a TIFF file."""

_LARGE = "Save it with 8 or 16 bits per channel."


def standard_image(image: Image.Image) -> Image.Image:
    """Turn an image upright, and make it one whose `convert("RGB")` and `convert("L")` are right.

    Parameters
    ----------
    image : PIL image
        Of any mode. 16-bit grey is scaled by its white (65535, or 4095 for 12 bits). 32-bit integers are scaled where
        their white is known: 65535 from PGM and PNG files, 255 in memory, as PIL has it. Floats in [0, 1] are scaled
        by 255; in memory, others up to 255 are taken as PIL takes them.

    Returns
    -------
    PIL image
        The same object where nothing had to be done. What was done is not done again.

    Raises
    ------
    InputError
        The white of integers or floats is not known.

    Examples
    --------
    >>> dark = Image.new("I;16", (1, 1), 256)
    >>> dark.convert("L").getpixel((0, 0)), standard_image(dark).getpixel((0, 0))
    (255, 1)
    """
    return _eight_bit(upright(image))


def upright(image: Image.Image) -> Image.Image:
    """Apply the orientation that EXIF (or XMP) states, and forget it, so that it is not applied twice.

    Examples
    --------
    >>> wide = Image.new("RGB", (4, 2))
    >>> wide.getexif()[274] = 6
    >>> upright(wide).size, upright(upright(wide)).size
    ((2, 4), (2, 4))
    """
    image.load()  # PIL turns TIFF files itself, as it loads them
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF raises many kinds; the pixels are none the worse
        return image
    if turn is None:
        return image
    turned = image.transpose(turn)
    turned.format = image.format
    for key in _STATES_ORIENTATION:
        turned.info.pop(key, None)
    return turned


def _eight_bit(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode.startswith("I;16"):
        return _grey(image, np.asarray(image), _white(image))
    if mode == "I":
        return _integers(image)
    if mode == "F":
        return _floats(image)
    if mode == "P" and "transparency" in image.info:
        return image.convert("RGBA")  # palettes with several transparent colours have no other way to RGB
    if mode in ("La", "RGBa"):
        return image.convert(mode.upper())  # colours are kept multiplied by alpha
    if mode == "LAB":
        return image.convert("RGB")
    return image


def _integers(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if image.format in ("PPM", "PNG"):
        return _grey(image, values, 65535)
    if image.format is None and low >= 0 and high <= 255:
        return image
    raise InputError(
        f"32-bit integers (mode I, from {low} to {high}) do not say which value is white, so they cannot be scaled to "
        f"[0, 1]. {_LARGE}"
    )


def _floats(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 1:
        return _grey(image, values, 1)
    if image.format is None and low >= 0 and high <= 255:
        return image
    raise InputError(f"floats (mode F) must lie in [0, 1]; these go from {low:g} to {high:g}. {_LARGE}")


def _white(image: Image.Image) -> int:
    bits = getattr(image, "tag_v2", {}).get(_BITS, (16,))
    return int(2 ** bits[0] - 1) if bits[0] <= 16 else 65535


def _grey(image: Image.Image, values: NDArray[np.generic], white: int) -> Image.Image:
    if white == 1:
        greys = np.rint(values.astype(np.float32) * 255).astype(np.uint8)
    else:  # a table, which takes less memory than floats of all pixels
        greys = np.rint(np.arange(white + 1) * (255 / white)).astype(np.uint8)[values]
    if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        greys = 255 - greys  # PIL turns 8-bit greys over, and leaves others as they are
    return Image.fromarray(greys)
