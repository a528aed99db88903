"""Precomputed features and logits give what the model itself gives, for every detector that reads no more."""

from __future__ import annotations

import tempfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import oodline as ol
from oodline.detectors.catalog import CATALOG, create_detector
from oodline.errors import DataError, HeadError, InputError, LabelError, MismatchError, OodlineError, SettingError
from oodline.guard.guard import Guard
from oodline.model.activations import Needs
from oodline.model.classifier import Classifier
from oodline.passes.fit import unsupported
from oodline.scoring.score import score_all

CLASSES, WIDTH, N = 3, 30, 60
LABELS = torch.arange(N) % CLASSES


def network(seed=0):
    generator = torch.Generator().manual_seed(seed)
    head = nn.Linear(WIDTH, CLASSES)
    own = torch.arange(WIDTH) % CLASSES == torch.arange(CLASSES).unsqueeze(1)
    with torch.no_grad():
        head.weight.copy_(torch.where(own, 1.0, -0.5) + 0.1 * torch.randn(CLASSES, WIDTH, generator=generator))
        head.bias.copy_(0.1 * torch.randn(CLASSES, generator=generator))
    return Classifier(nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head))


def images(seed, labels=LABELS):
    generator = torch.Generator().manual_seed(seed)
    own = torch.arange(WIDTH) % CLASSES == labels.unsqueeze(1)
    values = torch.where(own, 0.7, 0.05) + 0.2 * torch.randn(len(labels), WIDTH, generator=generator)
    return values[:, :, None, None] * (1 + 0.1 * torch.randn(len(labels), WIDTH, 2, 2, generator=generator))


MODEL = network()
TRAIN, TEST = images(1), images(2)
TRAINED, TESTED = MODEL(TRAIN), MODEL(TEST)
FEATURES, LOGITS = TRAINED.features.numpy(), TRAINED.logits.numpy()
HEAD = (MODEL.head.weight.numpy(), MODEL.head.bias.numpy())
FOLDER = tempfile.TemporaryDirectory()
np.save(f"{FOLDER.name}/words.npy", np.random.default_rng(0).normal(size=(40, WIDTH)))
LIGHTER = {"corp": "corp,size=64", "cop": "cop", "neglabel": f"neglabel,words={FOLDER.name}/words.npy"}
DETECTORS = [LIGHTER.get(name, name) for name in CATALOG]
SERVED = [r for r in DETECTORS if not create_detector(r).needs_network]


def by_the_model(reference):
    detector = create_detector(reference).fit(MODEL, [(TRAIN, LABELS)])
    return ol.score({"x": detector}, MODEL, [TEST])["x"]


def by_features(reference, classifier, loader, test):
    detector = create_detector(reference)
    detector.fit(classifier, loader)
    return ol.score({"x": detector}, classifier, test)["x"]


def test_most_of_the_catalog_is_served():
    assert len(SERVED) >= 45
    assert not {"odin", "i-odin", "nap", "nap-combined", "mode-csd", "rankfeat", "adascale"} & set(SERVED)


@pytest.mark.filterwarnings("ignore::oodline.FewSamplesWarning")
@pytest.mark.parametrize("reference", SERVED)
def test_scores_are_those_of_the_model(reference):
    expected = by_the_model(reference)
    for logits in (None, LOGITS):
        classifier, loader = ol.from_features(FEATURES, LABELS.numpy(), logits=logits, head=HEAD)
        test = classifier.loader(TESTED.features.numpy(), logits=None if logits is None else TESTED.logits.numpy())
        torch.testing.assert_close(by_features(reference, classifier, loader, test), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore::oodline.FewSamplesWarning")
@pytest.mark.parametrize("reference", DETECTORS)
@pytest.mark.parametrize("given", ["features", "logits", "both"])
def test_without_a_head_a_detector_is_served_exactly_where_it_declares_no_more(reference, given):
    has = {"features": Needs.FEATURES, "logits": Needs.LOGITS, "both": Needs.FEATURES | Needs.LOGITS}[given]
    features = None if given == "logits" else FEATURES
    logits = None if given == "features" else LOGITS
    classifier, loader = ol.from_features(features, LABELS, logits=logits)
    test = classifier.loader(
        None if given == "logits" else TESTED.features, logits=None if given == "features" else TESTED.logits
    )
    detector = create_detector(reference)
    if detector.all_needs & Needs.OBSERVED:
        with pytest.raises(InputError, match="the token that came next"):
            detector.fit(classifier, loader)
        return
    if detector.all_layers or detector.all_needs & ~has:
        assert list(unsupported({"x": detector}, classifier, loader)) == ["x"]
        with pytest.raises(InputError, match=rf"^'{detector.name}' needs .*, and only .* given\. (Pass|Fit it on)"):
            detector.fit(classifier, loader)
        with pytest.raises(InputError, match=rf"^'{detector.name}' needs"):
            ol.Guard(classifier, by_fit(reference))
        return
    torch.testing.assert_close(
        by_features(reference, classifier, loader, test), by_the_model(reference), rtol=1e-5, atol=1e-6
    )


def by_fit(reference):
    return create_detector(reference).fit(MODEL, [(TRAIN, LABELS)])


def test_a_guard_of_features_without_a_head_is_calibrated_saved_and_loaded(tmp_path):
    classifier, loader = ol.from_features(FEATURES, LABELS)
    held_out = classifier.loader(TESTED.features)
    guard = ol.Guard(classifier, ol.KNN(k=5).fit(classifier, loader)).calibrate(held_out, false_alarm=0.1)
    verdict = guard(TESTED.features)
    assert verdict.label.tolist() == [-1] * N and verdict.rows()[0]["class_name"] is None
    assert int(verdict.is_ood.sum()) <= 6
    named = ol.Guard(classifier, guard.detector, guard.calibration, class_names=["a", "b", "c"])
    assert named(TESTED.features[:1]).rows()[0]["class_name"] is None
    guard.save(tmp_path / "guard.safetensors")
    again = Guard.load(tmp_path / "guard.safetensors", classifier)
    assert torch.equal(again(TESTED.features.numpy()).score, verdict.score)
    other, _ = ol.from_features(FEATURES[:, :20], LABELS)
    with pytest.raises(MismatchError, match="30 features"):
        Guard.load(tmp_path / "guard.safetensors", other)


def test_predicted_classes_are_those_of_the_logits():
    classifier, loader = ol.from_features(logits=LOGITS, labels=LABELS)
    found = score_all(ol.MSP(), classifier, loader)
    assert torch.equal(found.predicted, torch.from_numpy(LOGITS.argmax(1)))
    assert torch.equal(found.labels, LABELS)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_every_precision(dtype):
    kind = getattr(torch, dtype)
    features, logits = TRAINED.features.to(kind), TRAINED.logits.to(kind)
    classifier, loader = ol.from_features(features, LABELS, logits=logits, head=HEAD, batch_size=7)
    scores = ol.score([ol.Energy(), ol.FeatureNorm()], classifier, loader)
    close = {"float16": 1e-2, "bfloat16": 5e-2}.get(dtype, 1e-6)
    torch.testing.assert_close(scores["energy"], TRAINED.logits.logsumexp(1).double(), rtol=close, atol=close)
    record = classifier({"features": features, "logits": logits})
    assert record.features.dtype == (torch.float64 if dtype == "float64" else torch.float32) == record.logits.dtype


@pytest.mark.parametrize("form", ["pair", "tensors", "linear", "record", "state_dict", "no bias", "layers"])
def test_a_head_may_be_given_as_what_is_at_hand(form):
    weight, bias = HEAD
    linear = MODEL.model[3]
    head = {
        "pair": HEAD,
        "tensors": tuple(map(torch.from_numpy, HEAD)),
        "linear": linear,
        "record": MODEL.head,
        "state_dict": {"stem.weight": np.ones((4, 5)), "fc.weight": weight, "fc.bias": bias},
        "no bias": weight,
        "layers": nn.Sequential(linear, nn.ReLU()),
    }[form]
    classifier, loader = ol.from_features(FEATURES, LABELS, head=head)
    [(activations, labels)] = classifier.stream(loader)
    expected = {"no bias": LOGITS - bias, "layers": LOGITS.clip(min=0)}.get(form, LOGITS)
    np.testing.assert_allclose(activations.logits.numpy(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(labels, LABELS) and classifier.head.num_classes == CLASSES


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt", ".pth"])
@pytest.mark.parametrize("names", ["fc.weight fc.bias", "weight bias", "W b", "module.fc.weight module.fc.bias"])
def test_heads_and_features_from_every_format(tmp_path, suffix, names):
    weight, bias = map(torch.from_numpy, HEAD)
    names = names.split()
    write(tmp_path / f"head{suffix}", {names[0]: weight, names[1]: bias, "other.weight": torch.ones(7, 8)})
    arrays = {"features": TRAINED.features, "logits": TRAINED.logits, "labels": LABELS}
    write(tmp_path / f"train{suffix}", arrays)
    classifier, loader = ol.from_features(tmp_path / f"train{suffix}", head=tmp_path / f"head{suffix}")
    expected = TRAINED.logits.logsumexp(1).double()
    torch.testing.assert_close(ol.score(ol.Energy(), classifier, loader)["energy"], expected)
    [batch] = loader
    assert torch.equal(batch.labels, LABELS)


def write(path, tensors):
    if path.suffix == ".safetensors":
        save_file({key: value.contiguous() for key, value in tensors.items()}, path)
    elif path.suffix == ".npz":
        np.savez(path, **{key: value.numpy() for key, value in tensors.items()})
    else:
        torch.save({"state_dict": tensors} if "features" not in tensors else tensors, path)


def test_a_file_of_one_array_is_features_and_is_mapped_not_read(tmp_path):
    np.save(tmp_path / "features.npy", FEATURES)
    np.save(tmp_path / "labels.npy", LABELS.numpy().astype(np.uint8))
    np.save(tmp_path / "logits.npy", LOGITS)
    torch.save(TRAINED.features, tmp_path / "features.pt")
    expected = by_the_model("knn")
    for loader_of in (
        lambda: ol.from_features(tmp_path / "features.npy", tmp_path / "labels.npy", logits=tmp_path / "logits.npy"),
        lambda: ol.from_features(f"{tmp_path}/features.npy,labels={tmp_path}/labels.npy"),
        lambda: ol.from_features(tmp_path / "features.pt", LABELS),
    ):
        classifier, loader = loader_of()
        assert by_features("knn", classifier, loader, _tests(classifier)).tolist() == expected.tolist()
    # 4 GB that are not there: a sparse file, of which three rows are read
    np.lib.format.open_memmap(tmp_path / "large.npy", "w+", np.float32, (2**20, 1024))
    classifier, loader = ol.from_features(tmp_path / "large.npy", batch_size=3)
    assert next(iter(loader)).inputs["features"].shape == (3, 1024) and loader.num_samples == 2**20


def _tests(classifier):
    logits = None if not classifier._logits_given else TESTED.logits
    return classifier.loader(TESTED.features, logits=logits)


def bad(**changes):
    return {"features": FEATURES, "labels": LABELS.numpy(), "head": HEAD, **changes}


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        (bad(features=FEATURES.astype(object)), DataError, "an array of numbers; got one of Python objects"),
        (bad(features=FEATURES.astype(int)), DataError, "`features` .* floating-point numbers; got int64"),
        (bad(features=FEATURES.astype(complex)), DataError, "`features` .* must be numbers; got complex128"),
        (bad(features=np.array(["a"] * N)), DataError, "`features` .* must be numbers; got <U1"),
        (bad(features=FEATURES[:, 0]), DataError, r"`features` .* must have shape \(N, D\); got \(60,\)"),
        (bad(features=FEATURES[:, :, None]), DataError, r"must have shape \(N, D\); got \(60, 30, 1\). Flatten them"),
        (bad(features=FEATURES[:50]), DataError, r"one entry per sample.*features \(50, 30\), labels \(60,\)"),
        (bad(features=FEATURES[:0], labels=LABELS[:0]), DataError, "at least one"),
        (bad(features=[[1.0], [1.0, 2.0]], labels=None), DataError, "`features` must be an array"),
        (bad(features=None), DataError, "nothing to read"),
        (bad(labels=LABELS.numpy().astype(float)), DataError, r"labels.* must be integers \(N,\).*; got float64"),
        (bad(labels=LABELS[:, None]), DataError, r"integers \(N,\).*; got int64 \(60, 1\)"),
        (bad(logits=LOGITS[:, :2]), DataError, r"`logits` .* must have shape \(N, C\) = \(N, 3\)"),
        (bad(logits=LOGITS[:50]), DataError, "one entry per sample"),
        (bad(head=(HEAD[0].T, HEAD[1])), HeadError, r"\(C, 30\), one column per feature; got \(30, 3\). Pass W.T"),
        (bad(head=(HEAD[0][:, :20], HEAD[1])), HeadError, r"\(C, 30\)"),
        (bad(head=(HEAD[0], HEAD[1][:2])), HeadError, r"`b` .* shape \(3,\), one number per class; got \(2,\)"),
        (bad(head=(HEAD[0] * np.nan, HEAD[1])), HeadError, "NaN or infinite"),
        (bad(head=(HEAD[0][:1], HEAD[1][:1])), HeadError, "at least 2 classes"),
        (bad(head=3), HeadError, r"`head` must be \(W, b\), .*; got int"),
        (bad(head={"a.weight": HEAD[0], "b.weight": HEAD[0]}), HeadError, "2 layers that could be the head.*Name it"),
        (bad(head={"a.weight": HEAD[0].T}), HeadError, r"no layer with a weight of shape \(C, 30\).*'a' \(30, 3\)"),
        (bad(head={"fc.weight": HEAD[0]}, head_name="head"), HeadError, "no layer 'head'"),
        (bad(num_classes=0, head=None), SettingError, "`num_classes` must be an integer of at least 1; got 0"),
        ({"logits": LOGITS, "head": HEAD}, DataError, "a head is for features, and .* Leave out the head"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named(arguments, error, sentence):
    with pytest.raises(error, match=sentence):
        ol.from_features(**arguments)


def test_nan_is_named_with_its_sample():
    broken = FEATURES.copy()
    broken[17, 3] = np.nan
    classifier, loader = ol.from_features(broken, LABELS, head=HEAD, batch_size=10)
    with pytest.raises(InputError, match=r"1 of 10 rows of `features` \(first: sample 17 of the data set\)"):
        ol.score(ol.Energy(), classifier, loader)


@pytest.mark.parametrize("off", [0.05, 1.0])
def test_logits_that_the_head_does_not_give_are_refused_with_the_difference(off):
    changed = LOGITS.copy()
    changed[3, 1] += off
    classifier, loader = ol.from_features(FEATURES, LABELS, logits=changed, head=HEAD)
    with pytest.raises(HeadError, match=rf"differ by up to {off:.2g}\d*, and .* is allowed"):
        ol.score(ol.Energy(), classifier, loader)


def test_other_data_must_have_the_same_widths():
    classifier, _ = ol.from_features(FEATURES, LABELS, logits=LOGITS)
    with pytest.raises(DataError, match="holds no `logits`, which the other data has"):
        classifier.loader(TESTED.features)
    with pytest.raises(DataError, match=r"`features` .* must have shape \(N, D\) = \(N, 30\).*; got \(60, 10\)"):
        classifier.loader(TESTED.features[:, :10], logits=TESTED.logits)
    with pytest.raises(DataError, match=r"`logits` .* must have shape \(N, C\) = \(N, 3\).*; got \(60, 2\)"):
        classifier.loader(TESTED.features, logits=TESTED.logits[:, :2])
    for wrong in ({"tokens": TESTED.features}, {}, "text"):
        with pytest.raises(InputError, match="a batch must be a tensor, or a mapping of `features` and `logits`"):
            classifier(wrong)
    with pytest.raises(InputError, match="a batch must have `features`; got logits"):
        classifier({"logits": TESTED.logits})
    with pytest.raises(LabelError):
        ol.Mahalanobis().fit(classifier, classifier.loader(FEATURES, LABELS + 1, logits=LOGITS))


@pytest.mark.parametrize("name", ["features.npy", "features.npz", "features.pt"])
def test_files_that_could_run_code_are_refused(tmp_path, name):
    path = tmp_path / name
    objects = np.array([Trap(), 1], dtype=object)
    if name.endswith("npy"):
        np.save(path, objects, allow_pickle=True)
    elif name.endswith("npz"):
        np.savez(path, features=objects)
    else:
        torch.save({"features": Trap()}, path)
    with pytest.raises(DataError, match="could run code, so it was not loaded"):
        ol.from_features(path)
    assert not Trap.sprung


class Trap:
    sprung = False

    def __reduce__(self):
        return _spring, ()


def _spring():
    Trap.sprung = True


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".npy", ".pt", ".pth", ".txt"])
@pytest.mark.parametrize("content", [b"", b"junk" * 40, b"PK\x03\x04junk", b"\x93NUMPY\x01\x00junk", b"\x80\x02junk"])
def test_damaged_files_end_in_a_sentence(tmp_path, suffix, content):
    path = tmp_path / f"features{suffix}"
    path.write_bytes(content)
    for head in (None, path):
        with pytest.raises(DataError, match="features"):
            ol.from_features(path if head is None else FEATURES, head=head)
    with pytest.raises(DataError, match="there is no file"):
        ol.from_features(tmp_path / f"none{suffix}")
    (tmp_path / f"folder{suffix}").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        ol.from_features(tmp_path / f"folder{suffix}")


def test_settings_are_tuned_on_features_with_and_without_a_head():
    for head, detector, grid in (
        (HEAD, ol.DICE(), None),
        (None, ol.KNN(), {"k": [1, 5]}),
    ):
        classifier, loader = ol.from_features(FEATURES, LABELS, head=head)
        tuned = ol.tune(detector, classifier, loader, classifier.loader(TESTED.features, LABELS), grid=grid)
        assert 0.5 < tuned.best.value <= 1 and len(tuned.candidates) > 1
    classifier, loader = ol.from_features(logits=LOGITS, labels=LABELS)
    tuned = ol.tune(ol.GEN(), classifier, loader, classifier.loader(logits=TESTED.logits), grid={"gamma": [0.1, 0.5]})
    assert len(tuned.candidates) == 2 and not any(c.failure for c in tuned.candidates)


def test_a_graph_of_features_gives_what_the_guard_gives(tmp_path):
    for head, detector in ((HEAD, ol.LINe(clip=1.0)), (None, ol.KNN(k=5))):
        classifier, loader = ol.from_features(FEATURES, LABELS, head=head)
        guard = ol.Guard(classifier, detector.fit(classifier, loader)).calibrate(classifier.loader(TESTED.features))
        made = guard.export_onnx(tmp_path / "guard.onnx", {"features": TESTED.features})
        assert made.inputs == {"features": "float32 (N, 30)"}
        assert made.differences["is_ood"] == made.differences["label"] == 0
        assert made.differences["score"] < 1e-4


def test_errors_are_of_oodline_only():
    with pytest.raises(OodlineError):
        ol.from_features(object())


def test_a_guard_of_the_model_judges_features_and_the_other_way_round(tmp_path):
    guard = ol.Guard(MODEL, ol.Energy()).calibrate([TEST])
    guard.save(tmp_path / "model.safetensors")
    classifier, _ = ol.from_features(FEATURES, LABELS, head=HEAD)
    judged = Guard.load(tmp_path / "model.safetensors", classifier)(TESTED.features)
    assert torch.equal(judged.is_ood, guard(TEST).is_ood)
    Guard(classifier, ol.Energy(), guard.calibration).save(tmp_path / "features.safetensors")
    torch.testing.assert_close(Guard.load(tmp_path / "features.safetensors", MODEL)(TEST).score, judged.score)
    other, _ = ol.from_features(FEATURES, LABELS, head=(HEAD[0], HEAD[1] + 1))
    with pytest.raises(MismatchError, match="fingerprint"):
        Guard.load(tmp_path / "model.safetensors", other)
