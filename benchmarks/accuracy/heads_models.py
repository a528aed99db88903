"""Classifiers of timm, torchvision and transformers with random weights, as small as they can be built."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

CLASSES = 7
LARGEST = 300e6
"""Weights of a model that is still run."""
LATER = 30e6
"""Weights of a model that waits for smaller ones of its kind."""
SMALL = 6e6
"""Weights below which a model is always run, and not judged by a smaller one of its kind."""


@dataclass(frozen=True)
class Case:
    """A model to try.

    Parameters
    ----------
    library, name : str
        Where it comes from.
    names : tuple of str
        Pretrained names, which have this architecture.
    build : callable
        The model, and inputs to try in turn until it takes one.
    """

    library: str
    name: str
    names: tuple[str, ...]
    build: Callable[[], tuple[nn.Module, list[Any]]]


class _NoInitialisation(TorchFunctionMode):
    SKIPPED = frozenset((Tensor.normal_, Tensor.uniform_, Tensor.erfinv_))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.SKIPPED:
            return args[0]
        return func(*args, **(kwargs or {}))


def fill(model: nn.Module, seed: int = 0) -> None:
    """Random weights of a variance that keeps signals alive, in the head too, and norms that change something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.is_floating_point():
                continue
            fan = parameter[0].numel() if parameter.ndim > 1 else 1
            if parameter.ndim > 1:
                parameter.uniform_(-1, 1, generator=generator).mul_((3 / max(fan, 1)) ** 0.5)
            elif name.endswith("weight"):
                parameter.uniform_(0.5, 1.5, generator=generator)
            else:
                parameter.uniform_(-0.3, 0.3, generator=generator)


@contextmanager
def quickly() -> Iterator[None]:
    """Build without the random numbers that `fill` draws anyhow."""
    with _NoInitialisation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def check_size(model: nn.Module) -> None:
    """Raise where a model is too large to be run here."""
    weights = sum(parameter.numel() for parameter in model.parameters())
    if weights > LARGEST:
        raise ValueError(f"{weights / 1e6:.0f} million weights")


def timm_cases() -> Iterator[Case]:
    """One case for each architecture that has pretrained weights of a classifier."""
    import timm
    from timm.models import get_pretrained_cfg

    found: dict[str, list[str]] = {}
    for name in timm.list_pretrained():
        config = get_pretrained_cfg(name)
        if (config.num_classes or 0) > 0:
            found.setdefault(name.split(".")[0], []).append(name)
    for architecture, names in found.items():
        yield Case("timm", architecture, tuple(names), lambda names=names: _build_timm(names[0]))


def _build_timm(name: str) -> tuple[nn.Module, list[Any]]:
    import timm
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(name)
    with quickly():
        model = timm.create_model(name, pretrained=False, num_classes=CLASSES)
    channels, height, width = config.input_size
    sizes = [(height, width)] if config.fixed_input_size else [(96, 96), (160, 160), (height, width)]
    return model, [torch.randn(2, channels, *size) for size in sizes]


def timm_weights(name: str) -> tuple[float, str]:
    """How many weights an architecture has, and what its head is made of, without building it."""
    import timm

    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = timm.create_model(name, pretrained=False, num_classes=CLASSES)
    stated = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or ""
    stated = [stated] if isinstance(stated, str) else list(stated)
    last = [type(module).__name__ for _, module in list(model.named_modules())[-6:] if not list(module.children())]
    heads = sorted({s.split(".")[0] for s in stated})
    kinds = [[type(m).__name__ for m in getattr(model, head, nn.Identity()).modules()] for head in heads]
    form = (type(model).__module__, type(model).__name__, stated, kinds, getattr(model, "global_pool", None), last[-1:])
    return float(sum(p.numel() for p in model.parameters())), str(form)


def torchvision_cases() -> Iterator[Case]:
    """All classifiers of images, and those of videos."""
    from torchvision import models

    for module, shape in ((models, (2, 3, 96, 96)), (models.video, (1, 3, 16, 112, 112))):
        for name in models.list_models(module=module):

            def build(name: str = name, shape: tuple[int, ...] = shape) -> tuple[nn.Module, list[Any]]:
                with torch.device("meta"):
                    check_size(models.get_model(name, weights=None, num_classes=CLASSES))
                with quickly():
                    model = models.get_model(name, weights=None, num_classes=CLASSES)
                side = 256 if "swin_v2" in name else 299 if "inception" in name else 224
                return model, [torch.randn(shape), torch.randn(*shape[:-2], side, side)]

            yield Case("torchvision", name, (name,), build)


def transformers_cases() -> Iterator[Case]:
    """Every class of image, sequence, audio and video classification, by a small configuration."""
    from transformers.models.auto import modeling_auto as auto

    kinds = {
        "image": auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
        "text": auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        "audio": auto.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES,
        "video": auto.MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES,
    }
    for kind, table in kinds.items():
        for model_type, classes in table.items():
            for cls in (classes,) if isinstance(classes, str) else classes:
                yield Case(
                    f"transformers {kind}",
                    cls,
                    (cls,),
                    lambda model_type=model_type, cls=cls, kind=kind: _build_transformers(model_type, cls, kind),
                )


SMALLER: Mapping[str, Any] = {
    "hidden_size": 32, "d_model": 32, "n_embd": 32, "dim": 32, "emb_dim": 32, "embedding_size": 32,
    "word_embed_proj_dim": 32,
    "num_hidden_layers": 2, "n_layer": 2, "n_layers": 2, "num_layers": 2, "encoder_layers": 2, "decoder_layers": 2,
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "num_heads": 4, "num_key_value_heads": 2,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "head_dim": 8, "d_kv": 8,
    "intermediate_size": 64, "ffn_dim": 64, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "d_ff": 64, "d_inner": 64,
    "moe_intermediate_size": 32, "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4,
    "vocab_size": 99, "max_position_embeddings": 64, "n_positions": 64, "n_ctx": 64,
}  # fmt: skip


def _build_transformers(model_type: str, cls: str, kind: str) -> tuple[nn.Module, list[Any]]:
    import transformers

    config_class = transformers.models.auto.configuration_auto.CONFIG_MAPPING[model_type]
    model_class = getattr(transformers, cls)
    attempts = [_smaller, _fewer_layers, lambda config: config]
    problem: Exception = ValueError("no configuration")
    for change in attempts:
        try:
            config = change(config_class(num_labels=CLASSES))
            config.pad_token_id = 0
            with torch.device("meta"):
                check_size(model_class(config))
            with quickly():
                model = model_class(config)
            inputs = _inputs(kind, config)
            fill(model)
            model.eval()
            with torch.no_grad():
                model(**inputs[0])
            return model, inputs
        except Exception as error:
            problem = error
    raise problem


def _smaller(config: Any) -> Any:
    for part in (config, getattr(config, "text_config", None), getattr(config, "vision_config", None)):
        for name, value in SMALLER.items():
            if isinstance(getattr(part, name, None), int):
                try:
                    setattr(part, name, value)
                except (AttributeError, NotImplementedError, ValueError):
                    continue
        if getattr(part, "layer_types", None):
            part.layer_types = part.layer_types[:2]
    return config


def _fewer_layers(config: Any) -> Any:
    for name in ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers"):
        if isinstance(getattr(config, name, None), int):
            setattr(config, name, 2)
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:2]
    if isinstance(getattr(config, "vocab_size", None), int):
        config.vocab_size = 99
    return config


def _inputs(kind: str, config: Any) -> list[Any]:
    if kind == "text":
        # of unequal length, as a tokenizer pads them
        ids = torch.randint(5, 90, (3, 12))
        mask = torch.ones_like(ids)
        ids[1, 8:], mask[1, 8:] = 0, 0
        ends = getattr(config, "eos_token_id", None)
        if isinstance(ends, int) and 0 < ends < 99 and getattr(config, "is_encoder_decoder", False):
            ids[ids == ends] = 7
            ids[0, 11] = ids[1, 7] = ids[2, 11] = ends
        return [{"input_ids": ids, "attention_mask": mask}]
    if kind == "audio":
        if hasattr(config, "num_mel_bins"):
            frames = getattr(config, "max_length", 100) or 100
            shape = (
                (2, frames, config.num_mel_bins)
                if "audio-spec" in config.model_type
                else (2, config.num_mel_bins, 3000)
            )
            return [{"input_features" if "whisper" in config.model_type else "input_values": torch.randn(shape)}]
        if "bert" in config.model_type:
            return [{"input_features": torch.randn(2, 60, 160)}]
        return [{"input_values": torch.randn(2, 8000)}]
    vision = getattr(config, "vision_config", config)
    side = getattr(vision, "image_size", 224) or 224
    side = side if isinstance(side, int) else side[0]
    if kind == "video":
        frames = getattr(config, "num_frames", None) or getattr(config, "frames_per_clip", 16)
        name = "pixel_values_videos" if "jepa" in config.model_type else "pixel_values"
        return [{name: torch.randn(1, frames, 3, side, side)}]
    if config.model_type == "imagegpt":
        return [{"input_ids": torch.randint(0, 90, (2, 16))}]
    return [{"pixel_values": torch.randn(2, getattr(vision, "num_channels", 3) or 3, side, side)}]
