"""Convert a library's transform to a `Preprocessing` with the same pixels, or raise with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from pydantic import ValidationError

from oodline.errors import SettingError
from oodline.preprocessing.comparison import nearest, samples_of
from oodline.preprocessing.compose import read_compose
from oodline.preprocessing.preprocessing import Preprocessing
from oodline.preprocessing.processor import is_processor, processor_families, run_processor


def preprocessing_of(transform: Callable[..., Any], mode: Literal["RGB", "L"] | None = None) -> Preprocessing:
    """See `Preprocessing.of`."""
    if isinstance(transform, Preprocessing):
        return transform
    made = getattr(transform, "transforms", None)
    if hasattr(transform, "meta") and callable(made):  # an entry of torchvision's weights
        transform = made()
    inner: Any = getattr(transform, "image_processor", None)
    if is_processor(inner):  # of images and text together
        transform = inner
    if not callable(transform) or isinstance(transform, type):
        raise SettingError(
            f"preprocessing must be a Preprocessing, a torchvision or timm transform, or an image processor of "
            f"transformers; got {transform!r}."
        )
    name = type(transform).__name__
    try:
        return _checked(transform, mode)
    except (SettingError, ValidationError) as error:
        reason = error.errors()[0]["msg"] + "." if isinstance(error, ValidationError) else str(error)
        raise SettingError(
            f"what {name} does to an image cannot be expressed as a Preprocessing: {reason} Pass a Preprocessing that "
            "does what the model was trained with."
        ) from error


def _checked(transform: Any, mode: Literal["RGB", "L"] | None) -> Preprocessing:
    families: Iterable[Sequence[Preprocessing]]
    if is_processor(transform) and not hasattr(transform, "val_transforms"):
        families, prepare = processor_families(transform, mode or "RGB"), run_processor(transform)
    else:
        prepare = getattr(transform, "val_transforms", transform)  # timm's, within transformers
        families = [[read_compose(prepare, mode)]]
    return nearest(families, samples_of(prepare, mode or "RGB"))
