"""`--quiet`, `--device` and `--dtype`: the same words in every command that runs a network, and what they change."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch

import oodline as ol
from oodline.cli import app, main
from oodline.errors import SettingError
from oodline.testing import toy_images, toy_loader, toy_problem

COMMANDS = {
    "fit": ["--model", "m", "--data", "d", "-o", "o"],
    "score": ["g", "d", "-o", "o"],
    "evaluate": ["g", "--id", "d"],
    "tune": ["--model", "m", "--data", "d", "--held-out", "d"],
    "finetune": ["--model", "m", "--data", "d", "--recipe", "r", "--epochs", "1", "-o", "o"],
    "explain": ["g", "i"],
    "export": ["g", "-o", "o"],
    "serve": ["g"],
    "bench": ["p.toml"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_that_run_a_network_share_the_options(command):
    words = [command, *COMMANDS[command], "--device", "cpu", "--dtype", "bfloat16", "--quiet", "--compile"]
    _, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    running = bound.arguments["running"]
    assert (running.device, running.dtype, running.quiet, running.progress) == ("cpu", "bfloat16", True, False)
    assert running.compile


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_changes_the_pass_and_not_the_weights(dtype):
    classifier, loader = toy_problem()
    before = copy.deepcopy(classifier.model.state_dict())
    half = ol.Classifier(classifier.model, dtype=dtype)
    images = loader[0][0]
    found, exact = half(images), classifier(images)
    assert found.features.dtype == found.logits.dtype == torch.float32
    rounding = torch.finfo(getattr(torch, dtype)).eps
    assert not torch.equal(found.features, exact.features)
    torch.testing.assert_close(found.features, exact.features, rtol=0, atol=8 * rounding * float(exact.features.max()))
    torch.testing.assert_close(classifier.model.state_dict(), before, rtol=0, atol=0)
    change = ol.precision_change(half, images, {"energy": ol.Energy()})
    assert change.logits.largest == float((found.logits - exact.logits).abs().max())
    assert change.scores["energy"].largest == float((found.logits.logsumexp(1) - exact.logits.logsumexp(1)).abs().max())
    assert change.classes == int((found.logits.argmax(1) != exact.logits.argmax(1)).sum())


def test_a_guard_knows_its_classifier_in_half_precision(tmp_path):
    classifier, loader = toy_problem()
    guard = ol.Guard(classifier, ol.LINe().fit(classifier, loader)).calibrate(toy_loader(seed=1))
    guard.save(tmp_path / "guard.safetensors")
    half = ol.Classifier(classifier.model, dtype="bfloat16")
    with pytest.warns(UserWarning, match=r"in float32, and the classifier computes in bfloat16: .*--dtype float32"):
        verdict = ol.Guard.load(tmp_path / "guard.safetensors", half)(loader[0][0])
    assert (verdict.is_ood == guard(loader[0][0]).is_ood).float().mean() > 0.9


def test_an_unknown_dtype_is_refused():
    with pytest.raises(SettingError, match="`dtype` must be 'float32', 'bfloat16' or 'float16'; got 'float8'"):
        ol.Classifier(toy_problem()[0].model, dtype="float8")


NETWORK = """
from oodline.testing import toy_network

def build():
    model = toy_network()
    model.preprocessing = {"resize": 8, "crop": 8}
    return model
"""
FIT = ["fit", "--model", "python:net.py:build", "--data", "images", "-d", "knn,k=1", "-o", "g.safetensors"]
SCORE = ["score", "g.safetensors", "images", "--model", "python:net.py:build", "-o", "s.csv"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    toy_images(tmp_path)
    toy_images(tmp_path / "held_out", seed=1)
    (tmp_path / "net.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)


def run(*arguments, code=0):
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert (stop.value.code or 0) == code


@pytest.mark.filterwarnings("always:this file was fitted with the network in float32")
def test_quiet_says_nothing_and_half_precision_says_what_changes(place, capsys):
    run(*FIT, "--calibrate", "held_out/images", "--false-alarm", "0.2", "--quiet")
    assert capsys.readouterr() == ("", "")
    run(*SCORE, "--quiet", "--json")
    out, err = capsys.readouterr()
    assert json.loads(out)["images"] == 12 and err == ""
    run(*SCORE, "--dtype", "bfloat16")
    out, err = capsys.readouterr()
    assert "warning: this file was fitted with the network in float32, and the classifier computes in bfloat16" in err
    assert out.startswith("scored 12 images by knn") and "note: in bfloat16: on 12 samples logits differ" in err
    assert "scores of knn by up to" in err
    run(*SCORE[:1], "none", *SCORE[2:], "--quiet", code=1)
    assert "error: there is no file none" in capsys.readouterr().err


def test_what_cannot_run_in_half_precision_says_so(place, capsys):
    Path("g.safetensors").write_bytes(b"junk")
    run("export", "g.safetensors", "-o", "g.onnx", "--dtype", "float16", code=1)
    assert "`--dtype` must be float32 for a graph" in capsys.readouterr().err
    run("export", "g.safetensors", "-o", "g.onnx", "--compile", code=1)
    assert "`--compile` is not for a graph" in capsys.readouterr().err
