"""Maps of a verdict of pixels in a JSON answer: PNG files in base64, or nested lists."""

from __future__ import annotations

import base64
import io
from typing import Any, Literal

import numpy as np
from PIL import Image
from torch import Tensor

from oodline.guard.row_verdict import RowVerdict

MapForm = Literal["none", "png", "list"]

MAPS: tuple[MapForm, ...] = ("png", "list")

MOST_LISTED = 2**16
"""Pixels of a map at most that an answer lists; a larger one is told of, and sent as PNG alone."""


def maps_of(verdict: RowVerdict, form: MapForm) -> list[dict[str, Any]]:
    """The maps of each image, in a form that JSON holds.

    As "png": `is_ood` is 0 or 255, `label` the class, in 8 bits or 16, and `p_value` from 0 to 65535 for 0 to 1, in 16
    bits. As "list": also `score`, as numbers; a map of more than `MOST_LISTED` pixels has a `note` instead.

    Parameters
    ----------
    verdict : RowVerdict
        Of a batch.
    form : {"png", "list"}
        Which.
    """
    maps = {column: verdict.maps(column) for column in ("is_ood", "label", "p_value", "score")}
    height, width = maps["is_ood"].shape[1:]
    found: list[dict[str, Any]] = [{"height": height, "width": width} for _ in range(len(verdict))]
    if form == "list" and height * width > MOST_LISTED:
        note = f"a map of {height * width} pixels is not listed, only those of at most {MOST_LISTED}: ask for maps=png"
        return [{**each, "note": note} for each in found]
    for i, each in enumerate(found):
        if form == "list":
            each.update({column: values[i].tolist() for column, values in maps.items()})
        else:
            each["is_ood"] = _png(255 * maps["is_ood"][i].byte(), "uint8")
            each["label"] = _png(maps["label"][i], "uint8" if int(maps["label"].max()) < 256 else "uint16")
            each["p_value"] = _png((65535 * maps["p_value"][i]).round(), "uint16")
    return found


def _png(values: Tensor, kind: str) -> str:
    file = io.BytesIO()
    Image.fromarray(values.numpy().astype(np.dtype(kind))).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
