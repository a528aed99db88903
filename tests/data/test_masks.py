"""Images with masks: they go where the pixels go, and what does not fit is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from oodline.data import open_images, open_loader
from oodline.errors import DataError, ImageError, InputError
from oodline.preprocessing.preprocessing import Preprocessing


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Two images of 8 x 6 whose red channel is ten times the class of each pixel, and their masks."""
    rng = np.random.default_rng(0)
    for folder in ("images/a", "masks/a"):
        (tmp_path / folder).mkdir(parents=True)
    for name, mode in (("1", "L"), ("2", "P")):
        classes = rng.integers(0, 5, (6, 8), dtype=np.uint8)
        pixels = np.zeros((6, 8, 3), np.uint8)
        pixels[..., 0] = 10 * classes
        Image.fromarray(pixels).save(tmp_path / f"images/a/{name}.bmp")
        mask = Image.fromarray(classes)
        if mode == "P":
            mask.putpalette(list(range(256)) * 3)
        mask.save(tmp_path / f"masks/a/{name}.png")
    return tmp_path


def test_masks_go_where_pixels_go(home: Path) -> None:
    nearest = Preprocessing(resize=(12, 16), crop=(10, 20), interpolation="nearest-exact")
    [batch] = open_loader(f"{home}/images,masks={home}/masks", nearest)
    assert batch.labels.shape == (2, 10, 20)
    red = (batch.inputs[:, 0] * 25.5).round().long()
    assert (batch.labels[:, :, :2] == 255).all() and (batch.labels[:, :, -2:] == 255).all()  # padded
    assert torch.equal(red[:, :, 2:-2], batch.labels[:, :, 2:-2])


def test_an_offset_leaves_out_the_first_class_and_not_what_is_ignored(home: Path) -> None:
    spec = f"{home}/images,masks={home}/masks"
    [plain] = open_loader(spec, Preprocessing(crop=10))
    [moved] = open_loader(spec, Preprocessing(crop=10), label_offset=-1)
    ignored = plain.labels == 255
    assert torch.equal(moved.labels[~ignored], plain.labels[~ignored] - 1) and (moved.labels[ignored] == 255).all()


def test_what_is_masked_is_another_data_set(home: Path) -> None:
    spec = f"{home}/images,masks={home}/masks"
    before = open_images(spec).fingerprint()
    assert before != open_images(f"{home}/images").fingerprint()
    Image.fromarray(np.zeros((6, 8), np.uint8)).save(home / "masks/a/1.png")
    assert open_images(spec).fingerprint() != before


def test_what_does_not_fit_is_refused(home: Path) -> None:
    spec = f"{home}/images,masks={home}/masks"
    with pytest.raises(DataError, match="no folder of masks"):
        open_images(f"{home}/images,masks={home}/nothing")
    with pytest.raises(InputError, match=r"masks need an oodline\.Preprocessing"):
        open_loader(spec, lambda image: torch.zeros(1))
    Image.new("RGB", (8, 6)).save(home / "masks/a/1.png")
    with pytest.raises(ImageError, match="must have one whole number per pixel, grey or a palette; it is RGB"):
        next(iter(open_loader(spec, Preprocessing())))
    [batch] = open_loader(spec, Preprocessing(), on_error="skip")
    assert batch.index.tolist() == [1]
    Image.new("L", (8, 8)).save(home / "masks/a/1.png")
    with pytest.raises(
        DataError, match=r"the mask of a/1\.bmp is 8 x 8 pixels, and the image, turned as its EXIF says, 8 x 6"
    ):
        next(iter(open_loader(spec, Preprocessing())))
    Image.new("L", (6, 8)).save(home / "masks/a/1.png")
    turned = Image.open(home / "images/a/1.bmp")
    turned.getexif()[274] = 6
    turned.save(home / "images/a/1.png", exif=turned.getexif())
    (home / "images/a/1.bmp").unlink()
    assert next(iter(open_loader(spec, Preprocessing(), batch_size=1))).labels.shape == (1, 8, 6)
    Image.new("L", (8, 6)).save(home / "masks/a/1.png")
    with pytest.raises(DataError, match=r"is 8 x 6 pixels, and the image, turned as its EXIF says, 6 x 8\."):
        next(iter(open_loader(spec, Preprocessing())))
    (home / "masks/a/1.png").unlink()
    Image.new("L", (8, 6)).save(home / "masks/a/1.gif")
    with pytest.raises(DataError, match=r"the mask of a/1\.png is a GIF file, and writers of GIF number classes anew"):
        open_images(spec)
    (home / "masks/a/1.gif").unlink()
    with pytest.raises(DataError, match=r"has no mask for a/1\.png: no a/1\.png"):
        open_images(spec)
