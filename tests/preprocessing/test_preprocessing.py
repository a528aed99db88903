"""Preprocessing gives what torchvision's transforms give, for every kind of image, and refuses what means nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from torchvision import transforms as tv

from oodline.preprocessing.preprocessing import Preprocessing

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def photo(height: int = 40, width: int = 57) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def ramp(dtype: Any, top: int) -> Image.Image:
    return Image.fromarray(np.linspace(0, top, 40 * 57).reshape(40, 57).astype(dtype))


KINDS: dict[str, Image.Image] = {
    "RGB": photo(),
    "L": photo().convert("L"),
    "1": photo().convert("1"),
    "P": photo().convert("P"),
    "P with one transparent colour": photo().convert("P"),
    "LA": photo().convert("LA"),
    "RGBA": photo().convert("RGBA"),
    "half transparent": photo().convert("RGBA"),
    "CMYK": photo().convert("CMYK"),
    "YCbCr": photo().convert("YCbCr"),
    "HSV": photo().convert("HSV"),
    "I": ramp(np.int32, 255),
    "F": ramp(np.float32, 255),
}
KINDS["P with one transparent colour"].info["transparency"] = 3
KINDS["half transparent"].putalpha(100)


def reference(p: Preprocessing) -> tv.Compose:
    steps: list[Any] = [tv.Lambda(lambda image: image.convert(p.mode))]
    if p.resize is not None:
        steps.append(tv.Resize(p.resize, tv.InterpolationMode(p.interpolation)))
    if p.crop is not None:
        steps.append(tv.CenterCrop(p.crop))
    return tv.Compose([*steps, tv.ToTensor(), tv.Normalize(p.mean, p.std)])


def same(p: Preprocessing, image: Image.Image) -> torch.Tensor:
    found = p(image)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, reference(p)(image), rtol=1e-6, atol=1e-6)
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_an_image_of_any_mode_becomes_what_torchvision_makes_of_it(kind, mode):
    normal = {"mean": MEAN, "std": STD} if mode == "RGB" else {"mean": MEAN[:1], "std": STD[:1]}
    image = KINDS[kind]
    before = image.copy()
    found = same(Preprocessing(resize=36, crop=32, mode=mode, **normal), image)
    assert found.shape == (3 if mode == "RGB" else 1, 32, 32)
    assert found.std() > 0.1
    assert image.mode == before.mode and image.tobytes() == before.tobytes()


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@given(
    resize=st.none() | st.integers(1, 80) | st.tuples(st.integers(1, 80), st.integers(1, 80)),
    crop=st.none() | st.integers(1, 80) | st.tuples(st.integers(1, 80), st.integers(1, 80)),
    height=st.integers(1, 60),
    width=st.integers(1, 60),
)
@settings(deadline=None, max_examples=25)
def test_any_size_becomes_what_torchvision_makes_of_it(interpolation, resize, crop, height, width):
    p = Preprocessing(resize=resize, crop=crop, mean=MEAN, std=STD, interpolation=interpolation)
    found = same(p, photo(height, width))
    if crop is not None:
        assert found.shape[1:] == ((crop, crop) if isinstance(crop, int) else crop)
    elif isinstance(resize, tuple):
        assert found.shape[1:] == resize


def test_nothing_but_scaling_is_done_by_default():
    found = Preprocessing()(photo())
    assert torch.equal((found * 255).round().byte().permute(1, 2, 0), torch.tensor(np.asarray(photo())))


def test_transparency_is_dropped_and_not_blended():
    assert torch.equal(Preprocessing()(KINDS["half transparent"]), Preprocessing()(photo()))


def test_a_palette_with_several_transparent_colours_is_read_without_a_warning():
    image = photo().convert("P")
    expected = Preprocessing()(image)
    image.info["transparency"] = bytes([0, 100, 200])
    assert torch.equal(Preprocessing()(image), expected)


def test_a_16_bit_image_keeps_its_greys():
    found = Preprocessing()(ramp(np.uint16, 65535))
    torch.testing.assert_close(found, Preprocessing()(ramp(np.uint8, 255)), rtol=0, atol=2 / 255)


NONSENSE: dict[str, tuple[dict[str, Any], str]] = {
    "a size of zero": ({"resize": 0}, "resize.*\n.*greater than 0"),
    "a negative crop": ({"crop": (32, -1)}, "crop(.*\n)*.*greater than 0"),
    "three sizes": ({"resize": (32, 32, 32)}, "resize(.*\n)*.*at most 2 items"),
    "half a pixel": ({"resize": 32.5}, "resize.*\n.*valid integer"),
    "an unknown interpolation": ({"interpolation": "area"}, "'nearest', 'bilinear', 'bicubic' or 'lanczos'"),
    "an unknown mode": ({"mode": "RGBA"}, "'RGB' or 'L'"),
    "an unknown setting": ({"size": 32}, "size\n.*Extra inputs are not permitted"),
    "a mean that is text": ({"mean": "grey"}, "mean\n.*valid tuple"),
}


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_nonsense_is_refused(nonsense):
    arguments, sentence = NONSENSE[nonsense]
    with pytest.raises(ValidationError, match=sentence):
        Preprocessing(**arguments)


UNCHECKED: dict[str, dict[str, Any]] = {
    "two means for three channels": {"mean": (0.5, 0.5)},
    "three means for one channel": {"mode": "L", "mean": (0.5, 0.5, 0.5), "std": (1.0,)},
    "no mean": {"mean": ()},
    "a deviation of zero": {"std": (0.0, 1.0, 1.0)},
    "a negative deviation": {"std": (-1.0, 1.0, 1.0)},
    "a mean that is not a number": {"mean": (float("nan"),) * 3},
}


@pytest.mark.parametrize("nonsense", UNCHECKED)
def test_a_mean_or_deviation_that_means_nothing_is_refused(nonsense):
    with pytest.raises(ValidationError, match=r"mean|std"):
        Preprocessing(**UNCHECKED[nonsense])


def test_grey_has_one_channel_by_default():
    assert Preprocessing(mode="L")(photo()).shape == (1, 40, 57)


def test_it_survives_json_and_cannot_be_changed():
    p = Preprocessing(resize=(36, 40), crop=32, mean=MEAN, std=STD, interpolation="bicubic")
    assert Preprocessing.model_validate_json(p.model_dump_json()) == p
    with pytest.raises(ValidationError, match="frozen"):
        p.crop = 3
