"""Lay a map over an image: places of the map in one colour, the image grey behind it."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from oodline._util.drawing import ID, OOD
from oodline.explain.faithful import enlarged

if TYPE_CHECKING:
    from PIL import Image

    from oodline.guard.explanation import Explanation

LACKING = "#7b3fa0"
"""Places that lack what is expected."""

SIDE = 224
"""Pixels of the longer side at least, so that small images can be looked at."""

LARGEST = 320
"""Pixels of a side at most, of a picture that is sent."""


def panels_of(explanation: Explanation) -> dict[str, Image.Image | None]:
    """Evidence, missing and unexpected, each over the image; None where there is nothing to show."""
    maps, pixels = explanation.maps, explanation.pixels
    if maps is None or pixels is None:
        return dict.fromkeys(("evidence", "missing", "unexpected"))
    chosen = (
        ("evidence", maps.evidence, ID, bool(explanation.important.any())),
        ("missing", maps.missing, LACKING, bool(explanation.missing)),
        ("unexpected", maps.unexpected, OOD, bool(explanation.unexpected)),
    )
    return {
        name: overlay(pixels, map, colour) if there_is and float(map.max()) > 0 else None
        for name, map, colour, there_is in chosen
    }


def pictures_of(explanation: Explanation) -> dict[str, str | None] | None:
    """The same as data URIs of PNG files, of at most `LARGEST` pixels a side; None without maps."""
    if explanation.maps is None:
        return None
    found: dict[str, str | None] = {}
    for name, picture in panels_of(explanation).items():
        found[name] = None
        if picture is not None:
            picture.thumbnail((LARGEST, LARGEST))
            out = io.BytesIO()
            picture.save(out, "PNG")
            found[name] = f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"
    return found


def overlay(pixels: UInt8[Tensor, "h w 3"], map: Float[Tensor, "a b"], colour: str) -> Image.Image:
    """An image with a map laid over it, positive places in colour; the strongest one is opaque.

    Parameters
    ----------
    pixels : Tensor (H, W, 3), uint8
        The image.
    map : Tensor (A, B)
        Of any size; negative values count as 0.
    colour : str
        As "#d55e00".

    Examples
    --------
    >>> overlay(torch.zeros(32, 32, 3, dtype=torch.uint8), torch.eye(4), "#d55e00").size
    (224, 224)
    """
    from PIL import Image

    height, width = pixels.shape[:2]
    factor = max(1, -(-SIDE // max(height, width)))
    size = (height * factor, width * factor)
    grey = pixels.float().mean(2, keepdim=True).repeat_interleave(factor, 0).repeat_interleave(factor, 1)
    ink = torch.tensor([int(colour[i : i + 2], 16) for i in (1, 3, 5)], dtype=torch.float32)
    positive = enlarged(map.clamp(min=0), size)
    strength = 0.85 * (positive / positive.max().clamp(min=1e-12)).unsqueeze(2)
    mixed = (60 + 0.7 * grey) * (1 - strength) + ink * strength  # lighter than the image, so that colour stands out
    return Image.fromarray(mixed.clamp(0, 255).byte().numpy())
