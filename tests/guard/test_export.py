"""A guard as ONNX, as a torch.export program and as a Triton model: the same answers, or a sentence and no file."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor, nn

import oodline as ol
from oodline.data import image_loader, open_images
from oodline.errors import DataError, ExportError, InputError, MissingExtraError, NotFittedError, SettingError
from oodline.guard.export import export_onnx, export_program, export_triton
from oodline.guard.graph import OUTPUTS, GuardGraph, place, trace
from oodline.guard.graph_check import verify
from oodline.model.zoo import load_model
from oodline.preprocessing.preprocessing import Preprocessing
from oodline.statistics import ClassMoments
from oodline.testing import toy_problem

PREPROCESSING = Preprocessing(crop=6, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))


def image_guard() -> ol.Guard:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    classifier = ol.Classifier(nn.Sequential(*body, nn.Linear(16, 4)))
    loader = [(PREPROCESSING.normalise(torch.rand(80, 3, 6, 6)), torch.arange(80) % 4)]
    detector = ol.LINe(p_a=0.3, p_w=0.3, clip=1.0).fit(classifier, loader)
    held_out = [PREPROCESSING.normalise(torch.rand(50, 3, 6, 6))]
    return ol.Guard(classifier, detector, class_names=tuple("abcd")).calibrate(held_out)


def toy_guard(detector: ol.Detector | None = None) -> ol.Guard:
    classifier, loader = toy_problem()
    held_out = [loader[0][0] + 0.3 * torch.randn(60, 4)]
    detector = detector or ol.LINe(p_a=0.5, p_w=0.5, clip=5.0)
    return ol.Guard(classifier, detector.fit(classifier, loader)).calibrate(held_out)


def run_onnx(path: Path, inputs: dict[str, Tensor]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(path)
    found = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    return dict(zip([out.name for out in session.get_outputs()], found, strict=True))


def same_verdict(found: dict[str, np.ndarray], verdict: ol.Verdict) -> None:
    assert list(found) == list(OUTPUTS)
    assert found["label"].tolist() == verdict.label.tolist()
    assert found["is_ood"].tolist() == verdict.is_ood.tolist()
    np.testing.assert_allclose(found["score"], verdict.score.numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found["p_value"], verdict.p_value.numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "by"),
    [("energy", "predicted"), ("line,p_a=0.5,p_w=0.5,clip=5.0", "all"), ("fuse,detectors=energy+knn:k=3", "all")],
)
def test_a_graph_flags_what_the_guard_refuses(tmp_path, name, by):
    classifier, loader = toy_problem()
    held_out = [loader[0][0] + 0.3 * torch.randn(60, 4) for _ in range(3)]
    guard = ol.Guard(classifier, ol.create_detector(name).fit(classifier, loader)).calibrate(held_out, by=by)
    good = loader[0][0][:2]
    strange = torch.stack([torch.full((4,), value) for value in (torch.nan, torch.inf, -torch.inf, 3e38)])
    for bad in strange:
        with pytest.raises(InputError, match="NaN or infinite"):
            guard(bad.unsqueeze(0))
    guard.export_onnx(tmp_path / "guard.onnx", good)
    found = run_onnx(tmp_path / "guard.onnx", {"inputs": torch.cat([good, strange])})
    same_verdict({name: values[:2] for name, values in found.items()}, guard(good))
    assert found["is_ood"][2:].all()
    assert (found["p_value"] <= 1).all()
    assert (found["p_value"][2:] <= 1 / 11).all()


def test_a_model_of_triton_has_a_plain_name_and_a_batch(tmp_path):
    for name, size, sentence in (
        ('a"b', 4, "must be letters, digits"),
        ("../a", 4, "must be letters, digits"),
        ("a", 0, "at least 1"),
    ):
        with pytest.raises(SettingError, match=sentence):
            export_triton(toy_guard(), tmp_path, name, torch.zeros(1, 4), max_batch_size=size)
    with pytest.raises(InputError, match="`inputs` must hold at least one example"):
        export_onnx(toy_guard(), tmp_path / "guard.onnx", torch.zeros(0, 4))
    assert list(tmp_path.iterdir()) == []


def test_onnx_judges_pixels_as_the_guard_does(tmp_path):
    guard = image_guard()
    pixels = torch.randint(0, 256, (70, 3, 6, 6), dtype=torch.uint8)
    made = guard.export_onnx(tmp_path / "guard.onnx", pixels[:5], preprocessing=PREPROCESSING)
    assert made.path.stat().st_size == made.size
    assert made.inputs == {"pixels": "uint8 (N, 3, 6, 6)"}
    assert made.differences["is_ood"] == made.differences["label"] == 0
    for size in (1, 2, 70):
        found = run_onnx(made.path, {"pixels": pixels[:size]})
        same_verdict(found, guard(PREPROCESSING.normalise(pixels[:size])))
    about = json.loads(onnxruntime.InferenceSession(made.path).get_modelmeta().custom_metadata_map["oodline"])
    assert about["detector"] == "line"
    assert about["class_names"] == list("abcd")
    assert about["threshold"] == [guard.calibration.threshold] * 4


def test_a_threshold_for_each_predicted_class(tmp_path):
    classifier, loader = toy_problem()
    inputs = torch.cat([loader[0][0] + 0.3 * torch.randn(60, 4) for _ in range(4)])
    guard = ol.Guard(classifier, ol.Energy()).calibrate([inputs[:200]], by="predicted")
    assert len({*guard.calibration.threshold_of(torch.arange(3)).tolist()}) == 3
    made = guard.export_onnx(tmp_path / "guard.onnx", inputs[:2])
    for size in (1, 3, 40):  # none that were held out: rounding would put them beside themselves
        same_verdict(run_onnx(made.path, {"inputs": inputs[-size:]}), guard(inputs[-size:]))


class Words(nn.Module):
    """A classifier of tokens, called by keywords, that returns a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        mask = attention_mask.unsqueeze(2).float()
        return {"logits": self.head((self.words(input_ids) * mask).sum(1) / mask.sum(1))}


def test_onnx_judges_tokens_as_the_guard_does(tmp_path):
    mask = torch.ones(60, 7, dtype=torch.int64)
    mask[::2, 4:] = 0
    tokens = {"input_ids": torch.randint(0, 50, (60, 7)), "attention_mask": mask}
    held_out = tokens | {"input_ids": torch.randint(0, 50, (60, 7))}
    classifier = ol.Classifier(Words())
    guard = ol.Guard(classifier, ol.KNN(k=2).fit(classifier, [tokens])).calibrate([held_out])
    made = guard.export_onnx(tmp_path / "guard.onnx", tokens)
    assert made.inputs == {"input_ids": "int64 (N, 7)", "attention_mask": "int64 (N, 7)"}
    other = {"input_ids": torch.randint(0, 50, (9, 7)), "attention_mask": mask[:9]}
    same_verdict(run_onnx(made.path, other), guard(other))


def test_a_program_judges_as_the_guard_does(tmp_path):
    guard = image_guard()
    made = export_program(guard, tmp_path / "guard.pt2", torch.rand(2, 3, 6, 6), preprocessing=PREPROCESSING)
    program = torch.export.load(made.path).module()
    for size in (1, 3, 40):
        pixels = torch.rand(size, 3, 6, 6)
        found = {name: v.detach().numpy() for name, v in zip(OUTPUTS, program(pixels), strict=True)}
        same_verdict(found, guard(PREPROCESSING.normalise(pixels)))


def test_a_triton_model_is_a_graph_with_its_description(tmp_path):
    guard = toy_guard(ol.Energy())
    made = export_triton(guard, tmp_path, "toy", torch.zeros(2, 4), max_batch_size=16)
    assert made.path == tmp_path / "toy"
    inputs = torch.randn(5, 4)
    same_verdict(run_onnx(tmp_path / "toy" / "1" / "model.onnx", {"inputs": inputs}), guard(inputs))
    one = "dims: [ 1 ] reshape { shape: [ ] }"
    assert (tmp_path / "toy" / "config.pbtxt").read_text().splitlines() == [
        'name: "toy"',
        'platform: "onnxruntime_onnx"',
        "max_batch_size: 16",
        'input [ { name: "inputs" data_type: TYPE_FP32 dims: [ 4 ] } ]',
        'output [ { name: "logits" data_type: TYPE_FP32 dims: [ 3 ] } ]',
        f'output [ {{ name: "label" data_type: TYPE_INT64 {one} }} ]',
        f'output [ {{ name: "score" data_type: TYPE_FP32 {one} }} ]',
        f'output [ {{ name: "p_value" data_type: TYPE_FP64 {one} }} ]',
        f'output [ {{ name: "is_ood" data_type: TYPE_BOOL {one} }} ]',
        "dynamic_batching { }",
    ]
    with pytest.raises(DataError, match="there is a model of that name already"):
        export_triton(guard, tmp_path, "toy", torch.zeros(2, 4))
    with pytest.raises(DataError, match="there is no folder"):
        export_triton(guard, tmp_path / "nowhere", "toy", torch.zeros(2, 4))
    assert [p.name for p in tmp_path.iterdir()] == ["toy"]


def test_the_classifier_is_left_as_it_was(tmp_path):
    guard = image_guard()
    model = guard.classifier.model
    model.train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    export_program(guard, tmp_path / "guard.pt2", torch.rand(2, 3, 6, 6))
    assert [m.training for m in model.modules()].count(False) == 1
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=40), st.booleans())
def test_bisection_finds_the_place_of_searchsorted(ends, right):
    ends = torch.tensor(sorted(ends), dtype=torch.float64)
    values = torch.arange(-6, 6).double().reshape(3, 4)
    assert torch.equal(place(ends, values, right), torch.searchsorted(ends, values, right=right))


# What cannot be exported, and what must never be written.


def refused(tmp_path: Path, guard: ol.Guard, error: type[Exception], sentence: str, example: object = None) -> None:
    example = torch.zeros(2, 4) if example is None else example
    for write, name in ((export_onnx, "guard.onnx"), (export_program, "guard.pt2")):
        with pytest.raises(error, match=sentence):
            write(guard, tmp_path / name, example)
    assert list(tmp_path.iterdir()) == []


def test_a_guard_without_a_threshold(tmp_path):
    guard = toy_guard()
    guard.calibration = None
    refused(tmp_path, guard, NotFittedError, "has no threshold yet, .* Call guard.calibrate")


def test_a_detector_that_runs_the_classifier_again(tmp_path):
    detector = ol.ReAct(scorer=ol.ODIN())
    refused(tmp_path, toy_guard(detector), ExportError, "'react' cannot be exported: ODIN runs the classifier again")


class ByValue(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(-x if x.sum() > 0 else x)


class BatchOfEight(ByValue):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.reshape(8, 4))


@pytest.mark.parametrize("model", [ByValue, BatchOfEight])
def test_a_classifier_that_no_graph_can_follow(tmp_path, model):
    classifier = ol.Classifier(model())
    guard = ol.Guard(classifier, ol.Energy()).calibrate([torch.randn(8, 4) for _ in range(3)])
    refused(tmp_path, guard, ExportError, "torch.export cannot follow this classifier: .*", torch.randn(8, 4))


def test_an_operator_that_onnx_lacks(tmp_path):
    class Root(ByValue):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.linalg.eigvalsh(x.unsqueeze(2) * x.unsqueeze(1)))

    guard = ol.Guard(ol.Classifier(Root()), ol.Energy()).calibrate([torch.randn(8, 4) for _ in range(3)])
    with pytest.raises(ExportError, match=r"torch.onnx cannot write this classifier: .*linalg_eigh"):
        guard.export_onnx(tmp_path / "guard.onnx", torch.randn(2, 4))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("example", "sentence"),
    [
        (torch.zeros(2, 5), "refused a batch of shape"),
        (torch.full((2, 4), torch.nan), "NaN or infinite"),
        ({"x": torch.zeros(2, 4), "n": 3}, "`n` must be a tensor with a batch dimension; got int"),
        (torch.tensor(1.0), "`inputs` must be a tensor with a batch dimension; got a scalar"),
    ],
)
def test_an_example_that_the_classifier_does_not_take(tmp_path, example, sentence):
    refused(tmp_path, toy_guard(), InputError, sentence, example)


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_package_that_is_not_installed(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"need the package '{package}'.*oodline\[onnx\]"):
        toy_guard().export_onnx(tmp_path / "guard.onnx", torch.zeros(2, 4))
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_known_before_the_work(tmp_path):
    guard = toy_guard()
    guard.calibration = None  # which would be found next
    for write in (export_onnx, export_program):
        with pytest.raises(DataError, match="there is no folder"):
            write(guard, tmp_path / "nowhere" / "guard", torch.zeros(2, 4))
        with pytest.raises(DataError, match="it is a folder"):
            write(guard, tmp_path, torch.zeros(2, 4))


def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path):
    script = (
        "import torch, oodline as ol\n"
        "from oodline.errors import DataError\n"
        "from oodline.guard.export import export_program\n"
        "from oodline.testing import toy_problem\n"
        "classifier, loader = toy_problem()\n"
        "guard = ol.Guard(classifier, ol.Energy()).calibrate(loader)\n"
        "try:\n"
        f"    export_program(guard, {str(tmp_path / 'guard.pt2')!r}, loader[0][0])\n"
        "except DataError as error:\n"
        "    print(error)\n"
    )

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, preexec_fn=limit, check=True)
    assert "could not write" in done.stdout
    assert list(tmp_path.iterdir()) == []


def spoiled(name: str, change: Tensor) -> str:
    """What `verify` says of a graph of which one output is changed."""
    graph = GuardGraph(toy_guard())

    def run(inputs: Tensor) -> list[Tensor]:
        found = dict(zip(OUTPUTS, graph(inputs), strict=True))
        found[name] = (found[name] + change).to(found[name].dtype) if name != "is_ood" else ~found[name]
        return list(found.values())

    with pytest.raises(ExportError) as caught:
        verify(graph, run, torch.randn(3, 4))
    return str(caught.value)


@pytest.mark.parametrize("change", [0.5, float("nan")])
@pytest.mark.parametrize("name", ["logits", "score"])
def test_a_graph_that_computes_something_else_is_found(name, change):
    assert f"does not agree with the guard at batch size 1: {name} differs by" in spoiled(name, torch.tensor(change))


@pytest.mark.parametrize("name", ["label", "p_value", "is_ood"])
def test_a_graph_that_does_not_follow_its_own_score_is_found(name):
    assert f"does not agree with itself at batch size 1: {name} do not follow" in spoiled(name, torch.tensor(1))


def test_a_graph_equal_but_for_rounding_is_accepted_and_its_differences_are_told():
    graph = GuardGraph(toy_guard())
    graph.calibration.scores[0] = -1e6

    def run(inputs: Tensor) -> list[Tensor]:
        logits, label, score, p_value, is_ood = graph(inputs)
        return [logits + 1e-4, label, score, p_value, is_ood]

    differences = verify(graph, run, torch.randn(5, 4))
    assert differences.pop("logits") == pytest.approx(1e-4, rel=0.1)
    assert set(differences.values()) == {0.0}


@pytest.mark.real
@pytest.mark.long
def test_line_on_densenet_is_the_same_in_onnxruntime(shared, tmp_path):
    examples = Path(__file__).parents[2] / "examples" / "cifar_models.py"
    weights = shared / "data" / "checkpoints" / "densenet100_cifar10.safetensors"
    loaded = load_model(f"python:{examples}:densenet100", weights)
    classifier = ol.Classifier(loaded.model)
    with safe_open(shared / "golden" / "line_cifar10.safetensors", "pt") as file:
        count, mean = file.get_tensor("class_count").long(), file.get_tensor("class_mean")
    means = ClassMoments()
    means.load_state_dict({"count": count, "mean": mean, "deviations": torch.zeros(len(count), 0)})
    detector = ol.LINe.preset("cifar10-densenet100")
    detector._settle({"moments": means}, classifier.head)

    def load(path: str, limit: int) -> Tensor:
        loader = image_loader(open_images(shared / "data" / path), loaded.preprocessing, limit=limit)
        return torch.cat([batch.inputs for batch in loader])

    guard = ol.Guard(classifier, detector).calibrate([load("cifar10/test.parquet", 20)])
    strange = load("ood/textures.parquet", 10)
    made = guard.export_onnx(tmp_path / "guard.onnx", strange[:2])
    for size in (1, 3, 10):
        same_verdict(run_onnx(made.path, {"inputs": strange[:size]}), guard(strange[:size]))


def test_tracing_takes_any_module_of_one_argument():
    program = trace(nn.Linear(3, 2), torch.zeros(4, 3))
    assert program.module()(torch.zeros(1, 3)).shape == (1, 2)
