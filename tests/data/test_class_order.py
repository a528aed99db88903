"""Labels stand for the logits that they are meant for, or something says that they may not."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from safetensors.torch import save_file
from torch import nn

import oodline as ol
from oodline.cli import main
from oodline.data import ImageFolder, TensorFile, TensorLoader, image_loader, open_images, open_loader
from oodline.data.class_order import compare_classes, doubtful_order, in_order_of, natural_order
from oodline.data.subset import evenly
from oodline.errors import DataError
from oodline.preprocessing.preprocessing import Preprocessing

COLOURS = {"blue": 2, "green": 1, "red": 0}
"""Class folders in their order, and the channel that is bright."""


def put(path, channel=0, n=1, seed=0):
    """Images of one colour with noise."""
    path.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for i in range(n):
        pixels = random.integers(0, 60, (8, 8, 3))
        pixels[..., channel] += 150
        Image.fromarray(pixels.astype("uint8")).save(path / f"{i:02}.png")


@pytest.fixture
def colours(tmp_path):
    for name, channel in COLOURS.items():
        put(tmp_path / "train" / name, channel, 12)
    return tmp_path / "train"


def labels(source):
    return {Path(source.name(i)).parts[0]: source.label(i) for i in range(len(source))}


def test_a_folder_is_a_class_whether_full_or_empty(colours):
    (colours / "black").mkdir()
    source = ImageFolder(colours)
    assert source.class_names == ("black", "blue", "green", "red")
    assert labels(source) == {"blue": 1, "green": 2, "red": 3}
    before = source.fingerprint()
    (colours / "black").rmdir()
    assert ImageFolder(colours).fingerprint() != before


def test_folders_are_ordered_as_torchvision_orders_them(tmp_path):
    from torchvision.datasets import ImageFolder as Theirs

    for name in ("10", "9", "b", "B", "a b", "a-b", "ä", "Z9"):
        put(tmp_path / name)
    theirs = Theirs(str(tmp_path), allow_empty=True)
    source = ImageFolder(tmp_path)
    assert list(source.class_names) == theirs.classes
    assert {source.name(i): source.label(i) for i in range(len(source))} == {
        os.path.relpath(path, tmp_path): label for path, label in theirs.samples
    }


def test_links_to_folders_are_followed_and_loops_end(colours, tmp_path):
    put(tmp_path / "elsewhere" / "deep", 0, 2)
    (colours / "ash").symlink_to(tmp_path / "elsewhere")
    (colours / "red" / "again").symlink_to(colours / "green")
    assert labels(ImageFolder(colours)) == {"ash": 0, "blue": 1, "green": 2, "red": 3}
    assert len(ImageFolder(colours)) == 36 + 2 + 12
    (colours / "red" / "up").symlink_to(colours)
    (colours / "blue" / "self").symlink_to(colours / "blue")
    with pytest.warns(UserWarning, match=r"2 files and folders .* left out.*: blue/self/, red/up/"):
        assert len(ImageFolder(colours)) == 36 + 2 + 12
    assert ImageFolder(tmp_path / "elsewhere").class_names == ("deep",)


ASIDE = [".git", ".ipynb_checkpoints", "__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "__pycache__", ".Trash-0"]


@pytest.mark.parametrize("name", ASIDE)
def test_hidden_folders_and_those_of_archives_are_no_classes(name, colours):
    put(colours / name, 0, 2)
    put(colours / "green" / name, 0, 2)
    with pytest.warns(UserWarning, match="2 files and folders .* were left out") as told:
        source = ImageFolder(colours)
    assert f"{name}/" in str(told[0].message) and f"green/{name}/" in str(told[0].message)
    assert source.class_names == tuple(COLOURS)
    assert len(source) == 36


def test_a_stray_image_or_file_leaves_the_labels(colours):
    (colours / "README.txt").write_text("no image")
    assert labels(ImageFolder(colours)) == {"blue": 0, "green": 1, "red": 2}
    Image.new("RGB", (8, 8)).save(colours / "zebra.png")
    (colours / "red" / "._00.png").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"2 files and folders .*: zebra\.png, red/\._00\.png"):
        source = ImageFolder(colours)
    assert labels(source) == {"blue": 0, "green": 1, "red": 2}


def test_images_beside_few_in_folders_have_no_labels(tmp_path):
    put(tmp_path, 0, 10)
    put(tmp_path / "a", 0, 2)
    assert ImageFolder(tmp_path).class_names is None
    assert len(ImageFolder(tmp_path)) == 12
    put(tmp_path / "b", 0, 2)
    with pytest.warns(UserWarning, match="10 images are outside its subfolders, more than inside them"):
        assert ImageFolder(tmp_path).class_names is None


def test_a_link_that_leads_nowhere_is_named(colours):
    (colours / "cyan").symlink_to(colours / "nowhere")
    with pytest.warns(UserWarning, match="broken or circular links.*: cyan"):
        assert ImageFolder(colours).class_names == tuple(COLOURS)


def test_numeric_folders_are_in_alphabetical_order_unless_asked(tmp_path):
    for i in range(12):
        put(tmp_path / str(i))
    source = open_images(tmp_path)
    assert source.class_names[:4] == ("0", "1", "10", "11")
    assert "class 2 is '10', class 3 is '11'" in doubtful_order(source, 12)
    natural = open_images(f"{tmp_path},order=natural")
    assert natural.class_names == tuple(str(i) for i in range(12))
    assert doubtful_order(natural, 12) == ""
    by_name = in_order_of(source, [str(i) for i in range(12)])
    assert {name: int(name) for name in labels(by_name)} == labels(by_name)
    assert doubtful_order(by_name, 12) == ""
    with pytest.raises(DataError, match="`order` must be alphabetical or natural; got random"):
        open_images(f"{tmp_path},order=random")


@pytest.mark.parametrize("names", [["01", "02", "10"], ["cat", "dog"], ["n01440764", "n02119789"], ["a", "a-b", "a1"]])
def test_an_order_that_is_natural_too_is_not_complained_of(names):
    assert doubtful_order(SimpleNamespace(class_names=tuple(names)), len(names)) == ""
    assert natural_order(names[::-1])[0] == names[0]


@pytest.mark.parametrize(("data", "model", "positions"), [
    (["cat", "dog"], ["cat", "dog"], (0, 1)),
    (["cat", "dog"], ["dog", "cat"], (1, 0)),
    (["Polar-Bear", "great_white_shark"], ["great white shark", "polar bear"], (1, 0)),
    (["tench", "goldfish"], ["goldfish, Carassius auratus", "tench, Tinca tinca"], (1, 0)),
    (["0", "1", "10", "2"], ["0", "1", "2", "10"], (0, 1, 3, 2)),
    (["T-shirt/top", "Bag"], ["bag", "T - shirt / top"], (1, 0)),
])  # fmt: skip
def test_equal_sets_of_names_are_matched_without_a_word(data, model, positions):
    order = compare_classes(data, model)
    assert (order.positions, order.warning) == (positions, "")


def test_nothing_is_matched_where_names_say_nothing():
    for data, model in ((None, ["a"]), (["a"], None), (["cat", "dog"], ["LABEL_0", "LABEL_1"])):
        assert compare_classes(data, model) == compare_classes(None, None)


def test_one_name_in_a_thousand_is_noticed():
    model = [f"thing {chr(97 + i % 26)}{i}" for i in range(1000)]
    data = [*model[:-1], "something else"]
    order = compare_classes(data, model)
    assert order.positions is None
    assert "1 of 1000 of the data's are not among the classifier's ('something else')" in order.warning
    assert f"1 of 1000 of the classifier's not among the data's ('{model[-1]}')" in order.warning
    assert "other positions" not in order.warning
    swapped = compare_classes([*data[1::-1], *data[2:]], model).warning
    assert f"2 stand at other positions ('{model[1]}' is 0 in the data, 1 there)" in swapped


def test_some_of_the_classes_are_matched_and_the_others_named():
    order = compare_classes(["dog", "ant"], ["ant", "bee", "cat", "dog"])
    assert order.positions == (3, 0)
    assert "2 of the classifier's 4 classes are not among the data's ('bee', 'cat')" in order.warning


def test_imagenet_by_its_wordnet_numbers():
    from timm.data import ImageNetInfo
    from torchvision.models import ResNet50_Weights

    synsets, names = ImageNetInfo("imagenet-1k").label_names(), ResNet50_Weights.DEFAULT.meta["categories"]
    assert compare_classes(synsets, names).positions == tuple(range(1000))
    few = compare_classes(synsets[500:600], names)
    assert few.positions == tuple(range(500, 600))
    assert "900 of the classifier's 1000 classes" in few.warning
    wrong = compare_classes([*synsets[:50], "n99999999"], names)
    assert wrong.positions is None and "'n99999999'" in wrong.warning


def test_the_number_of_classes_is_compared():
    source = SimpleNamespace(class_names=("a", "b", "c"))
    assert "the data has 3 classes ('a', 'b', 'c') and the classifier 4." in doubtful_order(source, 4)
    assert doubtful_order(source, 4, label_offset=1) == doubtful_order(source, 3) == ""
    assert "and 1 is added to labels, and the classifier 3" in doubtful_order(source, 3, label_offset=1)


class Colours(nn.Module):
    """Its logits are the channels in an order of its own."""

    def __init__(self, order):
        super().__init__()
        self.head = nn.Linear(3, 3, bias=False)
        self.head.weight.data = 5 * torch.eye(3)[list(order)]

    def forward(self, images):
        return self.head(images.mean((2, 3)))


def fitted(loader, order=(2, 1, 0)):
    """Scores of LINe on the very images."""
    detector, classifier = ol.LINe(clip=9.0), ol.Classifier(Colours(order))
    ol.fit(detector, classifier, loader)
    return ol.score(detector, classifier, loader)["line"]


def test_line_is_the_same_whatever_the_order_of_the_folders(colours):
    """Swapped names moved its scores by more than a standard deviation."""
    expected = fitted(open_loader(colours, Preprocessing()))
    names = ["red", "green", "blue"]
    other = fitted(open_loader(colours, Preprocessing(), class_names=names), order=(0, 1, 2))
    assert torch.allclose(other, expected, atol=1e-5)


def test_fit_warns_of_swapped_classes_from_python(colours):
    with pytest.warns(UserWarning, match=r"classes looks wrong: label 0 \('blue'\) is predicted as class 1"):
        fitted(open_loader(colours, Preprocessing()), order=(1, 2, 0))


def test_fit_warns_of_another_number_of_classes_from_python(colours):
    put(colours / "white", 0, 3)
    with pytest.warns(UserWarning, match="the data has 4 classes .* and the classifier 3") as told:
        ol.fit(ol.KNN(k=3), ol.Classifier(Colours((2, 1, 0))), open_loader(colours, Preprocessing()))
    assert len(told) == 1


FACTORY = """
import torch
from torch import nn

class Colours(nn.Module):
    preprocessing = {"resize": 8, "crop": 8}

    def __init__(self, order, names=None):
        super().__init__()
        self.head = nn.Linear(3, 3, bias=False)
        self.head.weight.data = 5 * torch.eye(3)[list(order)]
        if names:
            self.class_names = names

    def forward(self, images):
        return self.head(images.mean((2, 3)))

def nameless():
    return Colours((1, 2, 0))

def named():
    return Colours((1, 2, 0), ["green", "blue", "red"])

def misnamed():
    return Colours((1, 2, 0), ["green", "blue", "crimson"])
"""


@pytest.fixture
def place(colours, tmp_path, monkeypatch):
    (tmp_path / "colours.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    assert not stop.value.code


@pytest.mark.filterwarnings("default")  # the command line prints them
def test_the_command_line_maps_by_name_warns_and_names_the_permutation(place, capsys):
    fit = ["fit", "--data", "train", "-o", "guard.safetensors", "-d", "line,clip=9.0", "--model"]
    run(*fit, "python:colours.py:named")
    out, err = capsys.readouterr()
    assert "gets 100.0 % of their labels right" in out and "warning" not in err
    run("evaluate", "guard.safetensors", "--id", "train", "--ood", "train/red", "--model", "python:colours.py:named")
    assert "warning" not in capsys.readouterr().err
    run(*fit, "python:colours.py:nameless")
    err = capsys.readouterr().err
    assert "the order of the classes looks wrong: label 0 ('blue') is predicted as class 1" in err
    assert "0 -> 1, 1 -> 0" in err
    run(*fit, "python:colours.py:misnamed")
    err = capsys.readouterr().err
    assert "1 of 3 of the data's are not among the classifier's ('red')" in err
    assert "1 of 3 of the classifier's not among the data's ('crimson')" in err


@pytest.mark.filterwarnings("default")
def test_a_limit_takes_evenly_over_classes_from_the_command_line(place, capsys):
    fit = ["fit", "--data", "train", "-o", "guard.safetensors", "-d", "line,clip=9.0"]
    run(*fit, "--model", "python:colours.py:named", "--limit", 6)
    assert "fitted line on 6 images" in capsys.readouterr().out
    loader = open_loader("train", Preprocessing(), limit=7, batch_size=3)
    assert [b.labels.tolist() for b in loader] == [[0, 0, 0], [1, 1, 2], [2]]
    assert [loader.name(i) for i in loader.rows][:3] == ["blue/00.png", "blue/01.png", "blue/02.png"]


@pytest.mark.parametrize("seed", range(20))
def test_evenly_is_even_deterministic_and_grows(seed):
    random = np.random.default_rng(seed)
    given = random.integers(-1, random.integers(1, 9), random.integers(1, 80))
    before: set[int] = set()
    for most in range(1, len(given) + 2):
        chosen = list(evenly(given, most))
        assert chosen == sorted(set(chosen)) and len(chosen) == min(most, len(given))
        assert chosen == list(evenly(given.tolist(), most))
        labelled = given[chosen][given[chosen] >= 0]
        counts = {c: (labelled == c).sum() for c in set(given[given >= 0].tolist())}
        full = [c for c in counts if counts[c] == (given == c).sum()]
        open_ = [counts[c] for c in counts if c not in full]
        assert not open_ or max(open_) - min(open_) <= 1  # only what has no more has less
        assert all(counts[c] <= max(open_, default=99) + 1 for c in full)
        if (given[chosen] < 0).any():
            assert (given >= 0).sum() == len(labelled)
        if most % max(len(counts), 1) == 0 and not full:
            assert before <= set(chosen)
            before = set(chosen)


def test_every_reader_limits_evenly(tmp_path, colours):
    import datasets

    given = [0] * 6 + [1] * 6 + [2] * 6
    table = {"image": [{"bytes": (colours / "red" / "00.png").read_bytes(), "path": None}] * 18, "label": given}
    parquet.write_table(datasets.Dataset.from_dict(table).data.table, tmp_path / "a.parquet")
    (tmp_path / "list.txt").write_text("".join(f"train/red/00.png {label}\n" for label in given))
    save_file({"x": torch.randn(18, 3), "labels": torch.tensor(given)}, tmp_path / "a.safetensors")
    for spec in ("a.parquet", "a.safetensors", "train"):
        loader = open_loader(tmp_path / spec, Preprocessing(), limit=5, batch_size=2)
        batches = list(loader)
        assert [label for batch in batches for label in batch.labels.tolist()] == [0, 0, 1, 1, 2]
        assert [i for batch in batches for i in batch.index.tolist()] == list(loader.rows)
        shares = [list(loader.part(k, 2)) for k in range(2)]
        assert [i for share in shares for batch in share for i in batch.index.tolist()] == list(loader.rows)
        other = open_loader(tmp_path / spec, Preprocessing(), limit=6, batch_size=2)
        assert loader.identity() != other.identity()
    listed = open_loader(f"list:{tmp_path}/list.txt", Preprocessing(), limit=3)
    assert [batch.labels.tolist() for batch in listed] == [[0, 1, 2]]
    vision = open_loader(f"torchvision:ImageFolder,root={colours}", Preprocessing(), limit=3)
    assert [batch.labels.tolist() for batch in vision] == [[0, 1, 2]]


def test_tensors_that_are_read_in_pieces_are_the_same(tmp_path):
    given = torch.arange(40) % 4 * (torch.arange(40) > 3)
    values = {"a": torch.randn(40, 2), "b": torch.randn(40)}
    save_file({**values, "labels": given}, tmp_path / "a.safetensors")
    loader = TensorLoader(TensorFile(tmp_path / "a.safetensors"), batch_size=5, limit=9)
    for batch in loader:
        for name, tensor in values.items():
            assert torch.equal(batch.inputs[name], tensor[batch.index])
        assert torch.equal(batch.labels, given[batch.index])


def test_a_cache_of_some_images_is_that_of_these(colours, tmp_path):
    from oodline.evaluation.cache import CachedClassifier

    classifier = CachedClassifier(ol.Classifier(Colours((2, 1, 0))), tmp_path / "cache", images_a_shard=2)
    source = open_images(colours)
    for limit in (7, 8):
        loader = image_loader(source, Preprocessing(), limit=limit, batch_size=2)
        first = [a.index.tolist() for a, _ in classifier.stream(loader)]
        computed = classifier.computed
        assert [a.index.tolist() for a, _ in classifier.stream(loader)] == first
        assert classifier.computed == computed
        assert [i for batch in first for i in batch] == list(loader.rows)
        assert loader.skipped == []


def test_tensors_with_names_are_matched_too(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.randn(4, 3), "labels": torch.tensor([0, 1, 1, 0])}, path, {"class_names": '["cat", "dog"]'})
    plain, swapped = (open_loader(path, Preprocessing(), class_names=names) for names in (None, ["dog", "cat"]))
    assert [batch.labels.tolist() for batch in plain] == [[0, 1, 1, 0]]
    assert [batch.labels.tolist() for batch in swapped] == [[1, 0, 0, 1]]
    assert plain.identity() != swapped.identity()
    with pytest.warns(UserWarning, match="1 of 2 of the data's are not among the classifier's"):
        open_loader(path, Preprocessing(), class_names=["dog", "emu"])


@pytest.mark.parametrize(
    ("data", "model", "positions"),
    [
        (["c", "c++", "c#"], ["c#", "c", "c++"], (1, 2, 0)),
        (["+", "-", "*"], ["*", "+", "-"], (1, 2, 0)),
        (["Cat", "cat"], ["cat", "Cat"], (1, 0)),
        (["😀", "😡"], ["😡", "😀"], (1, 0)),
    ],
)
def test_what_alone_tells_names_apart_is_not_left_out(data, model, positions):
    order = compare_classes(data, model)
    assert (order.positions, order.warning) == (positions, "")


def test_names_that_only_look_alike_are_not_matched_by_position():
    order = compare_classes(["c", "c+"], ["C-", "C#"])
    assert order.positions is None
    assert "differ" in order.warning


@pytest.mark.parametrize(
    "names",
    [
        sorted([*(f"c{i}" for i in range(12)), "background"]),
        sorted(f"class_{i}_{letter}" for i, letter in enumerate("abcdefghijkl")),
        ["cat1", "cat10", "cat2", "dog1"],
        ["-1", "0", "1", "10", "2"],
    ],
)
def test_numbers_in_some_names_tell_an_order_too(names):
    assert "alphabetical, not in natural order" in doubtful_order(SimpleNamespace(class_names=names), len(names))
