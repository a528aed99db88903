"""Texts and labels from CSV, JSON lines, JSON and Parquet; batches of them, with what is skipped, cut and divided."""

import csv
import json
import os

import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from oodline.data import TextLoader, line_tables, open_loader, open_texts
from oodline.data.batch import KnownLoader
from oodline.data.stated import stated_by
from oodline.errors import DataError, InputError, TextError
from oodline.passes.sharding import shard
from oodline.preprocessing.text import TextPreprocessing
from oodline.testing import toy_tokenizer

ROWS = [('a red\ncat, "pet"', "yes"), ("the day\u2028 é", "no"), ("what", "yes")]
OBJECTS = [{"text": text, "label": label} for text, label in ROWS]


def as_csv(path, delimiter=","):
    quoted = [[f'"{text}"'.replace('"pet"', '""pet""'), label] for text, label in ROWS]
    path.write_text("\n".join(delimiter.join(row) for row in [["text", "label"], *quoted]), encoding="utf-8")


WRITERS = {
    "a.csv": as_csv,
    "a.tsv": lambda path: as_csv(path, "\t"),
    "a.jsonl": lambda path: path.write_text("\n\n".join(map(json.dumps, OBJECTS)) + "\n"),
    "list.json": lambda path: path.write_text(json.dumps(OBJECTS)),
    "pairs.json": lambda path: path.write_text(json.dumps(ROWS)),
    "lines.json": lambda path: path.write_text("\n".join(map(json.dumps, OBJECTS))),
    "splits.json": lambda path: path.write_text(json.dumps({"other": [], "train": ROWS})),
    "a.parquet": lambda path: parquet.write_table(pa.Table.from_pylist(OBJECTS), path, row_group_size=2),
}


@pytest.fixture(scope="module")
def preprocessing():
    return TextPreprocessing.of(toy_tokenizer(), max_length=6)


@pytest.mark.parametrize("name", WRITERS)
def test_every_form_holds_the_same(name, tmp_path):
    WRITERS[name](tmp_path / name)
    spec = f"{tmp_path / name}{',split=train' if name == 'splits.json' else ''}"
    source = open_texts(spec)
    found = [(source.read(i), source.class_names[source.label(i)]) for i in (2, 0, 1)]
    assert found == [ROWS[2], ROWS[0], ROWS[1]]
    assert source.class_names == ("no", "yes")
    assert source.name(2) == f"{name}#2"
    assert source.fingerprint() == open_texts(spec).fingerprint() != open_texts(f"{spec},label=").fingerprint()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"\xef\xbb\xbftext,label\r\nhi,1\r\n\r\nbye,0\r\n"),
        ("a.csv", b'\xef\xbb\xbf"text","label"\r\n"hi",1\r\n"bye",0'),
        ("a.csv", b"text,label\rhi,1\r\rbye,0\r"),
        ("a.csv", b'text, label\n"hi", "1"\nbye, 0\n'),
        ("a.jsonl", b'\xef\xbb\xbf{"text": "hi", "label": 1}\r{"text": "bye", "label": 0}\r'),
    ],
)
def test_a_byte_order_mark_line_ends_and_spaces_after_commas_are_no_content(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    source = open_texts(tmp_path / name)
    assert [(source.read(i), source.label(i)) for i in range(len(source))] == [("hi", 1), ("bye", 0)]


def test_a_field_of_any_length_is_one_text(tmp_path):
    long = "\n".join(["x" * 140_000, "evil,spam"])
    (tmp_path / "a.csv").write_text(f'text,label\n"{long}",good\nok,spam\n')
    source = open_texts(tmp_path / "a.csv")
    assert [(source.read(i), source.label(i)) for i in range(len(source))] == [(long, 0), ("ok", 1)]
    assert csv.field_size_limit() == 131_072  # as before


@pytest.mark.parametrize(
    "row", ['"open,1', '"open,1\n"shut,0', '"a" b,1', 'a\rb,"1\n0"', f"{'x' * 65},1"], ids=lambda row: row[:8]
)
def test_a_row_that_may_be_two_is_refused(row, tmp_path, monkeypatch):
    monkeypatch.setattr(line_tables, "LONGEST", 64)
    (tmp_path / "a.csv").write_text(f"text,label\nfirst,0\n{row}\nlast,0\n", newline="")
    with pytest.raises(DataError, match=r"row 2 of .*a\.csv .* cannot be read: .*a field has at most 64 characters"):
        open_texts(tmp_path / "a.csv")


def test_labels_keep_their_row_and_a_missing_one_is_minus_one(tmp_path, preprocessing):
    (tmp_path / "a.csv").write_text("text,label\na,2.0\nb,\nc, 10\nd,-1\n")
    with pytest.warns(UserWarning, match=r"'2\.0' is read as class number 2"):
        loader = open_loader(tmp_path / "a.csv", preprocessing, batch_size=3, label_offset=1)
    first, second = (batch.labels for batch in loader)
    assert first.tolist() == [3, -1, 11] and second is None


@pytest.mark.parametrize(
    ("head", "options", "expected"),
    [
        ("id,query,intent", {}, ("q", 0)),
        ("id,premise,hypothesis", {}, (("q", "l"), None)),
        ("label,sentence,other", {}, ("q", None)),
        ("a,b,c", {"text": "b", "label": "c"}, ("q", 0)),
        ("a,b,c", {"text": "b,c"}, (("q", "l"), None)),
        ("a,text,missing", {"label": "intent", "labelled": False}, ("q", None)),
    ],
)
def test_columns_are_found_by_name_or_named(head, options, expected, tmp_path):
    (tmp_path / "a.csv").write_text(f"{head}\n,q,l\n")
    source = open_texts(tmp_path / "a.csv", **options)
    assert (source.read(0), source.label(0)) == expected


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        (
            "a.csv",
            "a,b\n1,2\n",
            "",
            r"has no column 'text'; its columns are a, b\. Name .*,text=COLUMN, or by --",
        ),
        ("a.csv", "query,review\n1,2\n", "", r"several columns that may be the text: query, review"),
        ("a.csv", "text,label\n1,2\n", ",label=x", r"has no column 'x'; its columns are text, label"),
        ("a.csv", "text,text\n1,2\n", "", "names the column 'text' twice"),
        ("a.jsonl", '{"text": "a", "text": "b"}', "", "has no column 'text'"),
        ("list.json", '[{"text": "a", "text": "b"}]', "", "the key 'text' stands there twice"),
        ("a.csv", "text\n", "", "holds no row"),
        ("a.csv", "text\n\xff\n", "", r"is not UTF-8 text.*Save it as UTF-8"),
        ("a.csv", "text\nhi\n", ",colour=red", r"takes text=\.\.\., label=\.\.\., split=\.\.\.; got colour=red"),
        ("a.csv", "text\nhi\n", ",split=train", "split=... is for a JSON document"),
        ("a.json", '{"a": [], "b": []}', "", r"has several parts; it has a, b\. Name one: .*,split=NAME"),
        ("a.json", "{", "", "is not a JSON document"),
        ("a.json", "3", "", "must hold a list of rows; got int"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "a", "label": "x"}', "", "it holds several kinds"),
        ("a.parquet", "PAR1", "", "is not a Parquet file, or is damaged"),
        ("a.txt", "hi", "", r"is not a file of texts: its name must end in \.csv"),
        ("a", "", "b.csv", "cannot be read: No such file"),
    ],
)
def test_files_that_cannot_be_used_say_why(name, content, options, message, tmp_path):
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=message):
        open_texts(f"{tmp_path / name}{options}")


def test_a_column_that_stands_twice_and_a_pipe_are_refused(tmp_path):
    columns = [pa.array(["a"]), pa.array(["b"])]
    parquet.write_table(pa.Table.from_arrays(columns, names=["text", "text"]), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet names the column 'text' twice"):
        open_texts(tmp_path / "a.parquet")
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(DataError, match=r"pipe\.csv is not a regular file"):
        open_texts(tmp_path / "pipe.csv")


def test_data_sets_of_images_are_refused():
    with pytest.raises(DataError, match=r"is a data set of images.*load_dataset\(\.\.\.\)\.to_parquet"):
        open_texts("hf:clinc_oos")


BROKEN = {
    "a.csv": "text,label\nwhat,1\n,1\na,b,c\n  ,0\nthe,0\n",
    "a.jsonl": '{"text": "what", "label": 1}\n{"label": 1}\n[3]\n{"text": "\\ud800"}\n{"text": "the", "label": 0}\n',
}


@pytest.mark.parametrize("name", BROKEN)
def test_rows_without_a_text_are_skipped_and_named_or_raised(name, tmp_path, preprocessing):
    (tmp_path / name).write_text(BROKEN[name])
    loader = open_loader(tmp_path / name, preprocessing, on_error="skip", batch_size=2)
    for _ in range(2):  # counted anew each time
        batches = list(loader)
        assert [batch.index.tolist() for batch in batches] == [[0], [4]]
        assert [batch.labels.tolist() for batch in batches] == [[1], [0]]
        assert loader.skipped == [f"{name}#{i}" for i in (1, 2, 3)]
    assert loader.num_samples == 5
    with pytest.raises(TextError, match=rf"text {name}#1 \(number 1\) cannot be read: .*--on-error skip"):
        list(open_loader(tmp_path / name, preprocessing))


@pytest.fixture
def seven(tmp_path, preprocessing):
    lines = [f"{'cat ' * (k + 1)},{'odd' if k % 2 else 'even'}" for k in range(7)]
    (tmp_path / "a.csv").write_text("\n".join(["text,label", *lines]))
    return open_loader(tmp_path / "a.csv", preprocessing, batch_size=2, class_names=["odd", "other", "even"][::2])


def test_a_loader_knows_its_rows_and_is_cut_anew(seven):
    assert isinstance(seven, KnownLoader) and isinstance(seven, TextLoader)
    with pytest.warns(UserWarning, match=r"3 of 7 texts have more than 6 tokens and are cut there, the first .* a\."):
        batches = list(seven)
    assert seven.truncated == 3
    assert [len(batch.index) for batch in batches] == [2, 2, 2, 1]
    assert [batch.inputs["input_ids"].shape[1] for batch in batches] == [4, 6, 6, 6]
    assert torch.cat([batch.labels for batch in batches]).tolist() == [1, 0, 1, 0, 1, 0, 1]  # by name
    assert [batch.index.tolist() for batch in seven.over([[5, 1], [3]])] == [[5, 1], [3]]
    shares = [batch.index.tolist() for i in range(3) for batch in shard(seven, i, 3)]
    assert shares == [batch.index.tolist() for batch in batches]
    assert stated_by(seven).preprocessing is seven.preprocessing
    assert stated_by(seven).class_names == ("odd", "even")


def test_what_a_batch_depends_on_is_its_identity(seven, tmp_path, preprocessing):
    known = seven.identity()
    longer = preprocessing.model_copy(update={"max_length": 9})
    for change in ({"limit": 3}, {"label_offset": 1}, {"on_error": "skip"}):
        assert open_loader(tmp_path / "a.csv", preprocessing, **change).identity() != known
    assert open_loader(tmp_path / "a.csv", longer).identity()["preprocessing"] != known["preprocessing"]
    assert open_loader(tmp_path / "a.csv", preprocessing, limit=3).rows == range(3)
    with pytest.raises(InputError, match="must be at least 1"):
        open_loader(tmp_path / "a.csv", preprocessing, batch_size=0)
