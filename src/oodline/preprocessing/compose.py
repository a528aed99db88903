"""Read transforms of torchvision (v1 and v2) and timm as a `Preprocessing`, step by step.

Steps are recognised by their class names; comparing pixels checks that they were understood.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from oodline.errors import SettingError
from oodline.preprocessing.affine import Affine
from oodline.preprocessing.geometry import Crop, Pad, Resize, Step
from oodline.preprocessing.preprocessing import Preprocessing


def read_compose(transform: Callable[..., Any], mode: Literal["RGB", "L"] | None) -> Preprocessing:
    """What a transform seems to do.

    Raises
    ------
    SettingError
        It has a step that is not known.
    """
    if type(transform).__name__ in ("ImageClassification", "SemanticSegmentation"):
        return _preset(transform)
    reader = _Reader(mode)
    for step in _flat(transform):
        reader.read(step)
    return reader.result()


def shorthand(steps: Sequence[Step], arithmetic: str = "pil") -> dict[str, Any]:
    """Arguments of a `Preprocessing` for steps: `resize` and `crop` where these can say it."""
    rest = list(steps)
    fields: dict[str, Any] = {}
    if rest and isinstance(rest[0], Resize):
        first = rest.pop(0)
        assert isinstance(first, Resize)
        box = (first.height, first.width)
        plain = Resize(height=first.height, width=first.width, aspect=first.aspect, interpolation=first.interpolation)
        square = first.aspect == "cover" and first.height == first.width
        antialias = {} if arithmetic != "pil" else {"antialias": True}
        if first.model_copy(update=antialias) != plain or not (square or first.aspect == "stretch") or None in box:
            return {"steps": tuple(steps)}
        fields |= {"resize": first.height if square else box, "interpolation": first.interpolation}
    if rest and isinstance(rest[0], Crop) and rest[0].share is None and rest[0].fill == 0:
        crop = rest.pop(0)
        assert isinstance(crop, Crop)
        fields |= {"crop": (crop.height, crop.width), "crop_rounding": crop.rounding}
    return {"steps": tuple(steps)} if rest else fields


def _preset(transform: Any) -> Preprocessing:
    def one(size: Any) -> Any:
        return size[0] if isinstance(size, list | tuple) and len(size) == 1 else size

    return Preprocessing(
        resize=one(transform.resize_size),
        crop=one(getattr(transform, "crop_size", None)),  # that of segmentation does not crop
        mean=tuple(transform.mean),
        std=tuple(transform.std),
        interpolation=transform.interpolation.value,
    )


def _flat(transform: Any) -> Iterator[Any]:
    """The steps of a `Compose` or a `Sequential`, however they are nested."""
    inner = getattr(transform, "transforms", None)
    if isinstance(transform, nn.Sequential):
        inner = list(transform)
    if isinstance(inner, list | tuple | nn.ModuleList):
        for step in inner:
            yield from _flat(step)
    else:
        yield transform


@dataclass
class _Reader:
    """Follows an image through the steps: what it is (`kind`), and what became of its values."""

    wanted: Literal["RGB", "L"] | None
    kind: str = "pil"
    mode: str | None = None
    resized_as: str | None = None
    steps: list[Step] = field(default_factory=list)
    values: Affine = field(default_factory=lambda: Affine().times(255))
    one_value: bool = False

    def read(self, step: Any) -> None:
        name = type(step).__name__
        reads = getattr(self, f"_{name.lower()}", None)
        if reads is None:
            known = ", ".join(sorted(_KNOWN))
            kind = f"the function {step.__name__}" if hasattr(step, "__name__") else f"the step {name}"
            raise SettingError(f"{kind} cannot be expressed. These can: {known}.")
        try:
            reads(step)
        except (AttributeError, TypeError, ValueError) as error:
            if isinstance(error, SettingError):
                raise
            raise SettingError(f"the step {name} cannot be read: {error}.") from error

    def result(self) -> Preprocessing:
        if self.one_value and self.mode is None and self.wanted is None:
            raise SettingError(
                "it normalises by one value, for grey or for colour images. Say which: "
                'Preprocessing.of(transform, mode="L") or mode="RGB".'
            )
        mode = self.mode or self.wanted or "RGB"
        arithmetic = self.resized_as or "pil"
        return Preprocessing.model_validate(
            {
                **shorthand(self.steps, arithmetic),
                **self.values.channels(1 if mode == "L" else 3),
                "mode": mode,
                "arithmetic": arithmetic,
            }
        )

    def _resize(self, step: Any) -> None:
        size, most = step.size, getattr(step, "max_size", None)
        if isinstance(size, list | tuple) and len(size) == 1:
            size = size[0]
        if size is None:
            box: dict[str, Any] = {"height": most, "width": most, "aspect": "fit"}
        elif isinstance(size, int):
            box = {"height": size, "width": size, "aspect": "cover", "limit": most}
        else:
            box = {"height": size[0], "width": size[1]}
        self._add_resize(step, box)

    def _resizekeepratio(self, step: Any) -> None:
        if step.longest not in (0.0, 1.0) or step.random_scale_prob or step.random_aspect_prob:
            raise SettingError("ResizeKeepRatio can be expressed only with longest 0 or 1, and without randomness.")
        aspect = "fit" if step.longest else "cover"
        self._add_resize(step, {"height": step.size[0], "width": step.size[1], "aspect": aspect, "rounding": "nearest"})

    def _add_resize(self, step: Any, box: dict[str, Any]) -> None:
        interpolation = step.interpolation
        if isinstance(interpolation, list | tuple):
            raise SettingError("a random interpolation cannot be expressed.")
        self.resized_as = self.resized_as or self.kind
        antialias = getattr(step, "antialias", True) is not False or self.kind == "pil"
        name = (
            PIL_NAMES[interpolation]
            if isinstance(interpolation, int)
            else getattr(interpolation, "value", interpolation)
        )
        self.steps.append(Resize.model_validate({**box, "interpolation": name, "antialias": antialias}))

    def _centercrop(self, step: Any) -> None:
        height, width = (step.size, step.size) if isinstance(step.size, int) else (step.size[0], step.size[-1])
        self.steps.append(Crop(height=height, width=width, fill=_fill(getattr(step, "fill", 0), self.kind)))

    _centercroporpad = _centercrop

    def _pad(self, step: Any) -> None:
        if step.padding_mode != "constant":
            raise SettingError(f"padding with {step.padding_mode} pixels cannot be expressed.")
        edges = [step.padding] if isinstance(step.padding, int) else list(step.padding)
        edges = edges * 4 if len(edges) == 1 else edges * 2 if len(edges) == 2 else edges
        self.steps.append(Pad.model_validate({"border": edges, "fill": _fill(step.fill, self.kind)}))

    def _grayscale(self, step: Any) -> None:
        self.mode = "L" if step.num_output_channels == 1 else "LLL"

    def _rgb(self, step: Any) -> None:
        self.mode = self.mode or "RGB"

    def _totensor(self, step: Any) -> None:
        if self.kind == "pil":
            self.kind, self.values = "float32", self.values.times(1 / 255)

    _maybetotensor = _totensor

    def _piltotensor(self, step: Any) -> None:
        self.kind = "uint8" if self.kind == "pil" else self.kind

    _toimage = _maybepiltotensor = _piltotensor

    def _todtype(self, step: Any) -> None:
        dtype = step.dtype
        if isinstance(dtype, dict):
            dtype = next(iter(dtype.values()))
        self._convert(dtype, scale=step.scale)

    def _convertimagedtype(self, step: Any) -> None:
        self._convert(step.dtype, scale=True)

    def _convert(self, dtype: Any, *, scale: bool) -> None:
        if dtype == torch.uint8 and self.kind == "uint8":
            return
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point or self.kind == "pil":
            raise SettingError(f"a conversion of {self.kind} to {dtype} cannot be expressed.")
        if scale and self.kind == "uint8":
            self.values = self.values.times(1 / 255)
        self.kind = "float32"

    def _normalize(self, step: Any) -> None:
        self.values = self.values.normalised(step.mean, step.std)
        self.one_value = len(self.values.mean) == 1

    def _lambda(self, step: Any) -> None:
        """Such as `image.convert("RGB")`: the comparison finds out whether it changes anything."""

    _topuretensor = _identity = _lambda


def _fill(fill: Any, kind: str) -> Any:
    if isinstance(fill, dict):
        fill = next(iter(fill.values()))
    values = list(fill) if isinstance(fill, list | tuple) else [fill or 0]
    values = [round(255 * v) if kind == "float32" else round(v) for v in values]
    return values[0] if len(set(values)) == 1 else tuple(values)


PIL_NAMES = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""PIL's numbers of interpolations."""

_KNOWN = (
    "Compose", "Resize", "CenterCrop", "Pad", "Grayscale", "RGB", "ToTensor", "PILToTensor", "ToImage", "ToDtype",
    "ConvertImageDtype", "Normalize", "ResizeKeepRatio", "CenterCropOrPad",
)  # fmt: skip
