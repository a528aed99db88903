"""Multi-label heads: what is computed, what is refused, and that the task goes along."""

import json

import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

import oodline as ol
from oodline.detectors.catalog import CATALOG, create_detector
from oodline.errors import HeadError, LabelError, MismatchError, SettingError
from oodline.guard.export import _properties
from oodline.guard.graph import GuardGraph
from oodline.model.head_name import HeadName
from oodline.passes.fit import reads
from oodline.scoring.row_writer import RowWriter
from oodline.testing.problem import CLASSES, HELD_OUT, IMAGES, LABELS, make_classifier

SETS = nn.functional.one_hot(LABELS, CLASSES)
WITHOUT_LABELS = {
    "max-logit", "feature-norm", "residual", "cop", "corp", "neco", "knn", "joint-energy", "nap", "mode-csd"
}  # fmt: skip


@pytest.fixture(scope="module")
def classifier():
    return ol.Classifier(make_classifier().model, task="multilabel")


@pytest.fixture(scope="module")
def guard(classifier):
    return ol.Guard(classifier, ol.JointEnergy(), class_names=list("abc")).calibrate([HELD_OUT], false_alarm=0.1)


def test_the_task_is_part_of_the_heads_name(classifier):
    plain = ol.Classifier(classifier.model)
    assert (plain.task, classifier.task, classifier(IMAGES).head.task) == ("multiclass", *["multilabel"] * 2)
    assert classifier.head_name == f"multilabel({plain.head_name})"
    assert ol.Classifier(classifier.model, head=classifier.head_name).task == "multilabel"
    assert torch.equal(plain(IMAGES).logits, classifier(IMAGES).logits)


@pytest.mark.parametrize("text", ["multilabel(fc)", "binary(0.5*a + b)", "fc"])
def test_names_of_heads_are_read_as_written(text):
    assert str(HeadName.parse(text)) == text


def test_one_label_is_one_logit_and_several_layers_are_a_head():
    one = ol.Classifier(nn.Linear(4, 1), task="multilabel")
    assert one(torch.ones(2, 4)).logits.shape == (2, 1)
    layers = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)))
    assert ol.Classifier(layers, "1", task="multilabel")(torch.ones(2, 4)).head.task == "multilabel"
    with pytest.raises(SettingError, match="one label is one logit"):
        ol.Classifier(nn.Linear(4, 1), binary=True, task="multilabel")


def test_log_softmax_is_no_multi_label_output():
    model = nn.Sequential(nn.Linear(4, 3), nn.LogSoftmax(1))
    ol.Classifier(model)(torch.rand(5, 4))
    with pytest.raises(HeadError, match=r"log_softmax|softmax"):
        ol.Classifier(model, task="multilabel")(torch.rand(5, 4))


@pytest.mark.parametrize("name", [name for name in CATALOG if name not in ("mcm", "neglabel", "nll")])
def test_a_method_works_without_one_class_per_sample_or_says_what_to_take(name, classifier):
    detector = create_detector({"corp": "corp,size=64"}.get(name, name))
    if name in WITHOUT_LABELS - {"nap", "mode-csd"}:
        scores = detector.fit(classifier, [(IMAGES, SETS)])(classifier(IMAGES))
        assert scores.isfinite().all()
        return
    if name in ("nap", "mode-csd"):  # they read the feature map alone
        assert not detector.assumes or "one class per sample" not in [each.words for each in detector.assumes]
        return
    with pytest.raises(HeadError, match=r"supposes one class per sample: .* Take joint-energy or max-logit"):
        detector._requests(classifier.head)
        detector(classifier(IMAGES, **reads([detector])))


@pytest.mark.parametrize(
    "reference",
    ["react,scorer=joint-energy", "ash-s,scorer=max-logit", "mahalanobis,by=all", "dice,scorer=joint-energy"],
)
def test_scorers_and_settings_that_need_no_class(reference, classifier):
    fitted = ol.fit([reference], classifier, [(IMAGES, SETS)]).detectors
    [scores] = ol.score(fitted, classifier, [IMAGES]).values()
    assert scores.isfinite().all()


def test_the_default_needs_no_labels(classifier):
    detector = ol.default(classifier)
    assert (detector.name, detector.fitted) == ("joint-energy", True)
    fused = ol.Fuse("joint-energy+knn:k=5").fit(classifier, [IMAGES])
    assert fused(classifier(IMAGES)).isfinite().all()


def test_label_sets_for_a_classifier_of_one_class_name_the_remedy(classifier):
    with pytest.raises(LabelError, match=r"labels have shape .* Classifier\(model, task='multilabel'\)"):
        ol.Mahalanobis().fit(ol.Classifier(classifier.model), [(IMAGES, SETS)])


def test_a_verdict_names_the_labels_that_apply(guard):
    verdict, logits = guard(IMAGES), guard.classifier(IMAGES).logits
    assert torch.equal(verdict.labels, logits > 0)
    assert torch.equal(verdict.label, logits.argmax(1))
    row, applies = verdict.rows()[0], (logits[0] > 0).nonzero().flatten().tolist()
    assert (row["labels"], row["label_names"]) == (applies, ["abc"[i] for i in applies])
    plain = ol.Guard(ol.Classifier(guard.classifier.model), ol.MaxLogit()).calibrate([HELD_OUT], false_alarm=0.1)
    assert "labels" not in plain(IMAGES[:1]).rows()[0]


def test_rows_on_disk_hold_the_labels(guard, tmp_path):
    path = tmp_path / "rows.parquet"
    detectors = {"joint-energy": guard.detector}
    with RowWriter(path, detectors, guard.calibration, task="multilabel") as rows:
        ol.Local().fill([rows], guard.classifier, [IMAGES], reads([guard.detector]), task="scoring")
    written = pq.read_table(path).column("labels").to_pylist()
    assert written == [" ".join(map(str, row.nonzero().flatten().tolist())) for row in guard(IMAGES).labels]


def test_the_file_holds_the_task(guard, tmp_path):
    path = guard.save(tmp_path / "guard.safetensors")
    model = guard.classifier.model
    again = ol.Guard.load(path, ol.Classifier(model, task="multilabel"))
    assert torch.equal(again(IMAGES).score, guard(IMAGES).score)
    with pytest.raises(MismatchError, match="fitted on a multilabel classifier, and the one given is multiclass"):
        ol.Guard.load(path, ol.Classifier(model))
    fitted = ol.Residual().fit(guard.classifier, [IMAGES])
    with pytest.raises(MismatchError, match="was fitted on a multilabel classifier, and this one is multiclass"):
        ol.Guard(ol.Classifier(model), fitted)
    with pytest.raises(MismatchError, match="Residual was fitted on a multilabel classifier"):
        fitted(ol.Classifier(model)(IMAGES))


def test_graph_and_metadata(guard):
    logits, label, score, *_ = GuardGraph(guard)(IMAGES)
    assert torch.equal(score, guard(IMAGES).score)
    assert torch.equal(label, logits.argmax(1))
    assert json.loads(_properties(guard, None)["task"]) == "multilabel"


def test_doctor_says_the_task_and_who_refuses(classifier):
    found = ol.doctor(classifier, [(IMAGES, SETS)])
    assert "multilabel" in str(found)
    assert {"line", "msp", "energy"} <= found.unfit.keys()
    assert {"joint-energy", "knn", "max-logit"} <= set(found.fits)


def test_features_in_place_of_a_model(tmp_path):
    features, sets = torch.randn(40, 8), torch.randint(0, 2, (40, 3))
    head = nn.Linear(8, 3)
    classifier, train = ol.from_features(features, sets, head=head, task="multilabel")
    assert classifier.task == "multilabel"
    guard = ol.Guard(classifier, ol.JointEnergy()).calibrate(train)
    again = ol.Guard.load(guard.save(tmp_path / "g.safetensors"), classifier)
    assert torch.equal(again(features).labels, head(features) > 0)
    bare, _ = ol.from_features(features, sets, task="multilabel")
    assert (bare.head.task, bare.head.num_classes) == ("multilabel", 3)
