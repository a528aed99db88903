"""Images come in the order and under the names of their source; what cannot be read is skipped or named."""

import gzip
import io
import os
import struct

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from oodline.data import ImageFolder, ParquetImages, image_loader, open_images, sample
from oodline.errors import DataError, InputError, UnknownNameError
from oodline.preprocessing.preprocessing import Preprocessing

PIXELS = Preprocessing()
IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def grey(value, size=(4, 4), form="PNG"):
    """Bytes of an image whose every pixel is `value`: what was read can be told from the batch."""
    content = io.BytesIO()
    Image.new("RGB", size, (value,) * 3).save(content, form)
    return content.getvalue()


def put(path, value, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(grey(value, **options))


def write_rows(path, contents, labels=None, **options):
    columns = {"image": pa.array([None if c is None else {"bytes": c, "path": None} for c in contents], IMAGE)}
    table = pa.table(columns if labels is None else columns | {"label": labels})
    parquet.write_table(table, path, **options)
    return path


def values(batch):
    return (batch.inputs[:, 0, 0, 0] * 255).round().int().tolist()


def read_all(source, **options):
    """(index, value, label) of every image that a loader yields."""
    rows = []
    for batch in image_loader(source, PIXELS, **options):
        labels = [None] * len(batch.index) if batch.labels is None else batch.labels.tolist()
        rows += zip(batch.index.tolist(), values(batch), labels, strict=True)
    return rows


@pytest.fixture
def folder(tmp_path):
    """Two classes, one of them with a folder inside."""
    for value, name in enumerate(["dog/a.png", "cat/b.png", "cat/nested/c.bmp", "dog/d.PNG"]):
        put(tmp_path / "pets" / name, value, form="BMP" if name.endswith("bmp") else "PNG")
    (tmp_path / "pets" / "cat" / "notes.txt").write_text("no image")
    return tmp_path / "pets"


def test_class_folders_are_labels_in_alphabetical_order(folder):
    source = open_images(folder)
    assert source.class_names == ("cat", "dog")
    assert [source.name(i) for i in range(len(source))] == ["cat/b.png", "cat/nested/c.bmp", "dog/a.png", "dog/d.PNG"]
    assert read_all(source) == [(0, 1, 0), (1, 2, 0), (2, 0, 1), (3, 3, 1)]


def test_images_come_folder_by_folder_as_paths_are_ordered(tmp_path):
    for name in ("a/b.png", "a-b/c.png", "a/b/c.PNG", "a/a.png", "B/a.png", "a/b.txt", "a/.png", "a b/ä.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    expected = sorted(p for p in tmp_path.rglob("*") if p.suffix.lower() in (".png", ".jpg"))
    assert ImageFolder(tmp_path).files == [str(p.relative_to(tmp_path)) for p in expected]


def test_a_flat_folder_a_mixed_one_and_a_single_file_have_no_labels(folder):
    for path, count in ((folder / "cat" / "nested", 1), (folder / "cat", 2), (folder / "dog" / "a.png", 1)):
        source = open_images(str(path))
        assert source.class_names is None
        assert [label for _, _, label in read_all(source)] == [None] * count
    assert source.name(0) == "a.png"


def test_what_is_not_there_is_said_so(tmp_path, folder):
    for path in ("nowhere", "nowhere.parquet", "no-*.parquet"):
        with pytest.raises(DataError, match=r"there is no (file or folder|Parquet file) .*no.* Check the path"):
            open_images(tmp_path / path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds no image: no file ends in \.jpg, "):
        open_images(tmp_path / "empty")
    with pytest.raises(DataError, match="there is no file or folder tochvision:CIFAR10"):
        open_images("tochvision:CIFAR10")
    with pytest.raises(InputError, match="`limit` must be at least 1; got 64 and 0"):
        image_loader(open_images(folder), PIXELS, limit=0)


def test_parquet_files_of_several_row_groups_are_one_set(tmp_path):
    for number, size in enumerate((5, 1, 4)):
        rows = [grey(10 * number + i) for i in range(size)]
        write_rows(tmp_path / f"train-{number}.parquet", rows, list(range(size)), row_group_size=2)
    expected = [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (10, 0), (20, 0), (21, 1), (22, 2), (23, 3)]
    for spec in (tmp_path, tmp_path / "train-*.parquet"):
        source = open_images(spec)
        assert [source.name(i) for i in (0, 4, 5, 9)] == [
            "train-0.parquet#0",
            "train-0.parquet#4",
            "train-1.parquet#0",
            "train-2.parquet#3",
        ]
        for options in ({}, {"batch_size": 3}, {"batch_size": 3, "workers": 2}):
            assert read_all(source, **options) == [(i, *row) for i, row in enumerate(expected)]
    for i in (9, 0, 5, 3):  # in any order
        assert source.read(i).getpixel((0, 0))[0] == expected[i][0]
    assert len(open_images(tmp_path / "train-1.parquet")) == 1


def test_class_names_come_from_the_metadata_that_datasets_writes(tmp_path):
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    rows = {"image": [{"bytes": grey(i), "path": None} for i in range(2)], "label": [1, 0]}
    datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "a.parquet")
    source = open_images(tmp_path / "a.parquet")
    assert source.class_names == ("cat", "dog")
    assert read_all(source) == [(0, 0, 1), (1, 1, 0)]
    assert ParquetImages(write_rows(tmp_path / "b.parquet", [grey(0)], [0])).class_names is None


def test_a_label_of_minus_one_a_null_or_no_label_column_is_no_label(tmp_path):
    source = open_images(write_rows(tmp_path / "a.parquet", [grey(i) for i in range(3)], pa.array([2, -1, None])))
    assert [source.label(i) for i in range(3)] == [2, None, None]
    assert read_all(source, batch_size=1) == [(0, 0, 2), (1, 1, None), (2, 2, None)]
    assert open_images(write_rows(tmp_path / "b.parquet", [grey(0)])).label(0) is None


def test_a_parquet_file_that_is_damaged_empty_or_of_other_columns_is_refused(tmp_path):
    path = write_rows(tmp_path / "a.parquet", [grey(0)], [0])
    with pytest.raises(DataError, match=r"a.parquet has no column 'img'; its columns are image, label"):
        ParquetImages(path, image="img")
    content = path.read_bytes()
    for damaged in (b"", content[:-8], content[:-9] + b"\xff" * 9, b"<html>404</html>"):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"a.parquet is not a Parquet file, or is damaged: .* Copy it again"):
            open_images(path)
    with pytest.raises(DataError, match="holds no row"):
        open_images(write_rows(path, [], pa.array([], pa.int64())))


def test_pages_that_are_damaged_are_found_on_reading(tmp_path):
    path = write_rows(tmp_path / "a.parquet", [os.urandom(500) for _ in range(4)], compression="zstd")
    content = bytearray(path.read_bytes())
    content[4:64] = b"\xff" * 60
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"image a.parquet#0 \(number 0\) cannot be read"):
        read_all(open_images(path))


def test_a_row_without_image_is_named_or_skipped(tmp_path):
    source = open_images(write_rows(tmp_path / "a.parquet", [grey(0), None, b"text", grey(3)], [0, 1, 2, 3]))
    with pytest.raises(DataError, match=r"image a.parquet#1 \(number 1\) cannot be read: the row holds NoneType"):
        read_all(source)
    loader = image_loader(source, PIXELS, on_error="skip", batch_size=2)
    assert [(b.index.tolist(), values(b), b.labels.tolist()) for b in loader] == [([0], [0], [0]), ([3], [3], [3])]
    assert loader.skipped == ["a.parquet#1", "a.parquet#2"]


@pytest.mark.filterwarnings("ignore:Truncated File Read", "ignore:Corrupt EXIF data")
@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM", "GIF"])
def test_a_truncated_image_names_its_file_and_leaves_the_identity_of_the_others(form, tmp_path):
    suffix = {"JPEG": "jpg", "TIFF": "tif"}.get(form, form.lower())
    content = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(noise).save(content, form)
    for name in "acd":
        (tmp_path / f"{name}.{suffix}").write_bytes(content.getvalue())
    for size in (0, 10, len(content.getvalue()) // 2):
        (tmp_path / f"b.{suffix}").write_bytes(content.getvalue()[:size])
        source = open_images(tmp_path)
        with pytest.raises(DataError, match=rf"image b.{suffix} \(number 1\) cannot be read: .*--on-error skip"):
            read_all(source)
        loader = image_loader(source, PIXELS, on_error="skip", workers=0)
        for _ in range(2):  # counted anew every time
            assert [batch.index.tolist() for batch in loader] == [[0, 2, 3]]
            assert loader.skipped == [f"b.{suffix}"]


def test_a_batch_of_nothing_but_skipped_images_is_left_out(tmp_path):
    for i in range(6):
        (tmp_path / f"{i}.png").write_bytes(b"" if i in (2, 3) else grey(i))
    loader = image_loader(open_images(tmp_path), PIXELS, on_error="skip", batch_size=2)
    assert [values(batch) for batch in loader] == [[0, 1], [4, 5]]
    assert loader.skipped == ["2.png", "3.png"]


def test_an_image_too_large_to_decode_is_an_unreadable_one(tmp_path, monkeypatch):
    put(tmp_path / "a.png", 0)
    for most in (10, 5):  # PIL only warns below twice the limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
        with pytest.raises(DataError, match=r"a.png .* cannot be read: .*decompression bomb"):
            read_all(open_images(tmp_path))


def test_images_of_different_sizes_need_a_crop(tmp_path):
    put(tmp_path / "a.png", 1)
    put(tmp_path / "b.png", 2, size=(6, 4))
    source = open_images(tmp_path)
    with pytest.raises(DataError, match=r"a.png is \(3, 4, 4\), b.png is \(3, 4, 6\). Set a crop in the preprocessing"):
        read_all(source)
    [batch] = image_loader(source, Preprocessing(crop=4))
    assert batch.inputs.shape == (2, 3, 4, 4)


def test_a_limit_takes_the_first_images_and_an_offset_moves_their_labels(folder):
    assert read_all(open_images(folder), limit=3, label_offset=1) == [(0, 1, 1), (1, 2, 1), (2, 0, 2)]
    loader = image_loader(open_images(folder), PIXELS, limit=99, batch_size=3)
    assert (loader.num_samples, len(loader)) == (4, 2)


def test_workers_read_the_same_batches(folder):
    (folder / "cat" / "a.png").write_bytes(b"")
    loaders = [image_loader(open_images(folder), PIXELS, workers=w, batch_size=2, on_error="skip") for w in (0, 2)]
    alone, beside = (list(loader) for loader in loaders)
    for one, two in zip(alone, beside, strict=True):
        assert torch.equal(one.inputs, two.inputs)
        assert torch.equal(one.labels, two.labels)
        assert torch.equal(one.index, two.index)
    assert loaders[0].skipped == loaders[1].skipped == ["cat/a.png"]


def test_an_unreadable_image_is_a_data_error_also_in_a_worker(folder):
    (folder / "cat" / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"image cat/a.png \(number 0\) cannot be read: cannot identify image file"):
        read_all(open_images(folder), workers=1)


def test_torchvision_sets_are_opened_by_name_where_they_lie(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    digits = np.stack([np.full((28, 28), i, np.uint8) for i in range(3)])
    for split, n in (("train", 3), ("t10k", 2)):
        images = struct.pack(">iiii", 2051, n, 28, 28) + digits[:n].tobytes()
        labels = struct.pack(">ii", 2049, n) + bytes([7, 8, 9][:n])
        for kind, content in (("images-idx3", images), ("labels-idx1", labels)):
            (raw / f"{split}-{kind}-ubyte").write_bytes(content)
            (raw / f"{split}-{kind}-ubyte.gz").write_bytes(gzip.compress(content))
    source = open_images(f"torchvision:MNIST,root={tmp_path}")
    assert read_all(source) == [(0, 0, 7), (1, 1, 8), (2, 2, 9)]
    assert (source.name(1), source.class_names[7]) == ("MNIST#1", "7 - seven")
    assert len(open_images(f"torchvision:MNIST,root={tmp_path},train=false")) == 2


def test_a_torchvision_folder_is_the_same_set_as_a_folder(folder):
    source = open_images(f"torchvision:ImageFolder,root={folder}")
    assert source.class_names == ("cat", "dog")
    assert read_all(source) == read_all(open_images(folder))


def test_a_torchvision_set_that_is_not_there_is_not_downloaded(tmp_path):
    for name in ("CIFAR10", "MNIST", "SVHN"):
        with pytest.raises(DataError, match=rf"torchvision:{name} could not be opened with .*download=True"):
            open_images(f"torchvision:{name},root={tmp_path}")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UnknownNameError, match=r"unknown torchvision data set 'CIFAR11'. Did you mean 'CIFAR10'"):
        open_images("torchvision:CIFAR11")
    with pytest.raises(DataError, match="unexpected keyword argument 'colour'"):
        open_images(f"torchvision:CIFAR10,root={tmp_path},colour=1")


@pytest.fixture
def hub_folder(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    rows = {"img": [*({"bytes": grey(i), "path": None} for i in range(3)), None], "label": [1, 0, -1, 0]}
    (tmp_path / "set").mkdir()
    datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "set" / "test-0.parquet")
    return tmp_path / "set"


def test_hugging_face_data_sets_are_opened_by_folder(hub_folder):
    source = open_images(f"hf:{hub_folder},split=test")
    assert source.class_names == ("cat", "dog")
    assert [source.label(i) for i in range(4)] == [1, 0, None, 0]
    assert read_all(source, limit=2) == [(0, 0, 1), (1, 1, 0)]
    assert source.name(1) == f"{hub_folder}#1"
    with pytest.raises(DataError, match=r"could not be opened with .*Unknown split"):
        open_images(f"hf:{hub_folder}")
    with pytest.raises(DataError, match=r"hf:.*nowhere could not be opened"):
        open_images(f"hf:{hub_folder}/nowhere")


def test_a_hugging_face_row_without_image_is_named(hub_folder):
    with pytest.raises(DataError, match=r"#3 \(number 3\) cannot be read"):
        read_all(open_images(f"hf:{hub_folder},split=test"))


@pytest.mark.parametrize("option", ["image=picture", "label=kind"])
def test_a_column_that_was_asked_for_and_is_not_there_is_an_error(hub_folder, option):
    with pytest.raises(DataError, match=r"has no column '(picture|kind)'; its columns are img, label"):
        open_images(f"hf:{hub_folder},split=test,{option}")


def test_the_error_of_a_worker_is_one_sentence(folder):
    (folder / "cat" / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"^image cat/a.png \(number 0\) cannot be read"):
        read_all(open_images(folder), workers=1)


class Killed:
    """A source whose worker dies, as it does when memory runs out."""

    class_names = None

    def __len__(self):
        return 3

    def name(self, i):
        return f"image {i}"

    def label(self, i):
        return None

    def read(self, i):
        os._exit(1)


def test_a_worker_that_dies_is_a_data_error():
    with pytest.raises(DataError, match="worker"):
        read_all(Killed(), workers=1)


def test_a_torchvision_set_without_root_is_opened():
    assert len(open_images("torchvision:FakeData,size=3")) == 3


def test_a_sample_is_spread_over_the_source_shuffled_and_the_same_by_seed(tmp_path):
    for i in range(20):
        Image.new("L", (1, 1), i).save(tmp_path / f"{i:02}.png")
    source = open_images(tmp_path)
    one = sample(source, 5, seed=3)
    assert sorted(one.positions) == [0, 4, 8, 12, 16]
    assert one.positions == sample(source, 5, seed=3).positions != sample(source, 5, seed=4).positions
    assert one.name(0) == source.name(one.positions[0])
    assert one.read(1).getpixel((0, 0)) == one.positions[1]
    assert sorted(sample(source, 99).positions) == list(range(20))


def test_a_list_has_any_line_ends_keeps_each_label_and_reads_no_pipe(tmp_path):
    for i, name in enumerate(("a\u2028.png", "b.png", "c.png")):
        put(tmp_path / name, i)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "all.txt").write_bytes("\ufeffa\u2028.png 2\r\nb.png\rc.png 0\npipe.png 1".encode())
    source = open_images(tmp_path / "all.txt")
    [batch] = image_loader(source, PIXELS, on_error="skip", label_offset=1)
    assert values(batch) == [0, 1, 2] and batch.labels.tolist() == [3, -1, 1]
    assert len(source.fingerprint()) == 64  # which reads every file
