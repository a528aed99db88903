"""Decode an image file or bytes, ready for preprocessing: the one place where data sets' images are decoded.

Of a file with several frames or pages (GIF, APNG, WebP, TIFF, MPO) the first one counts. What orientation, transparency
and more than 8 bits mean is said in `oodline._util.pixels`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from oodline._util.pixels import standard_image, upright
from oodline.errors import ImageError

if TYPE_CHECKING:
    from oodline.data.sources import ImageSource

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""What is decoded, whatever a file is called. PIL knows more: EPS starts an external interpreter, PDF, WMF and others
are not images of pixels, and decoders that nobody uses are those that nobody checks."""


def decode(content: str | Path | bytes, name: str | None = None) -> Image.Image:
    """Decode an image file's first frame, upright and with 8 bits per channel.

    Parameters
    ----------
    content : str, Path or bytes
        A file, or what one holds.
    name : str, optional
        What to call the image in messages; the path if omitted.

    Raises
    ------
    ImageError
        Missing, damaged, not one of `FORMATS`, too large, or of values whose white is not known; names the image.

    Examples
    --------
    >>> file = BytesIO()
    >>> Image.new("L", (3, 2), 7).save(file, "PNG")
    >>> decode(file.getvalue()).getpixel((0, 0))
    7
    >>> decode(b"%!PS-Adobe-3.0 EPSF-3.0", "a.png")
    Traceback (most recent call last):
    oodline.errors.ImageError: image a.png cannot be read: cannot identify image file: it is not AVIF, BMP, GIF, JPEG,
    JPEG2000, PNG, PPM, TIFF, WEBP, or its header is damaged.
    """
    return _checked(content, name or ("of bytes" if isinstance(content, bytes) else str(content)), _decode)


R = TypeVar("R")


def _checked(content: str | Path | bytes, name: str, read: Callable[[IO[bytes]], R]) -> R:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL warns of damaged EXIF and the like, and reads the pixels
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if isinstance(content, bytes):
                return read(BytesIO(content))
            if not Path(content).is_file():  # a pipe or a device would never end
                raise FileNotFoundError(f"there is no file {content}")
            with Path(content).open("rb") as file:  # closed whether or not it can be decoded
                return read(file)
    except Exception as error:  # decoders raise many kinds on what they were not made for
        raise image_error(name, error) from error


def decode_mask(path: str | Path, name: str | None = None) -> NDArray[np.int64]:
    """Decode a file whose pixels are numbers of classes (H, W): grey, or a palette, whose colours say nothing.

    Raises
    ------
    ImageError
        As `decode`, or it has several channels.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     Image.new("L", (3, 2), 7).save(f"{folder}/mask.png")
    ...     decode_mask(f"{folder}/mask.png")
    array([[7, 7, 7],
           [7, 7, 7]])
    """
    return _checked(path, name or str(path), _decode_mask)


def read_image(source: ImageSource, i: int) -> Image.Image:
    """Image `i` of a source, upright and with 8 bits per channel.

    Raises
    ------
    ImageError
        The source could not read it, whatever it raised; names the image.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from oodline.data import open_images
    >>> with TemporaryDirectory() as folder:
    ...     Image.new("RGB", (8, 8)).save(f"{folder}/black.png")
    ...     read_image(open_images(folder), 0).size
    (8, 8)
    """
    try:
        return standard_image(source.read(i))
    except ImageError:
        raise
    except Exception as error:
        raise image_error(source.name(i), error) from error


def image_error(name: str, error: Exception) -> ImageError:
    """Name the image that a decoder could not read."""
    if isinstance(error, MemoryError):
        raise error  # the machine is at fault, and the next image fares no better
    reason = str(error).strip().rstrip(".") or type(error).__name__
    if isinstance(error, UnidentifiedImageError) and "cannot identify" in reason:
        reason = f"cannot identify image file: it is not {', '.join(FORMATS)}, or its header is damaged"
    named = ImageError(f"image {name} cannot be read: {reason}.")
    named.reason = reason
    return named


def _decode(file: IO[bytes]) -> Image.Image:
    with _opened(file) as image:
        return standard_image(image)


def _decode_mask(file: IO[bytes]) -> NDArray[np.int64]:
    with _opened(file) as image:
        values = np.asarray(upright(image))  # of a palette, the numbers
        if values.ndim != 2 or values.dtype.kind not in "biu":
            raise ValueError(f"a mask must have one whole number per pixel, grey or a palette; it is {image.mode}")
        return values.astype(np.int64)


def _opened(file: IO[bytes]) -> Image.Image:
    Image.init()
    return Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])
