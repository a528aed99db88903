"""Read image processors of transformers as candidates for a `Preprocessing`.

Most classes resize, crop, scale and normalise by their settings; some have further rules that no setting names. So all
rules that the settings allow are candidates, and comparing pixels decides; see `comparison`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any, Literal

from PIL import Image
from pydantic import ValidationError
from torch import Tensor

from oodline.errors import SettingError
from oodline.preprocessing.affine import Affine
from oodline.preprocessing.compose import PIL_NAMES, shorthand
from oodline.preprocessing.geometry import Crop, Pad, Resize, Step
from oodline.preprocessing.preprocessing import Preprocessing


def is_processor(transform: Any) -> bool:
    """Whether it is an image processor of transformers, of whatever version."""
    return any(kind.__name__ in ("ImageProcessingMixin", "FeatureExtractionMixin") for kind in type(transform).__mro__)


def run_processor(processor: Any) -> Callable[[Image.Image], Tensor]:
    """From one image to what the processor calls `pixel_values`."""

    def run(image: Image.Image) -> Tensor:
        made = processor(images=image, return_tensors="pt")
        if "pixel_values" not in made:
            raise ValueError(f"it gives {', '.join(made)} and no pixel_values")
        values: Tensor = made["pixel_values"]
        return values

    return run


def processor_families(processor: Any, mode: Literal["RGB", "L"]) -> Iterator[list[Preprocessing]]:
    """All that a processor might do, by its settings, the usual first; see `comparison.nearest`."""
    number = getattr(processor, "resample", None)
    name = PIL_NAMES.get(int(number), "bilinear") if isinstance(number, int) else getattr(number, "value", "bilinear")
    for steps, values, order in product(
        list(_geometries(processor)), list(_values(processor)), ("L",) if mode == "L" else ("RGB", "BGR", "turned")
    ):
        numbers = values.channels(1 if mode == "L" else 3)
        if order == "turned":  # PP-LCNet turns the channels after it has normalised
            numbers = {key: value[::-1] for key, value in numbers.items()}
        family = []
        for transparency, arithmetic in product(("drop", "white"), ("pil", "uint8", "float32")):
            kind = "nearest-exact" if name == "nearest" and arithmetic != "pil" else name
            resampled = [s.model_copy(update={"interpolation": kind}) if isinstance(s, Resize) else s for s in steps]
            candidate = {
                **shorthand(resampled, arithmetic),
                **numbers,
                "mode": "BGR" if order == "turned" else order,
                "transparency": transparency,
                "arithmetic": arithmetic,
            }
            try:
                family.append(Preprocessing.model_validate(candidate))
            except ValidationError as error:
                raise SettingError(f"its settings make no preprocessing: {error.errors()[0]['msg']}.") from error
        yield family


def _geometries(processor: Any) -> Iterator[list[Step]]:
    rounding: Literal["zero", "down"] = "down" if getattr(processor, "backend", "pil") == "pil" else "zero"
    crop, edges = _sizes(processor, "crop_size"), _sizes(processor, "size")
    cropped = None
    if getattr(processor, "do_center_crop", False):
        side = crop.get("shortest_edge")
        height, width = crop.get("height", side), crop.get("width", side)
        cropped = Crop(height=height, width=width, rounding=rounding) if height and width else None
    pad = _sizes(processor, "pad_size")
    paddings: list[list[Step]] = [[]]
    if getattr(processor, "do_pad", False) and set(pad) == {"height", "width"}:
        mean = getattr(processor, "image_mean", None)  # padded before it is normalised, or after
        fills = [0, *([tuple(round(255 * m) for m in mean)] if isinstance(mean, list | tuple) else [])]
        paddings += [[Pad.model_validate({**pad, "fill": fill})] for fill in fills]
    resizings = list(_resizings(processor, edges, rounding)) if getattr(processor, "do_resize", True) else [[]]
    for padding, steps in product(reversed(paddings), resizings):
        if cropped is not None:
            yield [*steps, cropped, *padding]
        yield [*steps, *padding]
    if {"height", "width"} <= set(edges) and {"height", "width"} <= set(crop):  # Perceiver crops before it resizes
        share = (edges["height"] / crop["height"], edges["width"] / crop["width"])
        yield [Crop(share=share, rounding=rounding), Resize(height=edges["height"], width=edges["width"])]
    if {"height", "width"} <= set(edges):  # OWLv2
        yield [Pad(square=True), Resize(height=edges["height"], width=edges["width"])]
        yield [Pad(square=True, fill=128), Resize(height=edges["height"], width=edges["width"])]


def _resizings(processor: Any, edges: dict[str, int], rounding: Literal["zero", "down"]) -> Iterator[list[Step]]:
    short, long, height, width = (edges.get(k) for k in ("shortest_edge", "longest_edge", "height", "width"))
    portion, divisor = getattr(processor, "crop_pct", None), getattr(processor, "size_divisor", None)

    def shorter(length: int, **more: Any) -> Resize:
        return Resize(height=length, width=length, aspect="cover", **more)

    if height and width:
        yield [Resize(height=height, width=width)]
        if portion:
            scaled = int(height / portion), int(width / portion)
            yield [shorter(scaled[0]) if height == width else Resize(height=scaled[0], width=scaled[1])]
    if short and long:
        yield [shorter(short, limit=long, limit_rounding="nearest")]
        yield [shorter(short, limit=long)]
    elif long:
        yield [Resize(height=long, width=long, aspect="fit")]
        yield [Resize(height=long, width=long, aspect="fit", rounding="nearest")]
    if edges.get("max_height") and edges.get("max_width"):
        yield [Resize(height=edges["max_height"], width=edges["max_width"], aspect="fit")]
    if short and not long:
        yield [shorter(short)]
        if portion:  # PoolFormer
            yield [shorter(int(short / portion))]
        if portion and short < 384:  # ConvNeXT
            yield [shorter(int(short / portion)), Crop(height=short, width=short, rounding=rounding)]
        yield [Resize(height=short, width=short)]  # ConvNeXT from 384
        yield [shorter(int(256 / 224 * short))]  # LeViT
        if divisor:  # TextNet
            yield [shorter(short, multiple=divisor)]
    if divisor:  # PP-LCNet, GLPN
        if edge := getattr(processor, "resize_short", None):
            yield [shorter(edge, rounding="nearest", multiple=divisor)]
        yield [Resize(multiple=divisor, multiple_rounding="down")]
    if not edges and not divisor:
        yield []


def _values(processor: Any) -> Iterator[Affine]:
    """Scaled and normalised as stated, then the rules that not all classes follow."""
    raw = Affine().times(255)
    scaled = raw.times(getattr(processor, "rescale_factor", None) or 1 / 255)
    start = scaled if getattr(processor, "do_rescale", True) else raw
    mean, std = getattr(processor, "image_mean", None), getattr(processor, "image_std", None)
    ends = [start]
    if any(getattr(processor, name, False) for name in ("rescale_offset", "offset")):
        ends.insert(0, start.normalised(1.0, 1.0))
    if mean is None or std is None:
        yield from ends
        return
    for end in ends:
        done = end.normalised(mean, std) if getattr(processor, "do_normalize", True) else end
        if getattr(processor, "include_top", False):  # EfficientNet divides once more
            yield done.normalised(0.0, std)
        yield done
    yield from ends


def _sizes(processor: Any, name: str) -> dict[str, int]:
    """A size as a dict of those edges that it states: they are a dict, a number, a pair or an object, by version."""
    size = getattr(processor, name, None)
    if isinstance(size, int):
        return {"shortest_edge": size}
    if isinstance(size, list | tuple) and len(size) == 2:
        return {"height": size[0], "width": size[1]}
    if size is not None and not isinstance(size, Mapping):
        size = dict(size)
    return {key: value for key, value in (size or {}).items() if isinstance(value, int) and value > 0}
