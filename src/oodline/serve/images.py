"""Decode an image from an untrusted client, at a cost that is checked before decoding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

from PIL import Image, UnidentifiedImageError

from oodline.preprocessing.preprocessing import Preprocessing
from oodline.serve.problems import TOO_MANY_PIXELS, UNREADABLE_IMAGE, UNSUPPORTED_TYPE, Problem
from oodline.serve.settings import ServeSettings

FORMATS = {"PNG": b"\x89PNG", "JPEG": b"\xff\xd8\xff", "WEBP": b"RIFF", "BMP": b"BM"}
"""What is decoded, by how it begins; nothing else of what PIL knows is tried."""

MAX_SCANS = 100
"""Scans of a JPEG file at most: each costs a pass over all pixels, and a real one has about ten."""

_SEND_ANOTHER = "Send a complete PNG, JPEG, WebP or BMP file."


def open_image(content: bytes, settings: ServeSettings, preprocessing: Preprocessing) -> Image.Image:
    """Read the header of a PNG, JPEG, WebP or BMP file; `load_image` decodes it.

    Parameters
    ----------
    content : bytes
        The file. Its beginning says what it is, whatever its name or content type.
    settings : ServeSettings
        `max_pixels` of the image, and of what the preprocessing makes of it; `max_input` of what the classifier sees.
    preprocessing : Preprocessing
        What will be done to the image.

    Raises
    ------
    Problem
        Empty, of another format, damaged, or with too many pixels.

    Examples
    --------
    >>> file = BytesIO()
    >>> Image.new("RGB", (4, 3)).save(file, "PNG")
    >>> load_image(open_image(file.getvalue(), ServeSettings(), Preprocessing())).size
    (4, 3)
    """
    if not content:
        raise Problem(UNREADABLE_IMAGE, "It is empty: 0 bytes.", _SEND_ANOTHER)
    if not content.startswith(tuple(FORMATS.values())):
        raise Problem(
            UNSUPPORTED_TYPE, f"The file begins with {content[:8]!r}, as no PNG, JPEG, WebP or BMP does.", _SEND_ANOTHER
        )
    if content.startswith(FORMATS["JPEG"]) and content.count(b"\xff\xda") > MAX_SCANS:
        raise Problem(UNREADABLE_IMAGE, f"It is a JPEG file of more than {MAX_SCANS} scans.", "Save it anew.")
    with _decoding(settings):
        if size := _webp_size(content):
            _check_pixels(size, settings, preprocessing)  # PIL would make room for the canvas as it opens the file
        image = Image.open(BytesIO(content), formats=tuple(FORMATS))
        _check_pixels(image.size, settings, preprocessing)
    return image


def load_image(image: Image.Image, settings: ServeSettings | None = None) -> Image.Image:
    """Decode the first frame of what `open_image` opened.

    Raises
    ------
    Problem
        Truncated or damaged.
    """
    with _decoding(settings or ServeSettings()):
        image.load()
    return image


def has_fixed_size(preprocessing: Preprocessing) -> bool:
    """Whether every image has the same size when the classifier sees it.

    >>> has_fixed_size(Preprocessing(crop=8)), has_fixed_size(Preprocessing(resize=8))
    (True, False)
    """
    return preprocessing.crop is not None or isinstance(preprocessing.resize, tuple)


def pixels_to_decode(image: Image.Image, preprocessing: Preprocessing) -> int:
    """Pixels that there are while the image is decoded: its own, and those that it has after resizing."""
    width, height = preprocessing.resized(*image.size)
    return image.size[0] * image.size[1] + width * height


@contextmanager
def _decoding(settings: ServeSettings) -> Iterator[None]:
    try:
        yield
    except Problem:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_many_pixels(str(error), settings.max_pixels) from error
    except UnidentifiedImageError as error:
        raise Problem(UNREADABLE_IMAGE, "Its header is damaged or truncated.", _SEND_ANOTHER) from error
    except Exception as error:  # decoders raise many kinds on what they were not made for
        raise Problem(UNREADABLE_IMAGE, f"Decoding ended in: {_words(error)}.", _SEND_ANOTHER) from error


def _check_pixels(size: tuple[int, int], settings: ServeSettings, preprocessing: Preprocessing) -> None:
    width, height = size
    if width * height > settings.max_pixels:
        raise _too_many_pixels(f"Its header says {width} x {height}.", settings.max_pixels)
    width, height = preprocessing.resized(width, height)
    if width * height > settings.max_pixels:
        raise _too_many_pixels(
            f"Its sides are so unequal, {size[0]} x {size[1]}, that resized for the classifier it would have "
            f"{width} x {height}.",
            settings.max_pixels,
        )
    if not has_fixed_size(preprocessing) and width * height > settings.max_input:
        detail = f"The classifier states no size of its input, and would see all {width} x {height} pixels."
        raise Problem(TOO_MANY_PIXELS, detail, f"Send an image of at most {settings.max_input} pixels (max_input).")


def _too_many_pixels(detail: str, max_pixels: int) -> Problem:
    return Problem(TOO_MANY_PIXELS, detail, f"Send an image of at most {max_pixels} pixels (max_pixels).")


def _webp_size(content: bytes) -> tuple[int, int] | None:
    """Width and height in the header of a WebP file (RFC 9649), None where there is no such header."""
    if content[:4] != b"RIFF" or content[8:12] != b"WEBP" or len(content) < 30:
        return None
    kind, number = content[12:16], int.from_bytes
    if kind == b"VP8X":
        return number(content[24:27], "little") + 1, number(content[27:30], "little") + 1
    if kind == b"VP8L":
        bits = number(content[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return number(content[26:28], "little") & 0x3FFF, number(content[28:30], "little") & 0x3FFF


def _words(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0].rstrip(".")[:200] or type(error).__name__
