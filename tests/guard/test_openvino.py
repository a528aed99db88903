"""A guard as an OpenVINO model: the same answers from OpenVINO's own runtime, or a sentence and no file."""

from __future__ import annotations

import sys

import numpy as np
import openvino
import pytest
import torch
from torch import nn

import oodline as ol
from oodline.errors import DataError, ExportError, MissingExtraError, SettingError
from oodline.guard.graph import OUTPUTS
from oodline.testing import toy_loader, toy_problem


def run(path, inputs):
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled({name: value.numpy() for name, value in inputs.items()})
    return {name: found[name] for name in OUTPUTS}


def same_verdict(found, verdict):
    assert found["label"].tolist() == verdict.label.tolist()
    assert found["is_ood"].tolist() == verdict.is_ood.tolist()
    np.testing.assert_allclose(found["score"], verdict.score.numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found["p_value"], verdict.p_value.numpy(), rtol=0, atol=1e-6)


def test_openvino_judges_as_the_guard_does_and_flags_what_the_guard_refuses(tmp_path):
    classifier, loader = toy_problem()
    held_out = [batch for seed in (1, 2, 3) for batch in toy_loader(seed)]
    detector = ol.create_detector("fuse,detectors=energy+knn:k=3").fit(classifier, loader)
    guard = ol.Guard(classifier, detector).calibrate(held_out, by="predicted")
    made = guard.export_openvino(tmp_path / "guard.xml", loader[0][0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["guard.bin", "guard.xml"]
    assert made.size == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert made.inputs == {"inputs": "float32 (N, 4)"}
    assert made.differences["label"] == made.differences["is_ood"] == 0
    good = toy_loader(seed=9)[0][0]
    strange = torch.stack([torch.full((4,), value) for value in (torch.nan, torch.inf, -torch.inf, 3e38)])
    found = run(made.path, {"inputs": torch.cat([good, strange])})
    same_verdict({key: values[:60] for key, values in found.items()}, guard(good))
    assert found["is_ood"][60:].all()
    same_verdict(run(made.path, {"inputs": good[:1]}), guard(good[:1]))


def test_not_a_number_is_flagged_where_the_relu_of_the_runtime_makes_0_of_it(tmp_path):
    classifier = ol.Classifier(nn.Sequential(nn.Linear(4, 16, bias=False), nn.ReLU(), nn.Linear(16, 3)))
    inputs = 0.3 * torch.randn(60, 4)
    guard = ol.Guard(classifier, ol.MSP()).calibrate([inputs])
    assert not guard(torch.zeros(1, 4)).is_ood
    made = guard.export_openvino(tmp_path / "guard.xml", inputs)
    assert run(made.path, {"inputs": torch.tensor([[torch.nan] * 4, [0.0] * 4])})["is_ood"].tolist() == [True, False]


def test_what_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    classifier, loader = toy_problem()
    guard = ol.Guard(classifier, ol.Energy()).calibrate(loader)
    example = loader[0][0]
    with pytest.raises(SettingError, match=r"`path` must end in .xml; got '.*guard.onnx'"):
        guard.export_openvino(tmp_path / "guard.onnx", example)
    with pytest.raises(DataError, match="there is no folder"):
        guard.export_openvino(tmp_path / "none" / "guard.xml", example)
    with monkeypatch.context() as patch:  # a graph that onnxruntime takes and OpenVINO does not
        patch.setattr("oodline.guard.openvino.verified_onnx", lambda *_: (b"another kind of graph", None))
        with pytest.raises(ExportError, match="OpenVINO cannot run this graph"):
            guard.export_openvino(tmp_path / "guard.xml", example)
    (tmp_path / "w.bin").write_text("weights of another")
    with pytest.raises(DataError, match=r"it is there without its w.xml, so it may be another model's"):
        guard.export_openvino(tmp_path / "w.xml", example)
    (tmp_path / "w.bin").unlink()
    (tmp_path / "guard.bin").mkdir()
    with pytest.raises(DataError, match="it is a folder"):
        guard.export_openvino(tmp_path / "guard.xml", example)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"oodline\[openvino\]"):
        guard.export_openvino(tmp_path / "other.xml", example)
    assert [path.name for path in tmp_path.iterdir()] == ["guard.bin"]
