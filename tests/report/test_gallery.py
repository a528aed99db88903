"""Which images a page shows, where they come from, and what it says where they are gone."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from oodline.data import open_images
from oodline.errors import DataError, UnknownNameError
from oodline.evaluation.run import read_run
from oodline.report.gallery import extremes, gather
from oodline.report.thumbnails import SIDE, read_thumbnail, thumbnail
from oodline.testing import toy_images


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def copied(run, tmp_path, **changes):
    """The same run with other words about its sets, signed as if it had been written so."""
    shutil.copytree(run.folder, tmp_path / "copy")
    path = tmp_path / "copy" / "run.json"
    document = json.loads(path.read_text())
    document["sets"] = [{**s, **changes.get(s["name"].replace("-", "_"), {})} for s in document["sets"]]
    rest = {k: v for k, v in document.items() if k != "sha256"}
    signed = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({**rest, "sha256": signed}))
    return read_run(path.parent)


def test_the_pictures_are_the_images_with_the_extreme_scores(run):
    gallery = gather(run, list(run.record.detectors), images=3)
    assert not gallery.missing
    assert list(gallery.shown) == list(run.record.detectors)
    for label, sets in gallery.shown.items():
        assert list(sets) == ["test", "shifted", "near", "far"]
        for name, (most, least) in sets.items():
            scores = run.scores(name)[label]
            assert sorted(scores[gallery.pictures[p].row] for p in most) == sorted(scores)[:3]
            assert sorted(scores[gallery.pictures[p].row] for p in least) == sorted(scores)[-3:]
    # small images come as they are, to the last pixel
    for picture in gallery.pictures:
        folder = run.folder.parent / picture.set / "images"
        original = np.asarray(Image.open(folder / picture.name).convert("RGB"))
        assert np.array_equal(np.asarray(decoded(picture.source)), original)
        assert picture.name.startswith(picture.label or "none")
    assert len({(p.set, p.row) for p in gallery.pictures}) == len(gallery.pictures)


def test_a_large_image_becomes_a_small_jpeg():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (500, 1000, 3), dtype=np.uint8))
    uri = thumbnail(noise)
    assert uri.startswith("data:image/jpeg;base64,")
    assert decoded(uri).size == (SIDE, SIDE // 2)
    assert len(uri) < 12_000
    assert thumbnail(Image.new("RGBA", (4, 4))).startswith("data:image/png")


def test_few_images_are_shown_once_each():
    assert extremes(np.arange(5.0), 3) == ([0, 1, 2], [4, 3])
    assert extremes(np.arange(2.0), 3) == ([0, 1], [])


def test_the_number_of_pictures_is_bounded(run):
    labels = list(run.record.detectors)
    all_of_them = gather(run, labels, images=4)
    bounded = gather(run, labels, images=4, most=len(all_of_them.pictures) - 1)
    assert list(bounded.shown) == labels[:1]
    fewer = gather(run, labels, images=1000, most=16)
    assert len(fewer.pictures) <= 16
    assert gather(run, labels, images=0).pictures == []


def test_images_that_are_gone_are_missed_with_a_reason_and_found_elsewhere(run, tmp_path):
    moved = copied(run, tmp_path, near={"spec": str(tmp_path / "gone")})
    gallery = gather(moved, ["energy"])
    assert list(gallery.missing) == ["near"]
    assert "there is no file or folder" in gallery.missing["near"]
    assert {p.set for p in gallery.pictures} == {"test", "shifted", "far"}
    elsewhere = gather(moved, ["energy"], data={"near": str(run.folder.parent / "near" / "images")})
    assert not elsewhere.missing
    with pytest.raises(UnknownNameError, match="Did you mean 'near'"):
        gather(run, ["energy"], data={"naer": "somewhere"})


def test_other_images_than_those_of_the_run_are_not_shown(run, tmp_path):
    toy_images(tmp_path / "few", count=9)
    toy_images(tmp_path / "many", count=90)
    few = gather(run, ["energy"], data={"near": str(tmp_path / "few" / "images")})
    assert few.missing["near"].endswith("has 9 images, the run read number 39: it is another set.")
    many = gather(run, ["energy"], data={"near": str(tmp_path / "many" / "images")})
    assert "has another label than in the run" in many.missing["near"]
    assert not [p for p in many.pictures if p.set == "near"]


@pytest.mark.parametrize(
    "spec", ["hf:user/set", "hf:user/set,trust_remote_code=true", "torchvision:CIFAR10,root=nowhere,download=true"]
)
def test_a_run_may_not_ask_for_code_or_downloads(run, tmp_path, spec):
    gallery = gather(copied(run, tmp_path, far={"spec": spec}), ["energy"])
    assert "which a run may not ask for" in gallery.missing["far"]


def test_an_image_that_cannot_be_read_is_named(run, tmp_path):
    whole = gather(run, ["energy"], images=2)
    folder = tmp_path / "images"
    shutil.copytree(run.folder.parent / "far" / "images", folder)
    broken = next(p for p in whole.pictures if p.set == "far")
    (folder / broken.name).write_bytes(b"no image")
    gallery = gather(run, ["energy"], images=2, data={"far": str(folder)})
    assert broken.name in gallery.missing["far"]
    assert len(gallery.pictures) == len(whole.pictures) - 1
    with pytest.raises(DataError, match=f"image {re.escape(broken.name)} cannot be read"):
        read_thumbnail(open_images(folder), broken.index)
