"""The command line end to end on images in a folder: what it writes, prints and refuses."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from safetensors.torch import save_file

from oodline.cli import COMMANDS, main
from oodline.cli.options import named
from oodline.detectors.catalog import CATALOG
from oodline.errors import SettingError
from oodline.guard.artifact import read_artifact
from oodline.scoring.split import belongs

FACTORY = """
import torch
from torch import nn

def build(classes=3, seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes))
    model.preprocessing = {"resize": 8, "crop": 8, "mean": [0.5] * 3, "std": [0.25] * 3}
    return model

def flat(classes=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(300, 16), nn.ReLU(), nn.Linear(16, classes))

def headless():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

def broken():
    model = build()
    model[0].weight.data[:] = float("nan")
    return model

def slow():
    model = build()
    model[0].register_forward_hook(lambda *_: (__import__("time").sleep(0.2), open("begun", "a").close()) and None)
    return model
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with a model factory, two sets of labelled images of three colours, and noise."""
    random = np.random.default_rng(0)
    for part in ("train", "held_out"):
        for label, name in enumerate(("red", "green", "blue")):
            for i in range(12):
                pixels = random.integers(0, 60, (10, 10, 3))
                pixels[..., label] += 150
                path = tmp_path / part / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype("uint8")).save(path)
    (tmp_path / "noise").mkdir()
    for i in range(9):
        Image.fromarray(random.integers(0, 255, (10, 10, 3)).astype("uint8")).save(tmp_path / "noise" / f"{i}.png")
    (tmp_path / "models.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


MODEL = ["--model", "python:models.py:build"]
FIT = ["fit", *MODEL, "--data", "train", "-o", "guard.safetensors"]


def run(*arguments, fails=False):
    """Run a command in this process; it must succeed, or exit with 1."""
    if fails:
        with pytest.raises(SystemExit) as stop:
            main([str(a) for a in arguments])
        assert stop.value.code == 1
        return
    try:
        main([str(a) for a in arguments])
    except SystemExit as stop:
        assert stop.code in (0, None)


COLOURS = """
import torch
from torch import nn

class Colours(nn.Module):
    preprocessing = {"resize": 8, "crop": 8, "mean": [0.5] * 3, "std": [0.25] * 3}

    def __init__(self, order):
        super().__init__()
        self.head = nn.Linear(3, 3, bias=False)
        self.head.weight.data = 5 * torch.eye(3)[list(order)]

    def forward(self, images):
        return self.head(images.mean((2, 3)))

def sorted_names():
    return Colours((2, 1, 0))  # blue, green, red: the order of the folders

def other_order():
    return Colours((0, 2, 1))
"""


def test_fit_says_how_well_the_classifier_knows_its_training_data(place, capsys):
    (place / "colours.py").write_text(COLOURS)
    fit = ["fit", "--data", "train", "-o", "guard.safetensors", "-d", "knn,k=5"]
    run(*fit, "--model", "python:colours.py:sorted_names")
    out, err = capsys.readouterr()
    assert "fitted knn on 36 images in" in out
    assert out.splitlines()[0].endswith("s; the classifier gets 100.0 % of their labels right")
    assert "right" not in err
    run(*fit, "--model", "python:colours.py:other_order", "--json")
    out, err = capsys.readouterr()
    assert json.loads(out)["accuracy"] == 0
    assert "warning: the classifier gets 0 % of its 36 training labels right, no better than guessing" in err
    run(*fit[:-1], "energy", "--model", "python:colours.py:other_order", "--json")
    out, err = capsys.readouterr()
    assert json.loads(out)["accuracy"] is None, "energy needs no pass over the data"
    assert "guessing" not in err


def test_fit_score_evaluate(place, capsys):
    run(
        *FIT,
        "--detector",
        "line,p_a=.5,p_w=0.5,clip=1.0",
        "--detector",
        "all",
        "--detector",
        "knn,k=5",
        "--calibrate",
        "held_out",
    )
    out = capsys.readouterr().out
    assert "fitted line, knn, msp" in out
    assert "on 36 images" in out
    assert "threshold of line" in out

    for suffix in ("parquet", "csv"):
        run("score", "guard.safetensors", "held_out", *MODEL, "-o", f"scores.{suffix}")
    rows = parquet.read_table("scores.parquet").to_pylist()
    assert [r["name"] for r in rows][:2] == ["blue/0.png", "blue/1.png"]
    assert list(rows[0])[:8] == ["name", "index", "label", "class_name", "score", "p_value", "threshold", "is_ood"]
    assert "score_knn" in rows[0]
    assert (
        sum(r["is_ood"] for r in rows) == 0
    )  # of the held-out ones themselves, k with (k + 1) / 37 <= 5 % are flagged
    assert rows[0]["class_name"] in ("blue", "green", "red")
    with Path("scores.csv").open() as file:
        assert [float(r["score"]) for r in csv.DictReader(file)] == [r["score"] for r in rows]

    capsys.readouterr()
    again = ["--ood", "noise", "--ood", "again=noise"]
    run("evaluate", "guard.safetensors", *MODEL, "--id", "train", *again, "--json", "-o", "table.csv")
    table = json.loads(capsys.readouterr().out)["rows"]
    assert {(r["detector"], r["ood"]) for r in table} >= {("line", "noise"), ("mahalanobis", "again")}
    assert all(r["n_id"] == 36 and r["n_ood"] == 9 for r in table)
    assert all(r["auroc"] > 0.99 for r in table if r["detector"] == "mahalanobis")
    with Path("table.csv").open() as file:
        measured = {r["detector"] for r in csv.DictReader(file)}
    # Every class of this classifier is mistaken for another one, which leaves SHE without patterns; no words are given;
    # NLL reads tokens.
    assert sorted(measured) == sorted(set(CATALOG) - {"she", "neglabel", "nll"})


@pytest.mark.parametrize("copies", [1, 4])
def test_without_a_detector_four_are_fused_and_held_out_images_are_shared(place, capsys, copies):
    for image in list(Path("held_out").rglob("*.png")):
        for i in range(1, copies):
            Image.open(image).rotate(90 * i).save(image.with_name(f"{i}-{image.name}"))
    run(*FIT, "--calibrate", "held_out", "--json")
    summary = json.loads(capsys.readouterr().out)
    assert summary["detectors"] == ["fuse"]
    artifact = read_artifact("guard.safetensors")
    assert [name for name, _ in artifact.detectors["fuse"].members] == ["line", "fdbd", "vim", "nci"]
    # 36 images are too few to spare some of them
    spared = 0 if copies == 1 else int(belongs(torch.arange(36 * copies), 0.2).sum())
    assert len(artifact.calibrations["fuse"].scores) == 36 * copies - spared
    run("explain", "guard.safetensors", "noise", "--index", "3", *MODEL)
    out = capsys.readouterr().out
    assert out.startswith("image 3 of 9, 3.png:") and "has the smallest p-value" in out
    run(*FIT, "--calibrate", "held_out")
    told = f"after {36 * copies - spared} held-out ones" + f", and {spared} others are what it compares with" * bool(
        spared
    )
    assert told + ")" in capsys.readouterr().out


def test_json_of_fit_and_score_is_all_that_is_printed(place, capsys):
    run(*FIT, "--detector", "energy", "--json")
    assert json.loads(capsys.readouterr().out)["detectors"] == ["energy"]
    run("score", "guard.safetensors", "noise", *MODEL, "-o", "s.csv", "--json")
    assert json.loads(capsys.readouterr().out) == {
        "output": "s.csv", "images": 9, "detector": "energy", "flagged": None, "skipped": {},
    }  # fmt: skip


def test_a_rate_for_each_predicted_class(place, capsys):
    run(*FIT, "--detector", "energy", "--calibrate", "held_out", "--tpr", "0.9", "--by", "predicted")
    out = capsys.readouterr().out
    assert re.search(
        r"threshold of energy: one for each of \d predicted classes \(flags at most 10 % of ID images", out
    )
    assert re.search(r"\d of 3 classes have too few held-out images for a threshold of their own; they share one", out)
    run("score", "guard.safetensors", "held_out", *MODEL, "-o", "scores.parquet")
    rows = parquet.read_table("scores.parquet").to_pylist()
    assert len({r["threshold"] for r in rows}) == len({r["label"] for r in rows if r["label"] is not None})
    assert all(r["is_ood"] == (r["p_value"] <= 0.1) for r in rows)


@pytest.mark.filterwarnings("always::oodline.scoring.seen_data.SeenDataWarning")
def test_calibrating_on_the_training_images_is_warned_of(place, capsys):
    run(*FIT, "--detector", "line,p_a=.5,p_w=0.5,clip=1.0", "--calibrate", "train")
    assert "warning: the calibration data looks like the fitting data: of 36 samples" in capsys.readouterr().err
    run(*FIT, "--detector", "line,p_a=.5,p_w=0.5,clip=1.0", "--calibrate", "held_out")
    assert "looks like the fitting data" not in capsys.readouterr().err


def test_explain_prints_draws_and_writes_json(place, capsys):
    run(*FIT, "--detector", "line,p_a=.5,p_w=0.5,clip=1.0", "-d", "energy", "-d", "msp", "--neurons", "3",
        "--neuron-pictures", "99", "--calibrate", "held_out")  # fmt: skip
    capsys.readouterr()
    run("explain", "guard.safetensors", "noise/3.png", *MODEL, "--top", "4", "-o", "why.png", "--data", "train")
    out = capsys.readouterr().out
    assert "of what usually speaks for" in out and "expected and missing" in out and "wrote why.png" in out
    with Image.open("why.png") as picture:
        assert picture.size == (1560, 1320)
        assert len(picture.convert("RGB").getcolors(10**6)) > 100
    for detector in ("line", "energy"):
        run("explain", "guard.safetensors", "noise", "--index", "3", *MODEL, "--detector", detector, "--json")
        found = json.loads(capsys.readouterr().out)
        assert len(found["contributions"]["expected"]) == 16
        assert all(len(neuron["samples"]) == 3 for neuron in (*found["missing"], *found["unexpected"]))
        samples = [sample for neuron in found["missing"] for sample in neuron["samples"]]
        assert all(0 <= sample["index"] < 36 for sample in samples)
        assert all(sample["picture"].startswith("data:image/jpeg;base64,/9j/") for sample in samples)
    run("score", "guard.safetensors", "noise", *MODEL, "-o", "scores.jsonl")
    row = json.loads(Path("scores.jsonl").read_text().splitlines()[3])
    capsys.readouterr()
    run("explain", "guard.safetensors", "noise/3.png", *MODEL, "--json")
    found = json.loads(capsys.readouterr().out)
    assert (found["label"], found["is_ood"]) == (row["label"], row["is_ood"])
    assert found["score"] == pytest.approx(row["score"], rel=1e-4)


def test_what_explain_cannot_do_is_one_sentence(place, capsys):
    run(*FIT, "--detector", "energy", "--calibrate", "held_out")
    explain = ["explain", "guard.safetensors", "noise/3.png", *MODEL]
    for arguments, sentence in (
        ([], "'energy' cannot explain a verdict by neurons; these detectors can: line, band-energy, soft-line."),
        (["-o", "why.jpg"], "`--output` must end in .png, .svg, .pdf; got why.jpg."),
        (["--index", "1"], "`--index` must be between 0 and 0, since noise/3.png holds 1 images; got 1."),
        (["--data", "nowhere"], "there is no file or folder nowhere"),
        (["--detector", "line"], "unknown detector in guard.safetensors 'line'"),
    ):
        run(*explain, *arguments, fails=True)
        assert sentence in capsys.readouterr().err
    Path("noise/3.png").write_bytes(b"GIF89a")
    run(*explain, fails=True)
    assert "image 3.png cannot be read" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::oodline.errors.PreprocessingWarning")
def test_export_writes_what_score_says(place, capsys):
    run(*FIT, "--detector", "energy", "--detector", "odin", "--calibrate", "train")
    capsys.readouterr()
    run(
        "export",
        "guard.safetensors",
        *MODEL,
        "-o",
        "g.pt2",
        "--preprocess-inside",
        "float",
        "--data",
        "noise",
        "--json",
    )
    made = json.loads(capsys.readouterr().out)
    assert made["output"] == "g.pt2"
    assert made["inputs"] == {"inputs": "float32 (N, 3, 8, 8)"}
    assert made["differences"] == {"logits": 0, "label": 0, "score": 0, "p_value": 0, "is_ood": 0}
    run("export", "guard.safetensors", *MODEL, "-o", "g.xml", "--preprocess-inside", "uint8")
    out = capsys.readouterr().out
    assert "pixels uint8 (N, 3, 8, 8) -> logits, label, score, p_value, is_ood" in out
    assert "largest differences to the guard at batch sizes 1, 3, 8: logits" in out
    before = sorted(p.name for p in place.iterdir())
    for arguments, sentence in (
        (["-o", "g.txt"], "`--output` must end in .onnx, .pt2, .xml; got g.txt."),
        (["-o", "nowhere/g.onnx"], "there is no folder nowhere"),
        (["-o", "h.onnx", "-d", "odin"], "ODIN runs the classifier again"),
        (["-o", "h.onnx", "-d", "lime"], "unknown detector"),
        (["-o", "h.onnx", "--preprocessing", '{"std": [0.5, 0.5, 0.5]}'], "Pass --data with some images"),
        (["-o", ".", "--triton", "noise"], "there is a model of that name already"),
    ):
        run("export", "guard.safetensors", *MODEL, *arguments, fails=True)
        assert sentence in capsys.readouterr().err
    assert sorted(p.name for p in place.iterdir()) == before


def test_a_file_does_not_choose_code_to_run(place, capsys):
    run(*FIT, "--detector", "energy")
    run("score", "guard.safetensors", "noise", "-o", "s.csv", fails=True)
    assert "a file may not say which code to run" in capsys.readouterr().err
    assert not Path("s.csv").exists()


def test_a_file_names_a_library_model_and_its_weights(place, capsys):
    from torchvision.models import get_model

    torch.manual_seed(0)
    save_file(get_model("resnet18", num_classes=3).state_dict(), "weights.safetensors")
    model = ["--model", "torchvision:resnet18,num_classes=3", "--weights", "weights.safetensors"]
    run("fit", *model, "--data", "train", "--detector", "energy", "--calibrate", "held_out", "-o", "g.safetensors")
    run("score", "g.safetensors", "noise", "-o", "without.csv")
    run("score", "g.safetensors", "noise", *model, "-o", "with.csv")
    assert Path("without.csv").read_text() == Path("with.csv").read_text()
    torch.manual_seed(1)
    save_file(get_model("resnet18", num_classes=3).state_dict(), "weights.safetensors")
    run("score", "g.safetensors", "noise", "-o", "other.csv", fails=True)
    assert "same size but other weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model", "python:models.py:headless"], "has no nn.Linear to serve as head"),
        (["--model", "python:models.py:broken"], "NaN or infinite activations in 36 of 36 rows"),
        (["--model", "python:models.py:built"], "Did you mean 'build'"),
        (["--model", "resnet50"], "does not say where the model comes from"),
        (
            [*MODEL, "--device", "meta"],
            "the device 'meta' cannot be used: it holds no numbers. Choose another",
        ),
        ([*MODEL, "--device", "gpu7"], "the device 'gpu7' cannot be used: "),
        ([*MODEL, "-o", f"{'x' * 300}.safetensors"], "x.safetensors: File name too long. Name another file."),
        (["--model", "python:models.py:build,classes=2"], "labels are outside [0, 1]"),
        (["--model", "python:models.py:build,classes=4", "--detector", "line"], "1 of 4 classes have no sample"),
        ([*MODEL, "--label-offset", "1"], "labels are outside [0, 2]"),
        ([*MODEL, "--detector", "lime"], "Did you mean 'line'"),
        ([*MODEL, "--detector", "line,p_q=0.5"], "'line' has no setting 'p_q'"),
        ([*MODEL, "--detector", "line,p_a=1.5"], "`p_a` must be a number from 0 to below 1; got 1.5"),
        ([*MODEL, "--weights", "nowhere.safetensors"], "no weight file nowhere.safetensors"),
        ([*MODEL, "--head", "9"], "no module named '9'"),
        ([*MODEL, "--preprocessing", '{"resize": 8, "zoom": 2}'], "zoom"),
        ([*MODEL, "--data", "nowhere"], "no file or folder nowhere"),
        ([*MODEL, "--data", "noise"], "yields no labels"),
        ([*MODEL, "-o", "nowhere/guard.safetensors"], "could not write nowhere/guard.safetensors"),
        ([*MODEL, "--calibrate", "noise"], "9 held-out samples are too few for a false-alarm rate of 0.05"),
        ([*MODEL, "--false-alarm", "0.05", "--tpr", "0.95"], "say the same thing twice"),
        ([*MODEL, "--false-alarm", "5"], "`--false-alarm` must be between 0 and 1, both excluded; got 5."),
    ],
)
@pytest.mark.filterwarnings("always:the data has 3 classes")
def test_bad_input_is_one_sentence_and_nothing_is_written(place, capsys, arguments, sentence):
    given = {"--data": "train", "-o": "guard.safetensors"}
    for key in [a for a in arguments if a in given]:
        del given[key]
    before = sorted(p.name for p in place.iterdir())
    run("fit", *arguments, *(part for item in given.items() for part in item), fails=True)
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1].startswith("error: ") or "error: " in captured.err
    assert sentence in captured.err
    assert "Traceback" not in captured.err
    assert sorted(p.name for p in place.iterdir() if p.name != "__pycache__") == before


def test_a_truncated_image_is_named_or_skipped_and_counted(place, capsys):
    victim = place / "train" / "green" / "3.png"
    victim.write_bytes(victim.read_bytes()[:60])
    run(*FIT, "--detector", "line", fails=True)
    assert "image green/3.png (number 17) cannot be read" in capsys.readouterr().err
    run(*FIT, "--detector", "line", "--on-error", "skip", "--json")
    captured = capsys.readouterr()
    summary = json.loads(captured.out)
    assert summary["samples"] == 35
    assert summary["skipped"] == {"data": 1}
    assert "1 unreadable images of data were skipped: green/3.png" in captured.err


@pytest.mark.filterwarnings("always::oodline.errors.FewSamplesWarning")
def test_detectors_that_cannot_be_fitted_are_left_out_with_their_reason(place, capsys):
    for path in (place / "train").rglob("*.png"):
        if path.name != "0.png":
            path.unlink()
    run(*FIT, "--detector", "all")
    captured = capsys.readouterr()
    assert "left out mahalanobis: the covariance within classes is zero" in captured.out
    assert "warning: 3 of 3 classes have fewer than 10 samples" in captured.err
    assert "fitted line, msp" in captured.out


@pytest.mark.filterwarnings("ignore::oodline.errors.FewSamplesWarning")
def test_detectors_that_the_classifier_cannot_serve_are_left_out_with_their_reason(place, capsys):
    pixels = ["--preprocessing", '{"std": [0.5, 0.5, 0.5]}']
    flat = ["fit", "--model", "python:models.py:flat", *pixels, "--data", "train", "-o", "g.safetensors"]
    run(*flat, "-d", "nap", fails=True)
    assert "error: no feature map" in capsys.readouterr().err
    run(*flat, "-d", "all")
    out = capsys.readouterr().out
    assert "left out nap: no feature map (N, K, H, W) was found in Sequential" in out
    assert "fitted line, msp" in out


def test_ctrl_c_leaves_nothing_behind(place):
    command = [sys.executable, "-m", "oodline", "fit", "--model", "python:models.py:slow", "--data", "train"]
    command += ["--batch-size", "1", "-o", "guard.safetensors"]
    before = sorted(p.name for p in place.iterdir())
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    )
    for _ in range(3000):  # until it is in the middle of its pass, which takes seven seconds
        if Path("begun").exists():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; nothing was written" in error
    assert "Traceback" not in error
    assert sorted(p.name for p in place.iterdir()) == sorted([*before, "begun"])


def test_help_needs_no_torch():
    script = (
        "import sys\nfrom oodline.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "slow = {'torch', 'numpy', 'pyarrow', 'pydantic', 'rich.markdown'}\n"
        "assert not slow & set(sys.modules), sorted(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "evaluate" in done.stdout


def test_help_of_a_command_is_its_whole_docstring(capsys):
    for command in COMMANDS:
        with pytest.raises(SystemExit) as stopped:
            main([command, "--help"])
        assert stopped.value.code == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "The columns are name and index of the input" in shown  # of `oodline score`, below the first line
    assert "0.5*head + 0.5*head_dist" in shown


def test_names_of_data_sets():
    assert named(["a/svhn.parquet", "far=b/", "torchvision:SVHN,root=d"]) == {
        "svhn": "a/svhn.parquet", "far": "b/", "torchvision:SVHN": "torchvision:SVHN,root=d",
    }  # fmt: skip
    with pytest.raises(SettingError, match="two data sets are called 'a-x'"):
        named(["a/x.parquet", "a/x"])
    assert list(named(["a/x.parquet", "b/x", "cifar100/test.parquet", "test"])) == [
        "a-x",
        "b-x",
        "cifar100-test",
        "test",
    ]


def test_demo_flags_what_it_was_never_taught(tmp_path, capsys):
    run("demo", "-o", tmp_path / "demo", "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["accuracy"] > 0.97
    assert found["flagged"]["test"] < 0.12
    assert min(found["flagged"][name] for name in ("digits 8, 9", "photographs", "noise")) > 0.7
    default = [r["auroc"] for r in found["rows"] if r["detector"] == "fuse"]
    assert len(default) == 3
    assert min(default) > 0.93
    with Image.open(tmp_path / "demo" / "scores.png") as picture:
        assert picture.size[0] > 600
