"""A benchmark file: paths begin where it says, mistakes end in sentences, and it runs no code."""

from __future__ import annotations

from pathlib import Path

import pytest

from oodline.errors import DataError, ModelError, SettingError, UnknownNameError
from oodline.evaluation.protocol import BenchmarkProtocol, labelled_detectors, parse_protocol, read_protocol

ROOT = Path(__file__).parents[2]

GOOD = """
name = "small"
folder = "images"
batch_size = 10
detectors = ["energy"]
[classifier]
model = "timm:resnet18"
weights = "w.safetensors"
preprocessing = {resize = 8, crop = 8}
[fit]
data = "train"
[test]
data = "test.parquet"
source = "https://example.org/test"
[[csid]]
data = "/elsewhere/shifted"
[[ood]]
data = "torchvision:SVHN,root=.,split=test"
group = "far"
[[ood]]
name = "gratings"
data = "hf:someone/gratings,split=test"
"""


def written(tmp_path, text=GOOD, *changes):
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "small.toml"
    path.write_text(text)
    return path


def test_paths_begin_at_the_folder_that_the_file_or_the_user_says(tmp_path):
    path = written(tmp_path)
    for folder, base in ((None, tmp_path / "images"), (tmp_path / "mine", tmp_path / "mine")):
        protocol = read_protocol(path, folder=folder)
        assert [part.data for _, _, part in protocol.sets()] == [
            f"{base}/train",
            f"{base}/test.parquet",
            "/elsewhere/shifted",
            f"torchvision:SVHN,root={base},split=test",
            "hf:someone/gratings,split=test",
        ]
        assert protocol.classifier.weights == f"{base}/w.safetensors"
    assert read_protocol(written(tmp_path, GOOD, ('folder = "images"\n', ""))).fit.data == f"{tmp_path}/train"


def test_of_hf_a_folder_that_is_there_begins_where_paths_do(tmp_path):
    (tmp_path / "images" / "someone" / "gratings").mkdir(parents=True)
    (tmp_path / "images" / "net").mkdir()
    protocol = read_protocol(written(tmp_path), model="hf:net,x=1")
    assert protocol.ood[1].data == f"hf:{tmp_path}/images/someone/gratings,split=test"
    named = written(tmp_path, GOOD, ('model = "', 'model = "hf:net" #'))
    assert read_protocol(named).classifier.model == f"hf:{tmp_path}/images/net"
    assert protocol.classifier.model == "hf:net,x=1"  # as the command line has it, seen from here


def test_roles_names_and_groups(tmp_path):
    protocol = read_protocol(written(tmp_path))
    assert [(role, name) for role, name, _ in protocol.sets()] == [
        ("fit", "train"), ("id", "test"), ("csid", "shifted"), ("ood", "SVHN"), ("ood", "gratings"),
    ]  # fmt: skip
    assert [part.group for part in protocol.ood] == ["far", None]
    assert protocol.classifier.preprocessing.crop == 8
    assert protocol.test.source == "https://example.org/test"
    assert parse_protocol(protocol.model_dump()) == protocol


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        (
            ('group = "far"', 'gruop = "far"'),
            UnknownNameError,
            r"unknown key in \[ood\[0\]\] of .*'gruop'. Did you mean 'grou",
        ),
        (("batch_size", "batchsize"), UnknownNameError, r"unknown key in the top level .*Did you mean 'batch_size'"),
        (("crop = 8", "corp = 8"), UnknownNameError, r"in \[classifier.preprocessing\] .*'corp'. Did you mean 'crop'"),
        (('model = "timm:resnet18"\n', ""), SettingError, r"lacks `model` in \[classifier\]"),
        (('[test]\ndata = "test.parquet"\nsource = "https://example.org/test"\n', ""), SettingError, r"lacks \[test\]"),
        (
            ("batch_size = 10", "batch_size = 0"),
            SettingError,
            r"small.toml: `batch_size` must be greater than 0; got 0\.$",
        ),
        (("batch_size = 10", "tpr = 1.5"), SettingError, r"`tpr` must be less than 1; got 1.5"),
        (("resize = 8", "resize = -8"), SettingError, r"`classifier.preprocessing.resize"),
        (
            ('"gratings"', '"../gratings"'),
            SettingError,
            r"`ood\[1\].name` must be letters, digits, spaces and .*; got '../gratings'\.$",
        ),
        (('"torchvision:SVHN,root=.,split=test"', "3"), SettingError, r"`ood\[0\].data` must be a text; got 3"),
        (
            ('"torchvision:SVHN,root=.,split=test"', '""'),
            SettingError,
            r"`ood\[0\].data` must have at least 1 char.*; got ''",
        ),
        (("batch_size = 10", 'batch_size = "ten"'), SettingError, r"`batch_size` must be a valid integer.*; got 'ten'"),
        (('detectors = ["energy"]', "detectors = [3]"), SettingError, r"`detectors\[0\]` must be a text; got 3"),
        (('detectors = ["energy"]', "detectors = 3"), SettingError, r"`detectors` must be a list; got 3"),
        (
            ("batch_size = 10", 'on_error = "ignore"'),
            SettingError,
            r"`on_error` must be 'raise' or 'skip'; got 'ignore'",
        ),
        (("[[csid]]", "[csid]"), SettingError, r"`csid` must be a list; got \{'data'"),
        (('[fit]\ndata = "train"\n', ""), SettingError, r"lacks \[fit\]"),
        (('data = "/elsewhere/shifted"', 'name = "x"'), SettingError, r"lacks `data` in \[csid\[0\]\]"),
        (('"gratings"', '"SVHN"'), SettingError, "two data sets are called 'SVHN'"),
        (("[fit]", "[fit"), SettingError, "is not TOML: .*line"),
        (("split=test", "trust_remote_code=true"), SettingError, "would run code"),
        (('"timm:resnet18"', '"python:a.py:net"'), ModelError, "name it yourself: --model python:a.py:net"),
    ],
)
def test_mistakes_end_in_sentences(tmp_path, change, error, sentence):
    with pytest.raises(error, match=sentence) as found:
        read_protocol(written(tmp_path, GOOD, change)).sets()
    assert "pydantic" not in str(found.value)
    if change[0] not in ('"gratings"', '"timm:resnet18"', "split=test"):
        assert "small.toml" in str(found.value)


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(DataError, match=r"no\.toml cannot be read: No such file"):
        read_protocol(tmp_path / "no.toml")
    (tmp_path / "picture.toml").write_bytes(b"\x89PNG\xff")
    with pytest.raises(SettingError, match="is not TOML"):
        read_protocol(tmp_path / "picture.toml")


def test_the_user_may_name_code(tmp_path):
    path = written(tmp_path, GOOD, ('"timm:resnet18"', '"python:a.py:net"'))
    assert read_protocol(path, model="python:mine.py:net").classifier.model == "python:mine.py:net"


def test_detectors_have_labels():
    found = labelled_detectors(["line,p_a=.9", "odd name=react,scorer=dice", "all"])
    assert list(found)[:3] == ["line", "odd name", "msp"]
    assert found["line"].settings["p_a"] == 0.9
    assert found["odd name"].scorer.name == "dice"
    assert found["react"].scorer.name == "energy"
    for entries, sentence in [
        (["knn", "knn,k=5"], "two detectors are called 'knn'. Tell them apart, such as second=knn,k=5"),
        (["a/b=knn"], "without a slash"),
        (["knn,kk=3"], "has no setting 'kk'"),
    ]:
        with pytest.raises(SettingError, match=sentence):
            labelled_detectors(entries)
    with pytest.raises(UnknownNameError, match="Did you mean 'line'"):
        labelled_detectors(["x=lime"])


READY = sorted((ROOT / "protocols").glob("*.toml"))


@pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
def test_the_ready_files_say_what_they_need_and_where_to_get_it(path):
    protocol = read_protocol(path, model="timm:resnet18")
    assert isinstance(protocol, BenchmarkProtocol)
    assert protocol.source
    assert protocol.name != "benchmark"
    for _, name, part in protocol.sets():
        assert part.source, name

    assert next(iter(labelled_detectors(protocol.detectors))) == "line"


def test_there_is_a_ready_file_for_every_protocol_of_the_field():
    names = {path.stem for path in READY}
    assert names >= {"cifar10", "cifar100", "imagenet", "openood-cifar10", "openood-cifar100", "openood-imagenet"}
    assert names >= {"pt-ood", "clinc150", "shared-cifar10", "shared-cifar100", "shared-imagenet"}
