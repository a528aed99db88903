"""A detector that is defined outside the package, by the command line: a file, a package, a new process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from pyarrow import parquet

import oodline as ol
from oodline.cli import main
from oodline.cli.methods import page
from oodline.data import ImageLoader, image_loader, open_images
from oodline.detectors.description import describe_method
from oodline.detectors.registry import _REGISTERED, installed
from oodline.errors import ArtifactError, DetectorError
from oodline.evaluation.run import read_run
from oodline.guard.artifact import read_artifact
from oodline.model.zoo import load_model
from oodline.preprocessing.preprocessing import Preprocessing

MINE = """
import oodline as ol
from jaxtyping import Float
from torch import Tensor
from oodline.statistics import ClassMoments


class Mine(ol.Detector):
    name = "mine"
    needs = ol.Needs.FEATURES
    means: ol.Fitted[Float[Tensor, "C D"]]
    tunable = {"power": (1.0, 2.0)}

    def __init__(self, *, power: float = 2.0) -> None:
        super().__init__()
        self.power = power

    def statistics(self, head):
        return {"features": ClassMoments()}

    def estimate(self, head, features):
        self.means = features.mean.float()

    def score(self, activations):
        away = (activations.features[:, None] - self.means).abs().pow(self.power)
        return -away.sum(2).amin(1)


def margin(activations):
    best, second = activations.logits.topk(2).values.T
    return best - second


logit_margin = ol.from_function(margin, name="logit-margin", needs=ol.Needs.LOGITS)
"""
NET = """
import torch
from torch import nn


class Colours(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 3, bias=False)
        self.head.weight.data = 5 * torch.eye(3)[[2, 1, 0]]  # blue, green, red

    def forward(self, images):
        return self.head(images.mean((2, 3)))


build = Colours
"""
BENCH = """
batch_size = 4
detectors = ["msp", "mine,power=1.0", "logit-margin"]
[classifier]
model = "python:net.py:build"
preprocessing = {}
[fit]
data = "train/images"
name = "train"
[test]
data = "test/images"
name = "test"
[[ood]]
data = "noise/images"
name = "noise"
"""
MODEL = ["--model", "python:net.py:build", "--preprocessing", "{}"]
FROM = ["--detectors-from", "mine.py"]
FIT = ["fit", *MODEL, "--data", "train/images", "--calibrate", "held-out/images", "--false-alarm", "0.2"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    for part in ("train", "held-out", "test", "noise"):
        for label, colour in enumerate(("red", "green", "blue")):
            for i in range(4):
                pixels = random.integers(0, 60, (8, 8, 3))
                pixels[..., label] += 0 if part == "noise" else 150
                path = tmp_path / part / "images" / colour / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype("uint8")).save(path)
    for name, text in (("mine.py", MINE), ("net.py", NET), ("own.toml", BENCH)):
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path


def run(*arguments: str, code: int = 0) -> None:
    try:
        main(list(arguments))
        found = 0
    except SystemExit as stop:
        found = stop.code or 0
    assert found == code


def process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The same in a new process, which knows nothing of this one's detectors."""
    command = [sys.executable, "-W", "error", "-m", "oodline", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def images(folder: str) -> ImageLoader:
    return image_loader(open_images(Path(folder) / "images"), Preprocessing(), batch_size=4)


def expected(folder: str, power: float = 2.0) -> np.ndarray:
    """Negative distance to the nearest class mean, by NumPy."""

    def features(name: str) -> tuple[np.ndarray, np.ndarray]:
        read = [(classifier(b.inputs).features.numpy(), b.labels.numpy()) for b in images(name)]
        return np.concatenate([f for f, _ in read]), np.concatenate([y for _, y in read])

    classifier = ol.Classifier(load_model("python:net.py:build").model)
    (train, labels), (found, _) = features("train"), features(folder)
    means = np.stack([train[labels == c].mean(0) for c in range(3)])
    return -(np.abs(found[:, None] - means) ** power).sum(2).min(1)


def test_the_whole_way_of_an_own_detector(place, capsys):
    run(*FIT, "-d", "mine", "-d", "logit-margin", *FROM, "-o", "guard.safetensors")
    assert "fitted mine, logit-margin on 12 images" in capsys.readouterr().out

    score = ["score", "guard.safetensors", "test/images", *MODEL, "-o", "rows.parquet", "--json"]
    _REGISTERED.clear()
    run(*score, code=1)
    refused = "holds the detector 'mine', which this version of oodline does not have and nobody registered"
    assert refused in capsys.readouterr().err
    assert not Path("rows.parquet").exists()
    done = process(*score, *FROM)
    assert done.returncode == 0, done.stderr
    rows = parquet.read_table("rows.parquet").to_pydict()
    np.testing.assert_allclose(rows["score"], expected("test"), rtol=1e-4, atol=1e-6)

    run("export", "guard.safetensors", *MODEL, *FROM, "--data", "test/images", "-o", "guard.onnx")
    inputs = next(iter(images("test"))).inputs.numpy()
    found = onnxruntime.InferenceSession("guard.onnx").run(["score"], {"inputs": inputs})[0]
    np.testing.assert_allclose(found, rows["score"][:4], rtol=1e-4, atol=1e-5)

    run("evaluate", "guard.safetensors", *MODEL, *FROM, "--id", "test/images", "--ood", "noise/images", "--json")
    run("watch", "rows.parquet", "--guard", "guard.safetensors", *FROM)
    run("tune", *MODEL, *FROM, "--data", "train/images", "--held-out", "held-out/images", "-d", "mine", "-o", "t.json")
    assert json.loads(Path("t.json").read_text())["detector"].startswith("mine,power=")


def test_it_is_benched(place, capsys):
    run("bench", "own.toml", "--model", "python:net.py:build", code=1)
    assert "unknown detector 'mine'" in capsys.readouterr().err
    run("bench", "own.toml", "--model", "python:net.py:build", *FROM, "-o", "run")
    found = read_run("run")
    assert list(found.record.detectors) == ["msp", "mine", "logit-margin"]
    np.testing.assert_allclose(found.scores("noise")["mine"], expected("noise", power=1.0), rtol=1e-4, atol=1e-6)
    assert found.artifact().detectors["mine"].settings == {"power": 1.0}


PIXELS = """
import oodline as ol

@ol.register
class Pixels(ol.Detector):
    name, needs = "pixels", ol.Needs.INPUTS  # what a benchmark does not keep on disk

    def score(self, activations):
        return SIGN * activations.inputs.mean((1, 2, 3))
"""


def test_a_benchmark_keeps_nothing_of_code_that_may_change(place):
    command = ["bench", "own.toml", "--model", "python:net.py:build", "-d", "pixels", "--detectors-from", "pixels.py"]
    found = []
    for sign in ("1", "-1"):
        (place / "pixels.py").write_text(PIXELS.replace("SIGN", sign))
        run(*command, "-o", "run")
        found.append(read_run("run").scores("noise")["pixels"])
    assert (found[0] > 0).all()
    assert (found[1] == -found[0]).all()


def test_methods_show_it_without_a_paper(place, capsys):
    run("methods", *FROM)
    assert re.search(r"^  mine +- ", capsys.readouterr().out, re.MULTILINE)
    row = describe_method("mine")
    assert (row.paper, row.venue, row.group) == (None, "-", "your own")
    assert (row.settings["power"].default, row.needs, row.state) == (2.0, ("features",), {"means": "C x D"})
    assert "| `mine` | - | features |  | ClassMoments | means C x D | yes | `power=2.0` |  |" in page([row])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no Python file other.py. Check --detectors-from."),
        ("x = 1\n", "other.py defines no subclass of oodline.Detector. Check --detectors-from."),
        ("import nothing_of_that_name\n", "other.py could not be imported: ModuleNotFoundError"),
        (
            MINE.replace('name = "mine"', 'name = "Mine!"'),
            "`Mine.name` must be lowercase letters, digits and hyphens, such as 'my-score'; got 'Mine!'.",
        ),
        (
            MINE.replace('name = "mine"', 'name = "knn"'),
            "`name` must not be one that oodline uses itself; got 'knn'. Choose another.",
        ),
    ],
)
def test_a_file_that_gives_no_detector(place, capsys, text, message):
    if text is not None:
        (place / "other.py").write_text(text)
    run(*FIT, "-d", "mine", "--detectors-from", "other.py", "-o", "guard.safetensors", code=1)
    assert message in capsys.readouterr().err
    assert not Path("guard.safetensors").exists()


def test_who_names_no_file_hears_of_the_option(place, capsys):
    for reference in ("mine", "python:mine.py:Mine"):
        run(*FIT, "-d", reference, "-o", "guard.safetensors", code=1)
        assert f"unknown detector '{reference}'" in (said := capsys.readouterr().err)
        assert "Register your own: oodline.register(Class), or --detectors-from FILE.py." in said


def package(place: Path, points: str) -> Path:
    """An installed package of its own: a module, and what an installer writes beside it."""
    site = place / "site"
    about = site / "own_package-1.0.dist-info"
    about.mkdir(parents=True)
    (site / "own_package.py").write_text(MINE)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: own-package\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[oodline.detectors]\n{points}")
    return site


def test_an_installed_package_registers_its_own(place, monkeypatch):
    site = package(place, "mine = own_package:Mine\nlogit-margin = own_package:logit_margin\n")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(site))
        run(*FIT, "-d", "mine", "-d", "fuse,detectors=energy+logit-margin", "-o", "guard.safetensors")
        del sys.modules["own_package"]
    with pytest.raises(ArtifactError, match="holds the detector 'mine'"):
        read_artifact("guard.safetensors")
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    score = ["score", "guard.safetensors", "test/images", *MODEL, "-o", "rows.parquet", "--json"]
    done = process(*score, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["detector"] == "mine"
    rows = parquet.read_table("rows.parquet").to_pydict()
    np.testing.assert_allclose(rows["score"], expected("test"), rtol=1e-4, atol=1e-6)
    assert np.isfinite(rows["score_fuse"]).all()


def test_entry_points_are_read_and_not_run(place, monkeypatch):
    points = "energy = own_package:Mine\nMy_Own = own_package:Mine\nmine = own_package:Mine\nlost = own_package:Lost\n"
    monkeypatch.syspath_prepend(str(package(place, points)))
    with pytest.warns(UserWarning) as warned:
        assert installed() == {"mine": "own_package:Mine", "lost": "own_package:Lost"}
    assert [str(w.message) for w in warned] == [
        "the detector 'energy' of own-package is left out: the name is taken.",
        "the detector 'My_Own' of own-package is left out: a name is lowercase letters, digits and hyphens.",
    ]
    assert "own_package" not in sys.modules
    assert ol.create_detector("mine,power=1.0").settings == {"power": 1.0}
    with pytest.raises(DetectorError, match=r"'lost' is registered as own_package:Lost, which cannot be imported"):
        ol.create_detector("lost")
    with pytest.raises(DetectorError, match=r"`Mine.name` must be the name it is registered under, 'other'"):
        ol.register("other", "own_package:Mine")
        ol.create_detector("other")
    del sys.modules["own_package"]


def test_a_file_runs_nothing_of_a_package_that_it_names(place, capsys):
    """Whatever stands as a method in a signed file, it is a name that was registered, or a sentence."""
    run(*FIT, "-d", "mine", *FROM, "-o", "guard.safetensors")
    _REGISTERED.clear()
    (place / "mine.py").write_text("raise SystemExit('a file chose code')")
    with pytest.raises(ArtifactError, match=r"holds the detector 'mine'.* a file may not say which code to run"):
        read_artifact("guard.safetensors")
