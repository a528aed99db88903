"""Images as small data URIs, which a page holds within itself."""

from __future__ import annotations

import base64
import io

from PIL import Image

from oodline._util.pixels import standard_image
from oodline.data import ImageSource
from oodline.data.decoding import read_image

SIDE = 96
"""Longest side of a thumbnail, in pixels; what is smaller stays as it is."""


def thumbnail(image: Image.Image) -> str:
    """A data URI of the image, at most `SIDE` pixels wide and high: PNG for an icon, JPEG for a photograph.

    Examples
    --------
    >>> thumbnail(Image.new("L", (8, 8)))[:22], thumbnail(Image.new("RGB", (400, 200)))[:23]
    ('data:image/png;base64,', 'data:image/jpeg;base64,')
    """
    small = standard_image(image).convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    if max(image.size) <= 32:
        small.save(out, "PNG", optimize=True)
        kind = "png"
    else:
        small.save(out, "JPEG", quality=82)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"


def read_thumbnail(source: ImageSource, i: int) -> str:
    """The thumbnail of image `i` of a source.

    Raises
    ------
    ImageError
        The image cannot be read.
    """
    return thumbnail(read_image(source, i))
