"""The libraries that models come from: `timm:`, `torchvision:`, `hf:`, and a user's own `python:` references."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from pydantic import ValidationError
from torch import nn

from oodline._util.code import import_code
from oodline._util.spec import Reference
from oodline.errors import ModelError, SettingError, missing_extra, unknown_name
from oodline.model.text_models import text_model, text_preprocessing
from oodline.preprocessing.preprocessing import Preprocessing
from oodline.preprocessing.text import TextPreprocessing

EXAMPLES = {
    "timm": "timm:resnet50",
    "torchvision": "torchvision:resnet50",
    "hf": "hf:microsoft/resnet-50",
    "python": "python:my_models.py:build,num_classes=10",
}


@dataclass(frozen=True)
class Source:
    """A model, and what else its library says of it.

    `transform` makes the library's own evaluation transform, or None where there is none, and says whether images are
    colour or grey. It is asked only where nobody has said how images are prepared. `texts` makes the tokenizer of a
    model of texts.
    """

    model: nn.Module
    transform: Callable[[], tuple[Any, Literal["RGB", "L"] | None]]
    class_names: tuple[str, ...] | None = None
    head: str | None = None
    ambiguous: str = ""  # why the transform may not be that of weights from a file
    texts: Callable[[], TextPreprocessing] | None = None


def names_in_config(model: nn.Module) -> tuple[str, ...] | None:
    """Class names that a model of transformers or timm carries in its configuration, in the order of the logits."""
    labels = getattr(getattr(model, "config", None), "id2label", None)
    if isinstance(labels, dict) and labels and all(isinstance(i, int) for i in labels):
        names = tuple(str(labels[i]) for i in sorted(labels))
        # what transformers writes where nobody gave names
        return None if all(re.fullmatch(r"LABEL_\d+", name) for name in names) else names
    stated = getattr(model, "pretrained_cfg", None)
    listed = stated.get("label_names") if isinstance(stated, dict) else None
    if isinstance(listed, list | tuple) and len(listed) == getattr(model, "num_classes", None):
        return tuple(map(str, listed))
    return None


def _load_timm(reference: Reference) -> Source:
    try:
        import timm
        from timm.data import create_transform, resolve_data_config
    except ImportError as error:
        raise missing_extra("timm", "timm", "timm: references") from error
    if not timm.is_model(reference.name.split(".")[0].removeprefix("hf_hub:")) and ":" not in reference.name:
        raise ModelError(str(unknown_name("timm model", reference.name, timm.list_models())).split(" Known:")[0])
    model = _built(reference, lambda options: timm.create_model(reference.name, **options))
    stated = getattr(model, "pretrained_cfg", {})
    head = stated.get("classifier")

    def transform() -> tuple[Any, Literal["RGB", "L"]]:
        config = resolve_data_config(pretrained_cfg=stated, model=model)
        channels, height, width = config["input_size"]
        channels = reference.options.get("in_chans", channels)
        size = reference.options.get("img_size") or (height, width)
        _check_channels(channels)
        config["input_size"] = (channels, *(size if isinstance(size, list | tuple) else (size, size)))
        if channels == 1:  # as timm does for grey images: one value, the average
            config |= {key: (sum(config[key]) / len(config[key]),) for key in ("mean", "std")}
        return create_transform(**config, is_training=False), "L" if channels == 1 else "RGB"

    return Source(model, transform, names_in_config(model), head if isinstance(head, str) else None)


def _load_torchvision(reference: Reference, rows: str = "") -> Source:
    from torchvision import models

    homes = {"": models, "pixels": models.segmentation, "boxes": models.detection}
    known = models.list_models(module=homes[rows])
    for kind in () if reference.name in known else ("pixels", "boxes"):
        if kind != rows and reference.name in models.list_models(module=homes[kind]):
            raise ModelError(
                f"torchvision:{reference.name} gives one decision per {'box' if kind == 'boxes' else 'pixel'}. Say so: "
                f"--rows {kind}, or rows='{kind}'."
            )
    if reference.name not in known:
        raise ModelError(str(unknown_name("torchvision model", reference.name, known)).split(" Known:")[0])
    entries = models.get_model_weights(reference.name)
    options = dict(reference.options)
    wanted = options.pop("weights", None)
    if wanted is not None and wanted not in entries.__members__:
        raise ModelError(str(unknown_name(f"weights of {reference.name}", str(wanted), entries.__members__)))
    entry = entries.DEFAULT if wanted is None else entries[wanted]

    def build(options: dict[str, Any]) -> nn.Module:
        pretrained = options.pop("pretrained")
        if rows:
            options.setdefault("weights_backbone", None)  # nothing is fetched that was not asked for
        made: nn.Module = models.get_model(reference.name, weights=entry if pretrained else None, **options)
        return made

    model = _built(Reference(reference.scheme, reference.name, options), build)
    categories = tuple(entry.meta.get("categories", ()))

    several = wanted is None and len({str(e.transforms()) for e in entries}) > 1
    return Source(
        model,
        # an object detector resizes and normalises itself: values in [0, 1] are all that it asks for
        lambda: (Preprocessing() if rows == "boxes" else entry.transforms(), None),
        None if "num_classes" in options else categories or None,
        ambiguous=f"torchvision prepares images for {reference.name} in several ways, by its weights; that of {entry} "
        f"is used. If yours are others, say so: torchvision:{reference.name},weights={next(iter(entries)).name}."
        if several
        else "",
    )


def _load_hugging_face(reference: Reference, rows: str = "") -> Source:
    try:
        from transformers import AutoConfig, AutoModelForImageClassification, AutoModelForSemanticSegmentation
    except ImportError as error:
        raise missing_extra("transformers", "transformers", "hf: references") from error
    options = dict(reference.options)
    max_length = options.pop("max_length", None)

    def build(options: dict[str, Any]) -> nn.Module:
        safe = {"trust_remote_code": False}
        pretrained = options.pop("pretrained")
        stated = AutoConfig.from_pretrained(reference.name, **safe, **({} if pretrained else options))
        kind = text_model(stated, reference.name, rows)
        if kind is None:
            kind = AutoModelForSemanticSegmentation if rows == "pixels" else AutoModelForImageClassification
            if max_length is not None:
                raise TypeError("max_length is for models of texts")
        made: nn.Module
        if pretrained:
            made = kind.from_pretrained(reference.name, use_safetensors=True, **safe, **options)
        else:
            made = kind.from_config(stated)
        return made

    model = _built(Reference(reference.scheme, reference.name, options), build)
    if text_model(model.config, reference.name, rows) is not None:
        return Source(
            model,
            lambda: (None, None),
            names_in_config(model),
            texts=lambda: text_preprocessing(reference.name, model, max_length),
        )
    channels = getattr(model.config, "num_channels", 3)

    def transform() -> tuple[Any, Literal["RGB", "L"]]:
        if (processor := _processor(reference.name)) is not None:
            _check_channels(channels)
        return processor, "L" if channels == 1 else "RGB"

    return Source(model, transform, names_in_config(model))


def _check_channels(channels: object) -> None:
    if channels not in (1, 3):
        raise SettingError(f"it takes {channels} channels, and images have 3, or 1 if they are grey.")


def _processor(name: str) -> Any:
    """The image processor of a model, or None where it has none."""
    from transformers import AutoImageProcessor
    from transformers.models.auto.image_processing_auto import get_image_processor_config

    try:
        return AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # a configuration with odd values fails in any way
        try:
            stated = get_image_processor_config(name)
        except Exception:
            stated = {"": "cannot be read"}
        if not stated:
            return None
        reason = str(error).strip().splitlines() or [""]
        raise SettingError(
            f"its image processor cannot be made: {type(error).__name__}: {reason[0].rstrip('.')}. See its "
            "preprocessor_config.json, or pass a Preprocessing that does what the model was trained with."
        ) from error


def _load_python(reference: Reference) -> Source:
    home, colon, factory_name = reference.name.rpartition(":")
    if not colon or not factory_name.isidentifier():
        raise ModelError(f"'python:{reference.name}' must name a file or module and a factory: {EXAMPLES['python']}.")
    module = import_code(home, ModelError)
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        known = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise ModelError(str(unknown_name(f"factory in {home}", factory_name, known)))
    model = _built(reference, lambda options: factory(**options))

    def transform() -> tuple[Any, None]:
        stated = getattr(model, "preprocessing", None)
        try:
            return Preprocessing.model_validate(stated) if isinstance(stated, dict) else stated, None
        except ValidationError as error:
            raise ModelError(
                f"`preprocessing` of the model of {home}:{factory_name} is not a valid Preprocessing: {error}"
            ) from error

    names = getattr(model, "class_names", None)
    return Source(model, transform, names_in_config(model) if names is None else tuple(names))


def _built(reference: Reference, build: Callable[[dict[str, Any]], Any]) -> nn.Module:
    try:
        model = build(dict(reference.options))
    except ModelError:
        raise
    except Exception as error:
        remedy = ""
        if reference.options.get("pretrained") and (isinstance(error, OSError) or "Connect" in type(error).__name__):
            remedy = (
                " Its weights could not be fetched: without a connection, give a file of them (--weights FILE, or "
                f"weights=), or build it without, {reference.scheme}:{reference.name},pretrained=false."
            )
        raise ModelError(
            f"{reference.scheme}:{reference.name} could not be built with {reference.options}: "
            f"{type(error).__name__}: {error}{'' if str(error).endswith('.') or not remedy else '.'}{remedy}"
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{reference.scheme}:{reference.name} gave a {type(model).__name__}, not an nn.Module.")
    return model


LOADERS: dict[str, Callable[[Reference], Source]] = {
    "timm": _load_timm,
    "torchvision": _load_torchvision,
    "hf": _load_hugging_face,
    "python": _load_python,
}

WITH_ROWS: dict[tuple[str, str], Callable[[Reference], Source]] = {
    ("torchvision", "pixels"): partial(_load_torchvision, rows="pixels"),
    ("torchvision", "boxes"): partial(_load_torchvision, rows="boxes"),
    ("hf", "pixels"): partial(_load_hugging_face, rows="pixels"),
    ("hf", "tokens"): partial(_load_hugging_face, rows="tokens"),
}
"""Loaders of models with several decisions per input, by scheme and kind of rows, where they differ."""
