"""Our pixels are those of timm's, torchvision's and transformers' own transforms, for every configuration they have."""

from __future__ import annotations

import json
import logging
import warnings
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import nn
from torchvision import models
from torchvision import transforms as v1
from torchvision.transforms import v2
from transformers.models.auto.image_processing_auto import (
    IMAGE_PROCESSOR_MAPPING_NAMES,
    get_image_processor_class_from_name,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

from oodline.errors import OodlineError, SettingError
from oodline.preprocessing.compose import read_compose
from oodline.preprocessing.preprocessing import Preprocessing

TOLERANCE = 1e-2
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def image(height: int, width: int, seed: int = 7) -> Image.Image:
    """Not one of the images that `Preprocessing.of` compares: blocks of colour under noise."""
    rng = np.random.default_rng(seed)
    blocks = np.kron(rng.integers(0, 256, (height // 7 + 1, width // 5 + 1, 3)), np.ones((7, 5, 1)))[:height, :width]
    return Image.fromarray((blocks * 0.8 + rng.integers(0, 50, (height, width, 3))).astype(np.uint8))


IMAGES = [image(61, 44), image(50, 97)]


def theirs(transform: Any, picture: Image.Image) -> torch.Tensor:
    if not hasattr(transform, "image_mean"):
        return transform(picture)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = transform(images=picture, return_tensors="pt")["pixel_values"]
    assert len(values) == 1
    return values[0]


def distance(ours: Preprocessing, transform: Any, pictures: list[Image.Image]) -> float:
    """The largest mean absolute difference; infinite where shapes differ."""
    found = [(ours(picture), theirs(transform, picture)) for picture in pictures]
    return max(float((a - b).abs().mean()) if a.shape == b.shape else np.inf for a, b in found)


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.WARNING)  # what the libraries say of their defaults
    yield
    logging.disable(logging.NOTSET)


def timm_configurations() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    unique = set()
    for name in timm.list_pretrained():
        config = resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
        if (key := str(sorted(config.items()))) not in unique:
            unique.add(key)
            found[name] = config
    return found


def geometry(config: dict[str, Any]) -> str:
    return str([config[key] for key in ("input_size", "interpolation", "crop_pct", "crop_mode")])


def test_every_geometry_of_timms_pretrained_models_is_followed():
    configurations = {geometry(config): config for config in timm_configurations().values()}
    assert len(configurations) > 80
    assert {c["crop_mode"] for c in configurations.values()} == {"center", "squash", "border"}
    far = {}
    for config in configurations.values():
        if max(config["input_size"]) > 450 and config["crop_mode"] == "center":
            continue  # the long test below; large images take long, and add no kind
        transform = create_transform(**config, is_training=False)
        amount = distance(read_compose(transform, None), transform, IMAGES[:1])
        if amount > 1e-6:
            far[geometry(config)] = amount
    assert far == {}


@pytest.mark.long
def test_every_pretrained_configuration_of_timm_is_followed():
    configurations = timm_configurations()
    far = {}
    for name, config in configurations.items():
        transform = create_transform(**config, is_training=False)
        if (amount := distance(Preprocessing.of(transform), transform, [*IMAGES, image(700, 401)])) > 1e-6:
            far[name] = amount
    assert far == {}
    print(f"{len(timm.list_pretrained())} names, {len(configurations)} configurations")


def test_every_entry_of_torchvisions_classification_weights_is_followed():
    unique = {}
    names = models.list_models(module=models) + models.list_models(module=models.quantization)
    for name in names:
        for entry in models.get_model_weights(name):
            transform = entry.transforms()
            unique[str(transform)] = entry
    assert len(names) > 80 and len(unique) > 20
    far = {}
    for entry in unique.values():
        transform = entry.transforms()
        if (amount := distance(read_compose(transform, None), transform, IMAGES[:1])) > 1e-6:
            far[str(entry)] = amount
    assert far == {}


def processor_classes(*, classification: bool) -> list[str]:
    return sorted(
        {
            name
            for kind, backends in IMAGE_PROCESSOR_MAPPING_NAMES.items()
            for name in backends.values()
            if name and (kind in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES) == classification
        }
        - {"TimmWrapperImageProcessor"}  # made of a timm configuration: below
    )


REFUSED = {
    "DonutImageProcessor": "differs by",
    "ImageGPTImageProcessor": "Clusters must be provided",
    "Siglip2ImageProcessor": r"becomes \(1, 256, 768\)",
}
"""Of the processors of classifiers, those that cut images into patches, or do what no steps say; and the reason."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[pytest.mark.long] if n == "DonutImageProcessor" else [])  # 5 million pixels an image
        for n in processor_classes(classification=True)
        if not n.endswith("Pil")
    ],
)
def test_every_processor_class_of_classifiers_is_followed(name):
    processor = get_image_processor_class_from_name(name)()
    if name in REFUSED:
        with pytest.raises(SettingError, match=REFUSED[name]):
            Preprocessing.of(processor)
        return
    assert distance(Preprocessing.of(processor), processor, IMAGES) < TOLERANCE


@pytest.mark.long
def test_every_processor_class_is_followed_or_refused_in_a_sentence():
    followed, refused, far = [], [], {}
    for name in [*processor_classes(classification=True), *processor_classes(classification=False)]:
        processor = get_image_processor_class_from_name(name)()
        try:
            ours = Preprocessing.of(processor)
        except SettingError as error:
            assert f"what {name} does to an image cannot be expressed" in str(error), name
            refused.append(name)
            continue
        followed.append(name)
        if (amount := distance(ours, processor, [*IMAGES, image(333, 200)])) > TOLERANCE:
            far[name] = amount
    assert far == {}
    assert len(followed) >= 80
    print(f"{len(followed)} classes followed, {len(refused)} refused")


SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "ConvNeXT at 224 resizes to 256 and crops": ("ConvNextImageProcessor", {"size": {"shortest_edge": 224}}),
    "ConvNeXT at 384 squashes": ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}}),
    "ConvNeXT by its own portion": ("ConvNextImageProcessor", {"size": {"shortest_edge": 64}, "crop_pct": 0.7}),
    "LeViT resizes to 256/224": ("LevitImageProcessor", {"size": {"shortest_edge": 96}, "crop_size": 96}),
    "pixels from 0 to 255": ("ViTImageProcessor", {"do_rescale": False}),
    "pixels from 0 to 255 and nothing else": ("ViTImageProcessor", {"do_rescale": False, "do_normalize": False}),
    "another factor": ("ViTImageProcessor", {"rescale_factor": 1 / 127.5}),
    "not normalised": ("ViTImageProcessor", {"do_normalize": False}),
    "from -1 to 1": ("EfficientNetImageProcessor", {"rescale_factor": 1 / 127.5, "rescale_offset": True}),
    "from -1 to 1, without the last division": (
        "EfficientNetImageProcessor", {"rescale_factor": 1 / 127.5, "rescale_offset": True, "include_top": False,
                                       "do_normalize": False},
    ),
    "BGR": ("MobileViTImageProcessor", {"do_flip_channel_order": True}),
    "RGB": ("MobileViTImageProcessor", {"do_flip_channel_order": False}),
    "no resize": ("ViTImageProcessor", {"do_resize": False}),
    "nearest": ("ViTImageProcessor", {"resample": 0, "size": 40}),
    "lanczos": ("ViTImageProcessor", {"resample": 1, "size": 40}),
    "a crop larger than the image": (
        "CLIPImageProcessor", {"size": {"shortest_edge": 40}, "crop_size": {"height": 61, "width": 50}},
    ),
    "a limit to the longer edge": ("ViTImageProcessor", {"size": {"shortest_edge": 40, "longest_edge": 60}}),
    "a padded image": ("ViTImageProcessor", {"size": 40, "do_pad": True, "pad_size": {"height": 50, "width": 60}}),
    "multiples of 32": ("TextNetImageProcessor", {"size": {"shortest_edge": 70}, "size_divisor": 32}),
    "lower multiples of 32": ("GLPNImageProcessor", {}),
    "PP-LCNet": ("PPLCNetImageProcessor", {"size_divisor": 4, "resize_short": 50, "crop_size": 48}),
    "Perceiver": ("PerceiverImageProcessor", {"size": 32, "crop_size": 40}),
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("backend", ["", "Pil"])
def test_the_settings_of_a_processor_are_followed(name, backend):
    kind, settings = SETTINGS[name]
    made = getattr(transformers, kind + backend, None)
    if made is None:
        return  # there is one backend
    processor = made(**settings)
    assert distance(Preprocessing.of(processor), processor, [*IMAGES, image(230, 171)]) < TOLERANCE


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"size": {"longest_edge": 224}}, "it fails on a small image: ValueError: Size must contain"),
        ({"image_std": [0.0, 0.0, 0.0]}, "it divides by"),
        ({"rescale_factor": -1.0}, "it multiplies pixels by -1"),
        ({"image_mean": [0.5, 0.5]}, "it fails on a small image"),
        ({"size": {"shortest_edge": 40, "width": 3}}, None),
    ],
)
def test_odd_settings_end_in_a_sentence(settings, reason):
    try:
        processor = transformers.ViTImageProcessor(**settings)
    except ValueError:
        assert reason is None  # transformers refuses it itself
        return
    with pytest.raises(SettingError, match=f"what ViTImageProcessor does to an image cannot be expressed .*{reason}"):
        Preprocessing.of(processor)


def test_transparency_is_shown_on_white_where_the_processor_does_so():
    picture = image(40, 50)
    picture.putalpha(Image.fromarray(np.linspace(0, 255, 2000).reshape(40, 50).astype(np.uint8)))
    for processor in (transformers.CLIPImageProcessor(), transformers.CLIPImageProcessorPil()):
        ours = Preprocessing.of(processor)
        assert ours.transparency == "white"
        assert distance(ours, processor, [picture]) < TOLERANCE
        assert distance(ours.model_copy(update={"transparency": "drop"}), processor, [picture]) > 0.1


COMPOSED: dict[str, Any] = {
    "v1": v1.Compose([v1.Resize(36), v1.CenterCrop(32), v1.ToTensor(), v1.Normalize(MEAN, STD)]),
    "v2": v2.Compose(
        [v2.ToImage(), v2.Resize((36, 30)), v2.CenterCrop(28), v2.ToDtype(torch.float32, True), v2.Normalize(MEAN, STD)]
    ),
    "tensors first": v1.Compose([v1.ToTensor(), v1.Resize(36), v1.CenterCrop(32), v1.Normalize(MEAN, STD)]),
    "nested": v1.Compose([v1.Compose([v1.Resize(36)]), v1.Compose([v1.CenterCrop(32), v1.ToTensor()])]),
    "a Sequential": nn.Sequential(v2.PILToTensor(), v2.Resize(36), v2.ConvertImageDtype(torch.float32)),
    "crop before resize": v1.Compose([v1.CenterCrop(40), v1.Resize(32), v1.ToTensor()]),
    "padded": v1.Compose([v1.Resize((28, 28)), v1.Pad((2, 3), fill=(9, 8, 7)), v1.ToTensor()]),
    "a limit": v1.Compose([v1.Resize(32, max_size=40), v1.ToTensor()]),
    "the longer edge": v2.Compose([v2.Resize(None, max_size=40), v2.ToImage(), v2.ToDtype(torch.float32, True)]),
    "grey": v1.Compose([v1.Grayscale(), v1.Resize(36), v1.ToTensor(), v1.Normalize([0.5], [0.25])]),
    "grey three times": v1.Compose([v1.Grayscale(3), v1.Resize(36), v1.ToTensor(), v1.Normalize(MEAN, STD)]),
    "0 to 255": v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32)]),
    "normalised twice": v1.Compose([v1.ToTensor(), v1.Normalize(MEAN, STD), v1.Normalize([0.5] * 3, [2.0] * 3)]),
    "a function that converts": v1.Compose([v1.Lambda(lambda i: i.convert("RGB")), v1.Resize(36), v1.ToTensor()]),
    "not antialiased": v1.Compose([v1.ToTensor(), v1.Resize(17, antialias=False)]),
    "a preset": models.ResNet50_Weights.IMAGENET1K_V2.transforms(),
    "timm, not square": create_transform((3, 40, 56), is_training=False, interpolation="bicubic", crop_pct=0.8),
    "timm, with a border": create_transform((3, 40, 56), is_training=False, crop_mode="border", mean=(0.1, 0.5, 0.9)),
}


@pytest.mark.parametrize("name", COMPOSED)
def test_a_composed_transform_is_followed(name):
    transform = COMPOSED[name]
    ours = Preprocessing.of(transform)
    assert distance(ours, transform, [*IMAGES, image(230, 171)]) < 1e-4
    again = Preprocessing.model_validate(json.loads(ours.model_dump_json()))
    assert again == ours and Preprocessing.of(ours) is ours


def test_the_usual_transform_is_said_in_the_usual_words():
    ours = Preprocessing.of(COMPOSED["v1"])
    assert ours == Preprocessing(resize=36, crop=(32, 32), mean=MEAN, std=STD)
    assert Preprocessing.of(models.ResNet50_Weights.IMAGENET1K_V2) == Preprocessing(
        resize=232, crop=224, mean=MEAN, std=STD
    )


REFUSALS: dict[str, tuple[Any, str]] = {
    "chance": (v1.Compose([v1.RandomCrop(32), v1.ToTensor()]), "the step RandomCrop cannot be expressed. These can: "),
    "colours": (v2.Compose([v2.ColorJitter(0.4), v2.ToImage()]), "the step ColorJitter cannot be expressed"),
    "a function": (lambda image: image, "the function <lambda> cannot be expressed"),
    "a function that matters": (v1.Compose([v1.ToTensor(), v1.Lambda(lambda x: x * x)]), "differs by .* on average"),
    "a turned image": (v1.Compose([v1.Lambda(lambda i: i.rotate(90, expand=True)), v1.ToTensor()]), "becomes"),
    "an image that stays one": (v1.Compose([v1.Resize(32)]), "it returns a Image instead of one tensor"),
    "five crops": (v1.Compose([v1.FiveCrop(32)]), "the step FiveCrop cannot be expressed"),
    "reflected borders": (v1.Compose([v1.Pad(4, padding_mode="reflect"), v1.ToTensor()]), "padding with reflect"),
    "one value for three channels": (
        v1.Compose([v1.ToTensor(), v1.Normalize([0.5], [0.5])]),
        'mode="L".* or mode="RGB"',
    ),
    "a class": (v1.Compose, "must be a Preprocessing, a torchvision or timm transform"),
    "a name": ("resnet18", "must be a Preprocessing, a torchvision or timm transform"),
    "patches": (create_transform((3, 64, 64), is_training=False, patchify=True), "the step Patchify cannot"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_expressed_is_refused_and_named(name):
    transform, reason = REFUSALS[name]
    with pytest.raises(OodlineError, match=reason):
        Preprocessing.of(transform)


def test_one_value_is_for_grey_or_for_colour_as_said():
    transform = v1.Compose([v1.Resize(30), v1.ToTensor(), v1.Normalize([0.5], [0.25])])
    grey, colour = (Preprocessing.of(transform, mode=mode) for mode in ("L", "RGB"))
    assert grey == Preprocessing(resize=30, mode="L", mean=(0.5,), std=(0.25,))
    assert colour == Preprocessing(resize=30, mean=(0.5,) * 3, std=(0.25,) * 3)
    torch.testing.assert_close(grey(IMAGES[0]), transform(IMAGES[0].convert("L")))
    torch.testing.assert_close(colour(IMAGES[0]), transform(IMAGES[0]))


def test_files_of_earlier_versions_mean_what_they_meant():
    old = (
        '{"resize":235,"crop":[224,224],"mean":[0.485,0.456,0.406],"std":[0.229,0.224,0.225],'
        '"interpolation":"bicubic","mode":"RGB"}'
    )
    transform = v1.Compose(
        [v1.Resize(235, v1.InterpolationMode.BICUBIC), v1.CenterCrop(224), v1.ToTensor(), v1.Normalize(MEAN, STD)]
    )
    assert distance(Preprocessing.model_validate_json(old), transform, [*IMAGES, image(333, 500)]) < 1e-6
