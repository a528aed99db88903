"""From a model reference to a classifier with its preprocessing: `timm:`, `torchvision:`, `hf:` and `python:`.

A `python:` reference runs the code it names, which is why it is followed only when a user writes it, never when a file
does.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from oodline.errors import ModelError, SettingError, missing_extra, unknown_name
from oodline.preprocessing import Preprocessing
from oodline.references import Reference, parse_reference
from oodline.weights import load_weights

EXAMPLES = {
    "timm": "timm:resnet50",
    "torchvision": "torchvision:resnet50",
    "hf": "hf:microsoft/resnet-50",
    "python": "python:my_models.py:build,num_classes=10",
}


@dataclass(frozen=True)
class LoadedModel:
    """A classifier in evaluation mode, with what its source says of it.

    Parameters
    ----------
    model : nn.Module
        In evaluation mode.
    preprocessing : Preprocessing, optional
        As the model's own configuration has it.
    class_names : tuple of str, optional
        In the order of the logits.
    head : str, optional
        Name of the head, where the source states it.
    """

    model: nn.Module
    preprocessing: Preprocessing | None = None
    class_names: tuple[str, ...] | None = None
    head: str | None = None


def load_model(reference: str, weights: str | Path | None = None) -> LoadedModel:
    """Build the classifier that a reference names.

    Parameters
    ----------
    reference : str
        `timm:NAME`, `torchvision:NAME`, `hf:NAME_OR_FOLDER` or `python:MODULE_OR_FILE:FACTORY`, each with options for
        its constructor as `,key=value`. Pretrained weights are fetched by the library that has them, unless
        `weights` is given or the reference says `pretrained=false`.
    weights : str or Path, optional
        A file of weights to load into it.

    Raises
    ------
    ModelError
        Unknown scheme, name or factory, a constructor that fails, weights that do not fit or cannot be read.
    MissingExtraError
        timm or transformers is not installed.

    Examples
    --------
    >>> loaded = load_model("torchvision:resnet18,pretrained=false,num_classes=10")
    >>> loaded.model.fc.out_features, loaded.preprocessing.crop
    (10, 224)
    """
    parsed = parse_reference(reference, EXAMPLES)
    if parsed.scheme is None:
        raise ModelError(
            f"'{reference}' does not say where the model comes from. Write {', '.join(EXAMPLES.values())}."
        )
    options = dict(parsed.options)
    if parsed.scheme != "python":
        options["pretrained"] = options.get("pretrained", weights is None)
    loaded = _LOADERS[parsed.scheme](Reference(parsed.scheme, parsed.name, options))
    if weights is not None:
        load_weights(loaded.model, weights)
    loaded.model.eval()
    return loaded


def move(model: nn.Module, device: str) -> nn.Module:
    """Move a model to a device by its name.

    Raises
    ------
    SettingError
        There is no such device here.

    Examples
    --------
    >>> move(nn.Linear(2, 2), "cpu").weight.device
    device(type='cpu')
    """
    try:
        if torch.device(device).type == "meta":
            raise RuntimeError("it holds no numbers")
        return model.to(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise SettingError(
            f"the device '{device}' cannot be used: {reason}. Choose another --device, such as cpu."
        ) from error


def _load_timm(reference: Reference) -> LoadedModel:
    try:
        import timm
        from timm.data import resolve_model_data_config
    except ImportError as error:
        raise missing_extra("timm", "timm", "timm: references") from error
    if not timm.is_model(reference.name.split(".")[0].removeprefix("hf_hub:")) and ":" not in reference.name:
        raise ModelError(str(unknown_name("timm model", reference.name, timm.list_models())).split(" Known:")[0])
    model = _built(reference, lambda options: timm.create_model(reference.name, **options))
    config = resolve_model_data_config(model)
    size = config["input_size"][1]
    head = getattr(model, "pretrained_cfg", {}).get("classifier")
    return LoadedModel(
        model,
        Preprocessing(
            resize=int(size / config["crop_pct"]),
            crop=tuple(config["input_size"][1:]),
            mean=config["mean"],
            std=config["std"],
            interpolation=config["interpolation"],
        ),
        head=head if isinstance(head, str) else None,
    )


def _load_torchvision(reference: Reference) -> LoadedModel:
    from torchvision import models

    known = models.list_models(module=models)
    if reference.name not in known:
        raise ModelError(str(unknown_name("torchvision model", reference.name, known)).split(" Known:")[0])
    default = models.get_model_weights(reference.name).DEFAULT

    def build(options: dict[str, Any]) -> nn.Module:
        pretrained = options.pop("pretrained")
        made: nn.Module = models.get_model(reference.name, weights=default if pretrained else None, **options)
        return made

    model = _built(reference, build)
    transform = default.transforms()
    categories = tuple(default.meta.get("categories", ()))
    return LoadedModel(
        model,
        Preprocessing(
            resize=transform.resize_size[0],
            crop=transform.crop_size[0],
            mean=tuple(transform.mean),
            std=tuple(transform.std),
            interpolation=transform.interpolation.value,
        ),
        class_names=None if "num_classes" in reference.options else categories or None,
    )


def _load_hugging_face(reference: Reference) -> LoadedModel:
    try:
        from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification
    except ImportError as error:
        raise missing_extra("transformers", "transformers", "hf: references") from error

    def build(options: dict[str, Any]) -> nn.Module:
        safe = {"trust_remote_code": False}
        made: nn.Module
        if options.pop("pretrained"):
            made = AutoModelForImageClassification.from_pretrained(
                reference.name, use_safetensors=True, **safe, **options
            )
        else:
            config = AutoConfig.from_pretrained(reference.name, **safe, **options)
            made = AutoModelForImageClassification.from_config(config)
        return made

    model = _built(reference, build)
    try:
        processor = AutoImageProcessor.from_pretrained(reference.name, trust_remote_code=False).to_dict()
    except (OSError, ValueError):
        processor = {}
    names: Mapping[int, str] = model.config.id2label  # type: ignore[assignment, union-attr]
    return LoadedModel(model, _from_processor(processor), tuple(names[i] for i in sorted(names)))


def _from_processor(processor: Mapping[str, Any]) -> Preprocessing | None:
    size, crop = processor.get("size"), processor.get("crop_size")
    if not size or not processor.get("image_mean"):
        return None
    exact = (size["height"], size["width"]) if "height" in size else None
    resize: Any = exact or int(size["shortest_edge"] / processor.get("crop_pct", 1.0))
    cropped: Any = (crop["height"], crop["width"]) if crop and processor.get("do_center_crop") else None
    if "crop_pct" in processor and not exact:
        cropped = (size["shortest_edge"], size["shortest_edge"])
    names = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
    normalised = processor.get("do_normalize", True)
    return Preprocessing(
        resize=resize if processor.get("do_resize", True) else None,
        crop=cropped,
        mean=tuple(processor["image_mean"]) if normalised else (0.0, 0.0, 0.0),
        std=tuple(processor["image_std"]) if normalised else (1.0, 1.0, 1.0),
        interpolation=names.get(int(processor.get("resample", 2)), "bilinear"),  # type: ignore[arg-type]
    )


def _load_python(reference: Reference) -> LoadedModel:
    home, colon, factory_name = reference.name.rpartition(":")
    if not colon or not factory_name.isidentifier():
        raise ModelError(f"'python:{reference.name}' must name a file or module and a factory: {EXAMPLES['python']}.")
    module = _import(home)
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        known = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise ModelError(str(unknown_name(f"factory in {home}", factory_name, known)))
    model = _built(reference, lambda options: factory(**options))
    stated = getattr(model, "preprocessing", None)
    try:
        preprocessing = Preprocessing.model_validate(stated) if stated is not None else None
    except ValidationError as error:
        raise ModelError(f"the preprocessing that {home}:{factory_name} states is not one: {error}") from error
    names = getattr(model, "class_names", None)
    return LoadedModel(model, preprocessing, None if names is None else tuple(names))


def _import(home: str) -> ModuleType:
    path = Path(home)
    try:
        if path.suffix != ".py":
            return importlib.import_module(home)
        spec = importlib.util.spec_from_file_location(f"oodline_user_{path.stem}", path)
        if spec is None or spec.loader is None or not path.is_file():
            raise ModelError(f"there is no Python file {home}.")
        module = importlib.util.module_from_spec(spec)
        # dataclasses and the like look their module up while it is being run
        sys.modules[spec.name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[spec.name]
            raise
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{home} could not be imported: {type(error).__name__}: {error}") from error
    return module


def _built(reference: Reference, build: Callable[[dict[str, Any]], Any]) -> nn.Module:
    try:
        model = build(dict(reference.options))
    except Exception as error:
        raise ModelError(
            f"{reference.scheme}:{reference.name} could not be built with {reference.options}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{reference.scheme}:{reference.name} gave a {type(model).__name__}, not an nn.Module.")
    return model


_LOADERS: dict[str, Callable[[Reference], LoadedModel]] = {
    "timm": _load_timm,
    "torchvision": _load_torchvision,
    "hf": _load_hugging_face,
    "python": _load_python,
}
