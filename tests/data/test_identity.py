"""What a data set is known by: its content, wherever it lies and whoever reads it."""

from __future__ import annotations

import io
import os

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from oodline._util.digests import file_digest
from oodline.data import (
    HuggingFaceImages,
    ImageFolder,
    ImageList,
    ParquetImages,
    TorchvisionImages,
    image_loader,
    open_images,
)
from oodline.errors import DataError
from oodline.preprocessing.preprocessing import Preprocessing


def png(value) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (4, 4), (value,) * 3).save(content, "PNG")
    return content.getvalue()


def write(path, values, labels):
    path.parent.mkdir(parents=True, exist_ok=True)
    images = pa.array(
        [{"bytes": png(v), "path": None} for v in values], pa.struct({"bytes": pa.binary(), "path": pa.string()})
    )
    parquet.write_table(pa.table({"image": images, "label": labels, "other": labels[::-1]}), path)
    return path


def test_parquet_files_are_known_by_their_bytes_and_columns(tmp_path):
    first = ParquetImages(write(tmp_path / "a.parquet", [1, 2], [0, 1])).fingerprint()
    assert ParquetImages(write(tmp_path / "else" / "b.parquet", [1, 2], [0, 1])).fingerprint() == first
    others = [
        ParquetImages(write(tmp_path / "c.parquet", [1, 3], [0, 1])),
        ParquetImages(write(tmp_path / "d.parquet", [1, 2], [1, 1])),
        ParquetImages(tmp_path / "a.parquet", label="other"),
        ParquetImages(tmp_path / "?.parquet"),
    ]
    assert len({first, *(other.fingerprint() for other in others)}) == 5


def test_folders_are_known_by_names_and_bytes(tmp_path):
    prints = []
    for number, (folder, value) in enumerate((("cat", 1), ("cat", 1), ("dog", 1), ("cat", 2))):
        path = tmp_path / str(number) / folder / "a.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(png(value))
        prints.append(ImageFolder(tmp_path / str(number)).fingerprint())
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_a_file_that_changed_is_read_again_and_one_that_cannot_be_read_is_no_error(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"one")
    first = file_digest(path)
    path.write_bytes(b"two")
    os.utime(path, ns=(0, 0))
    assert file_digest(path) != first
    path.unlink()
    assert file_digest(path) == "unreadable"


class InMemory:
    """What torchvision's CIFAR10 and MNIST look like."""

    def __init__(self, data, targets):
        self.data, self.targets = data, targets

    def __len__(self):
        return len(self.data)

    def __getitem__(self, i):
        return Image.fromarray(self.data[i]), self.targets[i]


class OnDisk(InMemory):
    """What torchvision's DTD looks like: images come one by one."""

    def __init__(self, data, targets):
        super().__init__(data, targets)
        self.items = self.data
        del self.data

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return Image.fromarray(self.items[i]), self.targets[i]


@pytest.mark.parametrize("kind", [InMemory, OnDisk])
def test_torchvision_sets_are_known_by_pixels_and_labels(kind):
    data = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3)).astype("uint8")
    first = TorchvisionImages(kind(data, [0, 1, 2])).fingerprint()
    assert TorchvisionImages(kind(data.copy(), [0, 1, 2]), "another name").fingerprint() == first
    changed = data.copy()
    changed[2, 3, 3, 0] ^= 1
    prints = {
        first,
        *(TorchvisionImages(kind(d, t)).fingerprint() for d, t in ((changed, [0, 1, 2]), (data, [0, 1, 1]))),
    }
    assert len(prints) == 3


def test_hugging_face_sets_are_known_by_stored_bytes_and_labels(tmp_path):
    import datasets

    def build(values, labels, embedded=True):
        rows = []
        for v in values:
            path = tmp_path / f"{v}.png"
            path.write_bytes(png(v))
            rows.append({"bytes": png(v), "path": None} if embedded else {"bytes": None, "path": str(path)})
        features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
        return HuggingFaceImages(datasets.Dataset.from_dict({"image": rows, "label": labels}, features))

    first = build([1, 2], [0, 1]).fingerprint()
    assert build([1, 2], [0, 1], embedded=False).fingerprint() == first
    assert len({first, build([1, 3], [0, 1]).fingerprint(), build([1, 2], [0, 0]).fingerprint()}) == 3
    assert build([1, 2], [0, 1]).read(1).getpixel((0, 0)) == (2, 2, 2)


@pytest.fixture
def listed(tmp_path):
    """Three images, and a list of two of them in another order."""
    for value in range(3):
        path = tmp_path / "pictures" / f"my cat {value}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png(value))
    (tmp_path / "list.txt").write_text("my cat 2.png 7\n\nmy cat 0.png -1\n")
    return tmp_path


def test_a_list_names_images_and_labels(listed):
    source = open_images(f"list:{listed}/list.txt,root={listed}/pictures")
    assert isinstance(source, ImageList)
    assert [(source.name(i), source.label(i)) for i in range(len(source))] == [
        ("my cat 2.png", 7),
        ("my cat 0.png", None),
    ]
    assert [source.read(i).getpixel((0, 0))[0] for i in range(2)] == [2, 0]
    (listed / "plain.txt").write_text("pictures/0.png")
    (listed / "pictures" / "0.png").write_bytes(png(0))
    assert open_images(f"list:{listed}/plain.txt").label(0) is None


def test_a_list_is_known_by_its_paths_labels_and_bytes(listed):
    first = ImageList(listed / "list.txt", listed / "pictures").fingerprint()
    (listed / "copy.txt").write_text((listed / "list.txt").read_text())
    assert ImageList(listed / "copy.txt", listed / "pictures").fingerprint() == first
    (listed / "other.txt").write_text("my cat 2.png 8\nmy cat 0.png -1\n")
    (listed / "pictures" / "my cat 1.png").write_bytes(png(9))
    assert ImageList(listed / "list.txt", listed / "pictures").fingerprint() == first  # it is not in the list
    (listed / "pictures" / "my cat 0.png").write_bytes(png(9))
    changed = ImageList(listed / "list.txt", listed / "pictures").fingerprint()
    assert len({first, changed, ImageList(listed / "other.txt", listed / "pictures").fingerprint()}) == 3


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is empty"),
        ("my cat 2.png seven", r"line 1 of .* must be PATH LABEL, with an integer label; got 'my cat 2.png seven'"),
        ("my cat 2.png 9223372036854775808", "must be PATH LABEL, with an integer label"),
        ("my cat 2.png {'label': 1e999}", "must be PATH LABEL, with an integer label"),
        ("my cat 2.png {'label': 1.5}", "must be PATH LABEL, with an integer label"),
        ("my cat 2.png {'label': " + "(" * 400 + "}", "must be PATH LABEL, with an integer label"),
        ("dog.png 1", "lists dog.png, which is not in .*Pass root=FOLDER"),
    ],
)
def test_a_list_that_is_none_is_said(listed, text, sentence):
    (listed / "list.txt").write_text(text)
    with pytest.raises(DataError, match=sentence):
        ImageList(listed / "list.txt", listed / "pictures")
    with pytest.raises(DataError, match=r"the list of images nowhere\.txt cannot be read"):
        open_images("list:nowhere.txt")
    with pytest.raises(DataError, match=r"takes root=\.\.\. and masks=\.\.\.; got split="):
        open_images("list:nowhere.txt,split=test")


def test_what_is_done_with_an_unreadable_image_is_no_part_of_the_preparation(tmp_path):
    (tmp_path / "a.png").write_bytes(png(1))
    source = ImageFolder(tmp_path)
    plain, skipping, moved = (
        image_loader(source, Preprocessing(), **options) for options in ({}, {"on_error": "skip"}, {"label_offset": 1})
    )
    assert plain.preparation() == skipping.preparation() != moved.preparation()
    assert plain.identity() != skipping.identity()
    assert plain.preparation().items() < plain.identity().items()
