"""Parquet files as people write them: columns of other names, labels of any type, images beside the file."""

from __future__ import annotations

import decimal
import io
import json
import pickle

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from oodline.data import ParquetImages, image_loader, open_images, open_loader
from oodline.data import parquet as module
from oodline.data.columns import Labels, join_labels
from oodline.errors import DataError, ImageError
from oodline.preprocessing.preprocessing import Preprocessing

STRUCT = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def grey(value: int) -> bytes:
    content = io.BytesIO()
    Image.new("L", (4, 4), value).save(content, "PNG")
    return content.getvalue()


IMAGES = pa.array([{"bytes": grey(i), "path": None} for i in range(3)], STRUCT)


def write(path, columns, features=None, **options):
    table = pa.table(columns)
    if features:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, path, **options)
    return path


def labels(source):
    return [source.label(i) for i in range(len(source))]


def values(source):
    return [source.read(i).getpixel((0, 0)) for i in range(len(source))]


WHOLE = {kind: pa.array([2, 0, None], getattr(pa, kind)()) for kind in (
    "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
)}  # fmt: skip
WHOLE |= {
    "decimal": pa.array([decimal.Decimal(2), decimal.Decimal(0), None], pa.decimal128(5, 1)),
    "nan": pa.array([2.0, 0.0, np.nan]),
    "text of digits": pa.array(["2", "0", None]),
    "large text of digits": pa.array(["2", "0", None], pa.large_string()),
    "dictionary of integers": pa.array([2, 0, None]).dictionary_encode(),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_labels_of_every_numeric_type_are_class_numbers(kind, tmp_path):
    source = open_images(write(tmp_path / "a.parquet", {"image": IMAGES, "label": WHOLE[kind]}))
    assert labels(source) == [2, 0, None]
    assert source.class_names is None


def test_booleans_are_0_and_1_and_nothing_is_no_label(tmp_path):
    boolean = write(tmp_path / "a.parquet", {"image": IMAGES, "label": pa.array([True, False, None])})
    assert labels(open_images(boolean)) == [1, 0, None]
    nothing = write(tmp_path / "b.parquet", {"image": IMAGES, "label": pa.nulls(3)})
    assert labels(open_images(nothing)) == [None] * 3


@pytest.mark.parametrize("encode", [False, True])
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_names_are_classes_in_alphabetical_order(kind, encode, tmp_path):
    if encode and kind == pa.string_view():
        pytest.skip("pyarrow has no dictionary of string views")
    column = pa.array(["zebra", "ant", None]).cast(kind)
    column = column.dictionary_encode() if encode else column
    source = open_images(write(tmp_path / "a.parquet", {"image": IMAGES, "label": column}))
    assert (source.class_names, labels(source)) == (("ant", "zebra"), [1, 0, None])


def test_names_follow_the_order_that_the_file_states(tmp_path):
    features = {"label": {"names": ["zebra", "ant", "bee"], "_type": "ClassLabel"}}
    for column in (["ant", "zebra", "bee"], [1, 0, 2]):
        source = open_images(write(tmp_path / "a.parquet", {"image": IMAGES, "label": pa.array(column)}, features))
        assert (source.class_names, labels(source)) == (("zebra", "ant", "bee"), [1, 0, 2])
    path = write(tmp_path / "a.parquet", {"image": IMAGES, "label": pa.array(["ant", "cow", "bee"])}, features)
    with pytest.raises(DataError, match=r"column 'label' of .*a\.parquet holds 'cow', which is none of the file's 3"):
        open_images(path)


@pytest.mark.parametrize(("column", "sentence"), [
    (pa.array([0.5, 1, 2]), "must hold class numbers: .*0.5"),
    (pa.array([2**40, 1, 2]), "holds 1099511627776; class numbers go up to 2147483647"),
    (pa.array([2**64 - 1, 1, 2], pa.uint64()), "must hold class numbers"),
    (pa.array([float("inf"), 1, 2]), "must hold class numbers"),
    (pa.array([[0], [1], [2]]), "holds list<.*; class numbers or names are needed"),
    (pa.array([b"a", b"b", b"c"]), "holds binary; class numbers or names are needed"),
])  # fmt: skip
def test_labels_that_are_no_classes_are_refused_by_name(column, sentence, tmp_path):
    with pytest.raises(DataError, match=rf"column 'label' of .*a\.parquet {sentence}"):
        open_images(write(tmp_path / "a.parquet", {"image": IMAGES, "label": column}))


def test_shards_with_names_in_other_orders_are_joined_by_name(tmp_path):
    for k, names in enumerate((["dog", "cat"], ["cat", "dog"], ["cat", "dog", "emu"])):
        features = {"label": {"names": names, "_type": "ClassLabel"}}
        numbers = [names.index(name) for name in ("cat", "dog", names[-1])]
        write(tmp_path / f"{k}.parquet", {"image": IMAGES, "label": numbers}, features)
    source = open_images(tmp_path)
    assert source.class_names == ("dog", "cat", "emu")
    assert labels(source) == [1, 0, 1, 1, 0, 0, 1, 0, 2]


def test_shards_of_text_know_all_names(tmp_path):
    for k, names in enumerate((["emu", "cat", "cat"], ["dog", "cat", None])):
        write(tmp_path / f"{k}.parquet", {"image": IMAGES, "label": pa.array(names, pa.string())})
    source = open_images(tmp_path)
    assert (source.class_names, labels(source)) == (("cat", "dog", "emu"), [2, 0, 0, 1, 0, None])


COLUMNS = [
    ({"img": IMAGES, "labels": [2, 1, 0]}, [2, 1, 0]),
    ({"img": IMAGES, "coarse_label": [9, 9, 9], "fine_label": [2, 1, 0]}, [2, 1, 0]),
    ({"image_bytes": IMAGES.field("bytes"), "class": [2, 1, 0]}, [2, 1, 0]),
    ({"Image": IMAGES, "Label": [2, 1, 0]}, [2, 1, 0]),
    ({"scan": IMAGES.field("bytes"), "target": [2, 1, 0]}, [2, 1, 0]),
    ({"scan": IMAGES.field("bytes").cast(pa.large_binary()), "id": [7, 8, 9]}, [None] * 3),
    ({"image": IMAGES.field("bytes").cast(pa.binary_view()), "label": [2, 1, 0]}, [2, 1, 0]),
    ({"label": [2, 1, 0], "image": IMAGES, "mask": IMAGES}, [2, 1, 0]),
]


@pytest.mark.parametrize(("columns", "expected"), COLUMNS)
def test_usual_names_and_types_are_found(columns, expected, tmp_path):
    source = open_images(write(tmp_path / "a.parquet", columns))
    assert values(source) == [0, 1, 2]
    assert labels(source) == expected


def test_what_the_file_says_of_its_columns_is_believed(tmp_path):
    features = {"x": {"_type": "Image"}, "breed": {"names": ["pug", "lab", "tosa"], "_type": "ClassLabel"}}
    columns = {"x": IMAGES, "y": IMAGES, "breed": [1, 2, 0], "target": [0, 0, 0]}
    source = open_images(write(tmp_path / "a.parquet", columns, features))
    assert (values(source), labels(source), source.class_names) == ([0, 1, 2], [1, 2, 0], ("pug", "lab", "tosa"))


def test_columns_are_named_in_the_data_reference(tmp_path):
    path = write(tmp_path / "a.parquet", {"left": IMAGES, "right": IMAGES, "fine": [2, 1, 0], "target": [0, 0, 0]})
    for spec in (path, tmp_path, tmp_path / "*.parquet"):
        source = open_images(f"{spec},image=right,label=fine")
        assert (values(source), labels(source)) == ([0, 1, 2], [2, 1, 0])
    assert labels(open_images(f"{path},image=left,label=")) == [None] * 3
    with pytest.raises(DataError, match=r"several columns that may be the image: left, right\. Name one .*image=left"):
        open_images(path)
    with pytest.raises(DataError, match=r"a\.parquet has no column 'up'; its columns are left, right, fine, target"):
        open_images(f"{path},image=up")
    with pytest.raises(DataError, match=r"takes image=\.\.\. and label=\.\.\.; got colour=red"):
        open_images(f"{path},colour=red")
    none = write(tmp_path / "none.parquet", {"id": [1], "label": [0]})
    with pytest.raises(DataError, match=r"no column 'image'; its columns are id, label\. .*none\.parquet,image=COLUMN"):
        open_images(none)
    both = write(tmp_path / "both.parquet", {"image": IMAGES, "class": [1, 1, 1], "target": [0, 0, 0]})
    with pytest.raises(DataError, match=r"several columns that may be the label: class, target"):
        open_images(both)
    assert labels(open_images(f"{both},label=class")) == [1, 1, 1]


def test_a_path_with_commas_and_equals_signs_is_a_path(tmp_path):
    folder = tmp_path / "a,image=b"
    folder.mkdir()
    assert values(open_images(write(folder / "x.parquet", {"image": IMAGES}))) == [0, 1, 2]
    assert values(open_images(folder)) == [0, 1, 2]


def test_an_image_beside_the_file_is_read_from_its_path(tmp_path):
    (tmp_path / "pictures").mkdir()
    for i in range(3):
        (tmp_path / "pictures" / f"{i}.png").write_bytes(grey(i))
    rows = [{"bytes": None, "path": f"pictures/{i}.png"} for i in range(2)] + [{"bytes": None, "path": "gone.png"}]
    for column in (pa.array(rows, STRUCT), pa.array([row["path"] for row in rows])):
        path = write(tmp_path / "a.parquet", {"image": column, "label": [0, 1, 2]})
        source = open_images(path)
        assert [source.read(i).getpixel((0, 0)) for i in range(2)] == [0, 1]
        with pytest.raises(ImageError, match=r"image a\.parquet#2 cannot be read: there is no file .*gone\.png"):
            source.read(2)
        loader = open_loader(path, Preprocessing(), on_error="skip")
        assert [batch.index.tolist() for batch in loader] == [[0, 1]]
        before = open_images(path).fingerprint()
        (tmp_path / "pictures" / "1.png").write_bytes(grey(200))
        assert open_images(path).fingerprint() != before
        (tmp_path / "pictures" / "1.png").write_bytes(grey(1))
    assert open_images(write(tmp_path / "b.parquet", {"image": IMAGES})).fingerprint() != before


def test_a_large_row_group_is_read_in_runs_in_any_order(tmp_path, monkeypatch):
    rows = pa.array([{"bytes": grey(i), "path": None} for i in range(200)], STRUCT)
    path = write(tmp_path / "a.parquet", {"image": rows, "label": list(range(200))}, row_group_size=150)
    monkeypatch.setattr(module, "LARGE", 0)
    source = ParquetImages(path)
    assert values(source) == list(range(200))
    for i in (199, 0, 149, 64, 63, 150):
        assert source.read(i).getpixel((0, 0)) == i
    assert values(pickle.loads(pickle.dumps(source))) == list(range(200))
    found = list(image_loader(ParquetImages(path), Preprocessing(), workers=2, batch_size=30))
    assert [int(v) for batch in found for v in (batch.inputs[:, 0, 0, 0] * 255).round()] == list(range(200))


def test_hugging_face_columns_are_found_likewise_and_not_decoded_by_datasets(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    (tmp_path / "set").mkdir()
    eps = io.BytesIO()
    Image.new("RGB", (4, 4)).save(eps, "EPS")
    rows = [{"bytes": content, "path": None} for content in (grey(0), eps.getvalue(), grey(2))]
    features = datasets.Features({"scan": datasets.Image(), "kind": datasets.Value("string")})
    table = {"scan": rows, "kind": ["dog", "cat", None]}
    datasets.Dataset.from_dict(table, features).to_parquet(tmp_path / "set" / "train.parquet")
    source = open_images(f"hf:{tmp_path / 'set'},label=kind")
    assert (labels(source), source.class_names) == ([1, 0, None], ("cat", "dog"))
    assert source.read(2).getpixel((0, 0)) == 2
    with pytest.raises(ImageError, match="#1 cannot be read: cannot identify image file"):
        source.read(1)
    assert labels(open_images(f"hf:{tmp_path / 'set'}")) == [None] * 3


def labels_of(tmp_path, *columns):
    """Labels of one file per column, read as one data set."""
    for i, column in enumerate(columns):
        picture = io.BytesIO()
        Image.new("RGB", (4, 4)).save(picture, "PNG")
        image = [{"bytes": picture.getvalue(), "path": None}] * len(column)
        parquet.write_table(pa.table({"image": image, "label": column}), tmp_path / f"{i}.parquet")
    source = open_images(tmp_path)
    return [source.label(i) for i in range(len(source))], source.class_names


def test_text_that_means_no_label_is_no_class(tmp_path):
    assert labels_of(tmp_path, ["-1", "0", "", "2"]) == ([None, 0, None, 2], None)


@pytest.mark.parametrize("other", [["1", "2"], [7, 8]])
def test_names_in_one_file_and_numbers_in_another_are_refused(other, tmp_path):
    with pytest.raises(DataError, match=r"class names in some files .* and class numbers in others"):
        labels_of(tmp_path, ["cat", "dog"], other)


def test_class_names_that_stand_twice_keep_the_numbers():
    labels = Labels(np.array([0, 1, 2, 1], np.int32), ("a", "a", "c"))
    assert join_labels([labels]).values.tolist() == [0, 1, 2, 1]
    with pytest.raises(DataError, match="names 'a' twice"):
        join_labels([labels, Labels(np.array([0], np.int32), ("c",))])
