"""Activations on disk: known by content, resumed after a kill, redone where damaged, the same to the last bit."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import nn

import oodline
from oodline import KNN, NAP, ODIN, ConjNorm, Energy, LINe, Mahalanobis, ReAct, fit, score
from oodline.data import image_loader, open_images
from oodline.data.batch import KnownLoader
from oodline.errors import DataError, InputError, SettingError
from oodline.evaluation import identity as identity_module
from oodline.evaluation.cache import CachedClassifier, default_folder
from oodline.evaluation.identity import identity
from oodline.evaluation.shards import Block, Shards
from oodline.model.activations import Needs
from oodline.model.classifier import Classifier
from oodline.preprocessing.preprocessing import Preprocessing
from oodline.scoring.score import score_all
from oodline.testing import toy_images

CHEAP = [Energy(), LINe(p_a=0.5, p_w=0.5, clip=5.0), ReAct(), KNN(k=3), Mahalanobis(), ConjNorm()]


@pytest.fixture
def toy(tmp_path):
    return toy_images(tmp_path, count=30)


def cached(classifier, tmp_path, **options) -> CachedClassifier:
    return CachedClassifier(classifier, tmp_path / "cache", **{"images_a_shard": 8, **options})


def key(classifier, loader, tmp_path) -> str:
    return cached(classifier, tmp_path).shards(loader).key


def reopened(loader, **changes):
    """The same images opened anew, from another place or in another way."""
    options = {"root": loader.source.root, "preprocessing": Preprocessing(), "batch_size": 4, **changes}
    return image_loader(open_images(options.pop("root")), options.pop("preprocessing"), **options)


def test_scores_and_fits_are_those_of_the_network_to_the_last_bit(toy, tmp_path):
    classifier, loader = toy
    fit(CHEAP, classifier, loader)
    live = score_all(CHEAP, classifier, loader)
    states = [{k: v.clone() for k, v in d.state_dict().items()} for d in CHEAP]
    for expected in (30, 0):  # computed and recorded; then read
        source = cached(classifier, tmp_path)
        found = score_all(CHEAP, source, loader)
        assert source.computed == expected
        for name, values in live.scores.items():
            assert torch.equal(found.scores[name], values)
        for field in ("predicted", "index", "labels"):
            assert torch.equal(getattr(found, field), getattr(live, field))
        fit(CHEAP, source, loader)
        for before, detector in zip(states, CHEAP, strict=True):
            assert all(torch.equal(before[k], v) for k, v in detector.state_dict().items())
    assert source.computed == 0


def test_what_more_than_features_is_needed_for_runs_the_network_and_records(toy, tmp_path):
    classifier, loader = toy
    detectors = [ODIN(), NAP(), Energy()]
    live = score(detectors, classifier, loader)
    for _ in range(2):
        source = cached(classifier, tmp_path)
        found = score(detectors, source, loader)
        assert source.computed == 30
        assert all(torch.equal(found[name], live[name]) for name in live)
    source = cached(classifier, tmp_path)
    assert torch.equal(score(Energy(), source, loader)["energy"], live["energy"])
    assert source.computed == 0
    [(activations, _)] = list(source.stream(reopened(loader, limit=3), needs=Needs.INPUTS))
    assert activations.inputs.shape == (3, 3, 8, 8)


def test_a_named_layer_is_not_on_disk(toy, tmp_path):
    classifier, loader = toy
    source = cached(classifier, tmp_path)
    for computed in (30, 60):
        batches = list(source.stream(loader, layers=("0",)))
        assert batches[0][0].layers["0"].shape == (4, 16, 6, 6)
        assert source.computed == computed


def test_the_same_content_under_another_object_and_path_is_the_same(toy, tmp_path):
    classifier, loader = toy
    first = key(classifier, loader, tmp_path)
    again, _ = toy_images(tmp_path / "elsewhere", count=1)
    assert again.model is not classifier.model
    moved = shutil.copytree(loader.source.root, tmp_path / "moved")
    assert key(again, reopened(loader, root=moved), tmp_path) == first
    assert key(again, reopened(loader, batch_size=7, limit=30), tmp_path) == first


def test_other_weights_are_another_key(toy, tmp_path):
    classifier, loader = toy
    first = key(classifier, loader, tmp_path)
    with torch.no_grad():
        classifier.model[0].bias[3] += 1e-6
    assert key(classifier, loader, tmp_path) != first


def test_a_buffer_that_is_not_saved_counts_too(toy, tmp_path):
    classifier, loader = toy
    classifier.model[0].register_buffer("scale", torch.ones(1), persistent=False)
    first = key(classifier, loader, tmp_path)
    classifier.model[0].scale.mul_(2)
    assert key(classifier, loader, tmp_path) != first


def test_another_architecture_head_or_dtype_is_another_key(toy, tmp_path):
    classifier, loader = toy
    model = classifier.model
    keys = {key(classifier, loader, tmp_path)}
    leaky = nn.Sequential(model[0], nn.LeakyReLU(), *model[2:])  # the same tensors
    keys.add(key(Classifier(leaky), loader, tmp_path))
    layered = nn.Sequential(model[0], model[1], model[2], model[3], nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 3)))
    keys |= {key(Classifier(layered, head), loader, tmp_path) for head in ("4", "4.1")}
    keys.add(key(Classifier(model.double()), loader, tmp_path))
    assert len(keys) == 5


def test_other_code_of_a_module_is_another_key(tmp_path, toy, monkeypatch):
    _, loader = toy
    source = "from torch import nn\nclass Net(nn.Linear):\n    def forward(self, x):\n        return {}\n"
    keys = []
    for name, body in (("one", "x"), ("same", "x"), ("other", "x + 1")):
        path = tmp_path / f"{name}.py"
        path.write_text(source.format(body))
        monkeypatch.syspath_prepend(tmp_path)
        module = __import__(name)
        torch.manual_seed(0)
        keys.append(key(Classifier(nn.Sequential(module.Net(4, 4), nn.Linear(4, 3))), loader, tmp_path))
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize("part", ["oodline", "torch"])
def test_another_version_is_another_key(part, toy, tmp_path, monkeypatch):
    classifier, loader = toy
    first = key(classifier, loader, tmp_path)
    if part == "oodline":
        monkeypatch.setattr(identity_module, "__version__", "9.9.9")
    else:
        monkeypatch.setattr(torch, "__version__", "9.9.9")
    assert key(classifier, loader, tmp_path) != first


def test_other_arithmetic_is_another_key(toy):
    first = identity(toy[0])
    with torch.autocast("cpu", torch.bfloat16):
        assert identity(toy[0]) != first
    assert identity(toy[0]) == first


@pytest.mark.parametrize(
    "changes",
    [{"preprocessing": Preprocessing(mean=(0.1, 0, 0))}, {"limit": 29}, {"label_offset": 1}, {"on_error": "skip"}],
)
def test_another_reading_is_another_key(changes, toy, tmp_path):
    classifier, loader = toy
    assert key(classifier, reopened(loader, **changes), tmp_path) != key(classifier, loader, tmp_path)


def test_one_byte_of_the_data_is_another_key(toy, tmp_path):
    classifier, loader = toy
    first = key(classifier, loader, tmp_path)
    victim = loader.source.root / loader.source.name(17)
    content = bytearray(victim.read_bytes())
    content[-20] ^= 1
    victim.write_bytes(bytes(content))
    assert key(classifier, reopened(loader), tmp_path) != first


def test_an_image_of_another_class_is_another_key(toy, tmp_path):
    classifier, loader = toy
    first = key(classifier, loader, tmp_path)
    root = loader.source.root
    (root / "0" / "0000.png").rename(root / "1" / "0000.png")
    assert key(classifier, reopened(loader), tmp_path) != first


def test_a_shard_that_is_damaged_is_computed_again_and_no_other(toy, tmp_path):
    classifier, loader = toy
    source = cached(classifier, tmp_path)
    expected = score(Energy(), source, loader)["energy"]
    folder = source.shards(loader).folder
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) == 4  # 8 + 8 + 8 + 6 images
    damage = {
        "truncated": lambda path: path.write_bytes(path.read_bytes()[:-5]),
        "changed": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x7f"),
        "lost": lambda path: path.unlink(),
        "empty": lambda path: path.write_bytes(b""),
    }
    for spoil in damage.values():
        spoil(files[1])
        source = cached(classifier, tmp_path)
        assert source.shards(loader).missing() == [1]
        assert torch.equal(score(Energy(), source, loader)["energy"], expected)
        assert source.computed == 8
    assert cached(classifier, tmp_path).shards(loader).missing() == []


def test_a_damaged_description_costs_nothing(toy, tmp_path):
    classifier, loader = toy
    source = cached(classifier, tmp_path)
    expected = score(Energy(), source, loader)["energy"]
    about = source.shards(loader).folder / "about.json"
    good = json.loads(about.read_text())
    assert good["parts"]["oodline"] == oodline.__version__
    for text in (about.read_text()[:50], "[]", json.dumps({**good, "size": 0}), json.dumps({**good, "parts": {}})):
        about.write_text(text)
        source = cached(classifier, tmp_path)
        assert torch.equal(score(Energy(), source, loader)["energy"], expected)
        assert source.computed == 0


def test_shards_that_cover_other_images_do_not_count(toy, tmp_path):
    classifier, loader = toy
    expected = score(Energy(), cached(classifier, tmp_path), loader)["energy"]
    (cached(classifier, tmp_path).shards(loader).folder / "about.json").unlink()
    source = cached(classifier, tmp_path, images_a_shard=12)
    assert torch.equal(score(Energy(), source, loader)["energy"], expected)
    assert source.computed == 30
    assert cached(classifier, tmp_path, images_a_shard=12).shards(loader).missing() == []


def test_a_file_that_only_has_the_name_of_a_shard_does_not_count(toy, tmp_path):
    classifier, loader = toy
    folder = cached(classifier, tmp_path).shards(loader).folder
    folder.mkdir(parents=True)
    content = save({"features": torch.ones(8, 16)})
    (folder / f"000000-{hashlib.sha256(content).hexdigest()}.safetensors").write_bytes(content)
    (folder / f"000001-{'0' * 64}.safetensors").write_bytes(content)
    assert cached(classifier, tmp_path).shards(loader).missing() == [0, 1, 2, 3]


def test_an_interrupted_pass_goes_on_where_it_was(toy, tmp_path):
    classifier, loader = toy
    expected = score(Energy(), classifier, loader)["energy"]
    batches = cached(classifier, tmp_path).stream(loader)
    for _ in range(5):  # two shards of two batches, and half of the third
        next(batches)
    batches.close()
    source = cached(classifier, tmp_path)
    assert source.shards(loader).missing() == [2, 3]
    assert torch.equal(score(Energy(), source, loader)["energy"], expected)
    assert source.computed == 14


def test_a_pass_goes_on_with_batches_of_another_size(toy, tmp_path):
    classifier, loader = toy
    expected = score(Energy(), classifier, loader)["energy"]
    batches = cached(classifier, tmp_path).stream(loader)
    for _ in range(5):
        next(batches)
    batches.close()
    source = cached(classifier, tmp_path)
    sizes = [len(activations) for activations, _ in source.stream(reopened(loader, batch_size=7))]
    assert sizes == [4, 4, 4, 4, 7, 1, 6]  # no batch reaches into two shards
    assert source.computed == 14
    assert torch.allclose(score(Energy(), source, loader)["energy"], expected, rtol=1e-5)


def test_several_processes_may_write_the_same_at_once(toy, tmp_path):
    classifier, loader = toy
    one, two = (cached(classifier, tmp_path).stream(loader) for _ in range(2))
    for pair in zip(one, two, strict=True):  # in step, each sees the other's shards appear
        assert torch.equal(pair[0][0].logits, pair[1][0].logits)
    source = cached(classifier, tmp_path)
    assert source.shards(loader).missing() == []
    score(Energy(), source, loader)
    assert source.computed == 0


def test_shards_of_another_size_that_were_there_first_win(tmp_path):
    def block(start, n):
        return Block(torch.ones(n, 2), torch.ones(n, 3), torch.zeros(n), torch.arange(start, start + n))

    one, two = (Shards(tmp_path, {"weights": "a"}, range(12), size) for size in (4, 6))
    one.write(0, [block(0, 4)])
    two.write(1, [block(6, 6)])  # begun before the other one wrote
    assert Shards(tmp_path, {"weights": "a"}, range(12), 6).missing() == [1, 2]
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1


def test_unreadable_images_are_skipped_from_disk_as_from_the_data(toy, tmp_path):
    classifier, loader = toy
    for i in (0, 9, *range(24, 30)):  # the last shard holds nothing at all
        (loader.source.root / loader.source.name(i)).write_bytes(b"no image")
    loader = reopened(loader, on_error="skip")
    live = score_all(Energy(), classifier, loader)
    names = loader.skipped
    assert len(names) == 8
    for computed in (22, 0):
        loader.skipped = []
        source = cached(classifier, tmp_path)
        found = score_all(Energy(), source, loader)
        assert source.computed == computed
        assert loader.skipped == names
        assert torch.equal(found.index, live.index)
        assert torch.allclose(found.scores["energy"], live.scores["energy"], rtol=1e-5)
    strict = reopened(loader, on_error="raise")
    with pytest.raises(DataError, match="cannot be read"):
        score(Energy(), cached(classifier, tmp_path), strict)


def test_nothing_readable_is_said(toy, tmp_path):
    classifier, loader = toy
    for i in range(30):
        (loader.source.root / loader.source.name(i)).write_bytes(b"no image")
    for _ in range(2):
        with pytest.raises(InputError, match="yielded no batch"):
            score(Energy(), cached(classifier, tmp_path), reopened(loader, on_error="skip"))


def test_images_without_labels_have_none_from_disk(toy, tmp_path):
    classifier, loader = toy
    flat = reopened(loader, root=loader.source.root / "0")
    for _ in range(2):
        source = cached(classifier, tmp_path)
        assert score_all(Energy(), source, flat).labels is None
    assert source.computed == 0


def test_a_head_of_several_layers_knows_its_classes_from_disk(toy, tmp_path):
    classifier, loader = toy
    head = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    model = nn.Sequential(*list(classifier.model)[:4], head)
    results = []
    for _ in range(2):
        source = cached(Classifier(model, "4"), tmp_path)
        detector = LINe(p_a=0.5, p_w=0.5, clip=5.0).fit(source, loader)
        assert detector.fitted_on.num_classes == 3
        results.append(score(detector, source, loader)["line"])
    assert source.computed == 0
    assert torch.equal(*results)


def test_a_loader_that_does_not_know_its_content_is_refused(toy, tmp_path):
    classifier, loader = toy
    assert isinstance(loader, KnownLoader)
    with pytest.raises(InputError, match="a list does not know its content"):
        score(Energy(), cached(classifier, tmp_path), list(loader))
    opaque = image_loader(loader.source, lambda image: Preprocessing()(image))
    with pytest.raises(InputError, match="a function, has no `fingerprint`"):
        score(Energy(), cached(classifier, tmp_path), opaque)
    with pytest.raises(SettingError, match="images_a_shard=0"):
        cached(classifier, tmp_path, images_a_shard=0)


def test_a_callable_may_say_what_it_does(toy, tmp_path):
    classifier, loader = toy

    class Flip(Preprocessing):
        sideways: bool = True

    keys = set()
    for preprocessing in (Preprocessing(), Flip(), Flip(sideways=False)):
        keys.add(key(classifier, reopened(loader, preprocessing=preprocessing), tmp_path))
    assert len(keys) == 3


KILLED = """
import sys
from pathlib import Path
from oodline import Energy, score
from oodline.evaluation.cache import CachedClassifier
from oodline.testing import toy_images
folder = Path(sys.argv[1])
classifier, loader = toy_images(folder, count=30)
classifier.model[0].register_forward_hook(lambda *_: __import__("time").sleep(0.3))
score(Energy(), CachedClassifier(classifier, folder / "cache", images_a_shard=8), loader)
"""


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)])
    for _ in range(1200):
        time.sleep(0.05)
        if len(list((tmp_path / "cache").rglob("0*.safetensors"))) >= 2:
            break
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    there = list((tmp_path / "cache").rglob("0*.safetensors"))
    assert 2 <= len(there) < 4
    before = {path: path.stat().st_mtime_ns for path in there}

    classifier, loader = toy_images(tmp_path, count=30)
    expected = score(Energy(), classifier, loader)["energy"]
    source = cached(classifier, tmp_path)
    assert torch.equal(score(Energy(), source, loader)["energy"], expected)
    assert source.computed == 30 - 8 * len(there)
    assert {path: path.stat().st_mtime_ns for path in there} == before


def test_the_default_place_follows_the_platform(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_folder() == Path("/somewhere/oodline")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_folder() == Path.home() / ".cache" / "oodline"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert default_folder() == Path.home() / "Library" / "Caches" / "oodline"


def test_no_shard_holds_a_pickle(toy, tmp_path):
    classifier, loader = toy
    score(Energy(), cached(classifier, tmp_path), loader)
    kinds = {path.suffix for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert kinds == {".json", ".safetensors"}
