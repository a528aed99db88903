"""Python and the command line put guards together in one way, down to the last digit."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, TensorDataset

import oodline as ol
from oodline.cli import main
from oodline.errors import MismatchError
from oodline.guard.artifact import read_artifact
from oodline.guard.calibrate_detectors import calibrate_detectors
from oodline.scoring.split import split
from oodline.testing import toy_loader, toy_problem

FACTORY = """
from oodline.testing import toy_problem

def build():
    model = toy_problem()[0].model
    model.preprocessing = {"resize": 8, "crop": 8}
    return model

def other():
    model = build()
    model[0].bias.data += 1
    return model
"""


def held_out(parts=5):
    """Batches as the command line reads them: in others, sums are rounded in another way."""
    whole = [toy_loader(seed=seed)[0] for seed in range(1, parts + 1)]
    inputs, labels = (torch.cat(each).split(64) for each in zip(*whole, strict=True))
    return list(zip(inputs, labels, strict=True))


def scores_of(detector, classifier):
    return detector(classifier(toy_loader(seed=9)[0][0]))


def run(*arguments, fails=False):
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    assert (stopped.value.code not in (0, None)) == fails


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.py").write_text(FACTORY)
    inputs, labels = toy_problem()[1][0]
    save_file({"inputs": inputs, "labels": labels}, "train.safetensors")
    save_file({"inputs": torch.cat([x for x, _ in held_out()])}, "held_out.safetensors")
    return ["--model", "python:toy.py:build", "--data", "train.safetensors", "--calibrate", "held_out.safetensors"]


@pytest.mark.parametrize("by", ["all", "predicted"])
def test_python_and_the_command_line_write_equal_tensors(files, by):
    run("fit", *files, "-o", "command.safetensors", "--by", by, "--false-alarm", "0.1")
    classifier, loader = toy_problem()
    detector = ol.default(classifier).fit(classifier, loader)
    ol.Guard(classifier, detector).calibrate(held_out(), 0.1, by=by).save("python.safetensors")
    fitted = ol.fit_guards(None, classifier, loader, held_out(), false_alarm=0.1, by=by)
    fitted.save("both.safetensors")
    command = load_file("command.safetensors")
    assert len(command["calibration/fuse"]) == 300 - sum(len(batch.index) for batch in split(held_out())[0])
    for name in ("python.safetensors", "both.safetensors"):
        found = load_file(name)
        assert found.keys() == command.keys()
        for key, value in command.items():
            assert torch.equal(found[key], value), key
    with safe_open("command.safetensors", "pt") as one, safe_open("python.safetensors", "pt") as other:
        manifests = [json.loads(file.metadata()["oodline"]) for file in (one, other)]
    for key in ("detectors", "calibrations", "head", "weights"):
        assert manifests[0][key] == manifests[1][key]
    new = toy_loader(seed=9)[0][0]
    assert torch.equal(fitted.guard()(new).p_value, ol.Guard.load("command.safetensors", classifier)(new).p_value)


@pytest.mark.filterwarnings("always::oodline.OtherWeightsWarning")
def test_a_network_that_is_another_one_is_refused_by_a_command_unless_a_reason_is_given(files, capsys):
    run("fit", *files, "-o", "guard.safetensors")
    score = ["score", "guard.safetensors", "held_out.safetensors", "-o", "scores.csv", "--model", "python:toy.py:other"]
    run(*score, fails=True)
    assert "1 of 4 tensors differ: '0.bias'" in capsys.readouterr().err
    run(*score, "--allow-other-weights", "it was fine-tuned")
    assert "no false-alarm rate is promised: it was fine-tuned" in capsys.readouterr().err


def test_the_file_of_a_command_keeps_inputs_only_where_it_is_told_to(files):
    run("fit", *files, "-o", "guard.safetensors")
    assert read_artifact("guard.safetensors").probe.kept == {}
    run("fit", *files, "-o", "guard.safetensors", "--keep-inputs", "2")
    assert torch.equal(read_artifact("guard.safetensors").probe.inputs, held_out()[0][0][:2])


@pytest.mark.filterwarnings("always::oodline.MemberLeftOutWarning")
def test_a_command_says_which_members_a_detector_does_without(files, capsys):
    inputs, labels = toy_problem()[1][0]
    save_file({"inputs": inputs[labels < 2], "labels": labels[labels < 2]}, "train.safetensors")
    detector = ("--detector", "fuse,detectors=line+gen+fdbd")
    run("fit", *files, *detector, "-o", "guard.safetensors", "--json")
    found = capsys.readouterr()
    assert "warning: Fuse does without 'line'" in found.err
    left_out = json.loads(found.out)["left_out"]["fuse"]
    assert list(left_out) == ["line"]
    assert "1 of 3 classes" in left_out["line"]
    assert read_artifact("guard.safetensors").detectors["fuse"].members_left_out == left_out
    run("fit", *files, *detector, "-o", "guard.safetensors")
    assert "fuse does without line" in capsys.readouterr().out


WRAPPERS = {
    "fuse": lambda inner: inner,
    "prior-normalised": lambda inner: ol.PriorNormalised(scorer=inner),
    "rectifier": lambda inner: ol.ReAct(clip="90%", scorer=inner),
    "fuse in fuse": lambda inner: ol.Fuse([inner, "msp"]),
    "twice": lambda inner: ol.PriorNormalised(scorer=ol.Fuse([ol.PriorNormalised(scorer=inner), "msp"])),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_the_reference_is_set_through_wrappers(wrapper):
    classifier, loader = toy_problem()
    inner = ol.Fuse([ol.Energy(), ol.KNN(k=1)])
    detector = WRAPPERS[wrapper](inner).fit(classifier, loader)
    before = inner.scale.clone()
    ol.Guard(classifier, detector).calibrate(held_out())
    alone = ol.Fuse([ol.Energy(), ol.KNN(k=1)]).fit(classifier, loader).set_reference(classifier, split(held_out())[0])
    assert not torch.equal(inner.scale, before)
    assert torch.equal(inner.scale, alone.scale)


def test_calibrating_again_on_the_same_data_gives_the_same_guard():
    classifier, loader = toy_problem()
    guard = ol.Guard(classifier, ol.default(classifier).fit(classifier, loader)).calibrate(held_out())
    first = guard.calibration.scores
    assert torch.equal(guard.calibrate(held_out()).calibration.scores, first)


def test_few_held_out_samples_are_all_for_the_threshold():
    classifier, loader = toy_problem()
    fuse = ol.default(classifier).fit(classifier, loader)
    before = fuse.scale.clone()
    assert len(ol.Guard(classifier, fuse).calibrate(held_out(1)).calibration.scores) == 60
    assert torch.equal(fuse.scale, before)


@pytest.mark.parametrize("kind", [DataLoader, iter], ids=["loader", "iterator"])
def test_any_loader_will_do(kind):
    classifier, loader = toy_problem()
    whole = torch.cat([x for x, _ in held_out()])
    batches = DataLoader(TensorDataset(whole), batch_size=32) if kind is DataLoader else iter(whole.split(32))
    guard = ol.Guard(classifier, ol.default(classifier).fit(classifier, loader)).calibrate(batches)
    listed = ol.Guard(classifier, ol.default(classifier).fit(classifier, loader)).calibrate([whole])
    if kind is DataLoader:
        torch.testing.assert_close(guard.calibration.scores, listed.calibration.scores, rtol=1e-5, atol=1e-5)
    else:  # it can be read once, so that there is no reference of its own
        assert len(guard.calibration.scores) == 300


def test_a_guard_notices_that_its_reference_was_replaced():
    classifier, loader = toy_problem()
    fuse = ol.default(classifier).fit(classifier, loader)
    guard = ol.Guard(classifier, fuse).calibrate(held_out())
    fuse.set_reference(classifier, toy_loader(seed=8))
    with pytest.raises(MismatchError, match="the detector changed"):
        guard(torch.ones(2, 4))


def test_several_detectors_share_one_calibration_set():
    classifier, loader = toy_problem()
    detectors = {"fuse": ol.default(classifier), "energy": ol.Energy()}
    ol.fit(list(detectors.values()), classifier, loader)
    found = calibrate_detectors(detectors, classifier, held_out(), 0.05)
    assert len(found.calibrations["fuse"].scores) == len(found.calibrations["energy"].scores) < 300
    assert set(found.probe.scores) == {"fuse", "energy"}


class Unsteady(torch.nn.Module):
    """A classifier whose logits for one input are random, or depend on the batch."""

    def __init__(self, change):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.head, self.change = torch.nn.Linear(4, 8), torch.nn.Linear(8, 3), change

    def forward(self, x):
        return self.head(self.change(self.layer(x)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: torch.nn.functional.dropout(f, 0.5, training=True), "Run twice: the same inputs give logits"),
        (lambda f: f - f.mean(0), "Run alone: an input has logits that differ by up to"),
        (torch.nn.BatchNorm1d(8, track_running_stats=False), "Run alone: "),
    ],
)
def test_a_classifier_without_one_answer_per_input_is_noticed(change, words):
    guard = ol.Guard(ol.Classifier(Unsteady(change), "head"), ol.Energy())
    with pytest.warns(ol.UnsteadyClassifierWarning, match=words):
        guard.calibrate([torch.randn(60, 4)], 0.1)


def test_a_classifier_with_one_answer_per_input_is_not_complained_of():
    ol.Guard(ol.Classifier(Unsteady(torch.relu), "head"), ol.Energy()).calibrate([torch.randn(60, 4)], 0.1)
