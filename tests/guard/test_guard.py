"""A guard judges, saves and loads; a file that is not what it should be is refused with a sentence."""

import copy
import json

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import oodline as ol
from oodline.data.batch import Batch
from oodline.detectors.catalog import CATALOG, create_detector
from oodline.errors import ArtifactError, InputError, MismatchError, NotFittedError, SettingError, UnknownNameError
from oodline.guard.artifact import FORMAT_VERSION, Artifact, ModelSource, _digest, read_artifact, write_artifact
from oodline.model.head import HeadInfo
from oodline.preprocessing.preprocessing import Preprocessing
from oodline.testing import toy_image_guard, toy_loader, toy_problem


@pytest.fixture
def guard():
    classifier, loader = toy_problem()
    detector = ol.LINe(p_a=0.5, p_w=0.5, clip=5.0).fit(classifier, loader)
    return ol.Guard(classifier, detector, class_names=tuple("abc")).calibrate(toy_loader(seed=1), false_alarm=0.1)


@pytest.fixture
def saved(guard, tmp_path):
    return guard.save(tmp_path / "guard.safetensors")


def rewrite(path, change):
    """Load a file, let `change(metadata, tensors)` edit it, and save it without mending the digest."""
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    change(metadata, tensors)
    save_file(tensors, path, metadata)


def test_verdict_says_label_score_threshold_and_ood(guard):
    images = torch.cat([toy_loader(seed=1)[0][0], torch.zeros(2, 4)])
    verdict = guard(images)
    assert int(verdict.is_ood[:60].sum()) == 5  # the largest k of the held-out samples with (k + 1) / 61 <= 0.1
    assert verdict.is_ood[60:].all()
    assert torch.equal(verdict.label, guard.classifier(images).logits.argmax(1))
    assert torch.equal(verdict.is_ood, verdict.score.double() < verdict.threshold)
    assert torch.equal(verdict.is_ood, verdict.p_value <= 0.1)
    assert torch.equal(verdict.discoveries(0.2), ol.benjamini_hochberg(verdict.p_value, 0.2))
    row = verdict.rows()[-1]
    assert row["class_name"] == "abc"[row["label"]]
    assert row["is_ood"] is True
    assert 0 < row["p_value"] < 0.1
    assert json.loads(json.dumps(row)) == row


def test_a_guard_says_what_it_is(guard):
    assert repr(guard).startswith("Guard(LINe(")
    assert repr(guard).endswith("false_alarm=0.1)")
    assert repr(ol.Guard(guard.classifier, ol.Energy())).endswith("no threshold yet)")


def test_a_guard_needs_a_fitted_detector_a_threshold_and_its_own_classifier(guard):
    classifier, loader = toy_problem()
    with pytest.raises(NotFittedError, match=r"LINe is not fitted. Call LINe.fit\(classifier, train_loader\)"):
        ol.Guard(classifier, ol.LINe())
    with pytest.raises(NotFittedError, match=r"guard.calibrate\(held_out_loader\)"):
        ol.Guard(classifier, ol.Energy())(loader[0][0])
    other, _ = toy_problem(seed=1)
    with pytest.raises(MismatchError, match="'line' was fitted on another classifier"):
        ol.Guard(other, guard.detector)


@pytest.mark.parametrize("names", [("a", "b"), ("a", "b", "c", "d")])
def test_every_class_has_a_name_or_none_has(guard, names):
    with pytest.raises(SettingError, match=f"{len(names)} class names for 3 classes"):
        ol.Guard(guard.classifier, guard.detector, class_names=names)


def test_a_file_takes_names_where_it_has_none_and_loses_those_that_do_not_fit(guard, tmp_path):
    plain = ol.Guard(guard.classifier, guard.detector, guard.calibration)
    path = plain.save(tmp_path / "plain.safetensors")
    assert ol.Guard.load(path, guard.classifier).class_names is None
    assert ol.Guard.load(path, guard.classifier, class_names=tuple("xyz")).class_names == ("x", "y", "z")
    with pytest.warns(UserWarning, match="2 class names for 3 classes are not shown"):
        assert ol.Guard.load(path, guard.classifier, class_names=tuple("xy")).class_names is None


def test_pictures_and_batches_of_a_loader_are_judged_as_their_tensors(guard):
    toy = toy_image_guard()
    numbers = torch.randint(0, 256, (2, 9, 12, 3), dtype=torch.uint8).numpy()
    pictures = [Image.fromarray(one) for one in numbers]
    assert toy.preprocessing.input_size == (8, 8)
    expected = toy(torch.stack([toy.preprocessing(picture) for picture in pictures]))
    assert torch.equal(toy(pictures).score, expected.score)
    torch.testing.assert_close(toy(pictures[1]).score, expected.score[1:])
    [(inputs, labels)] = toy_loader(seed=2)
    batch = Batch(inputs, labels, torch.arange(len(inputs)))
    assert torch.equal(guard(batch).score, guard(inputs).score)
    with pytest.raises(InputError, match=r"has no preprocessing for pictures\. Pass Guard"):
        guard(pictures)
    with pytest.raises(InputError, match=r"takes images, and was given text\. Open a file first"):
        toy("cat.png")
    ragged = ol.Guard(toy.classifier, toy.detector, toy.calibration, preprocessing=Preprocessing())
    with pytest.raises(InputError, match=r"different sizes after preprocessing: \(3, 5, 4\), \(3, 8, 8\)"):
        ragged([Image.new("RGB", (8, 8)), Image.new("RGB", (4, 5))])


def test_a_batch_of_the_wrong_shape_or_with_nan_is_refused(guard):
    with pytest.raises(InputError, match=r"refused a batch of shape \(2, 7\)"):
        guard(torch.zeros(2, 7))
    with pytest.raises(InputError, match="NaN or infinite activations in 1 of 2 rows"):
        guard(torch.tensor([[0.0] * 4, [float("nan")] * 4]))


LIGHTER = {"corp": "corp,size=64", "weiper-msp": "weiper-msp,repeats=5", "weiper-kld": "weiper-kld,repeats=5"}
"""Settings that show the same in less time."""


ONE_BY_ONE = [LIGHTER.get(name, name) for name in CATALOG if name not in ("neglabel", "nll")]  # which have own tests


@pytest.mark.parametrize("name", [*ONE_BY_ONE, "react,scorer=dice"])
def test_every_detector_survives_a_file_bit_for_bit(name, tmp_path):
    # a network that tells red, green and blue images apart
    model = nn.Sequential(nn.Conv2d(3, 12, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 3))
    colours, labels = torch.eye(3).repeat(4, 1), torch.arange(60) % 3
    with torch.no_grad():
        model[0].weight.copy_(colours[:, :, None, None] + 0.1 * torch.randn(12, 3, 1, 1))
        model[4].weight.copy_(colours.T + 0.1 * torch.randn(3, 12))
    images = torch.eye(3)[labels][:, :, None, None] + 0.5 * torch.randn(2, 60, 3, 8, 8)
    classifier, loader, held_out = ol.Classifier(model), [(images[0], labels)], [images[1]]
    detector = create_detector(name)
    ol.fit([detector], classifier, loader)
    guard = ol.Guard(classifier, detector, preprocessing=Preprocessing(resize=8, crop=8)).calibrate(held_out)
    loaded = ol.Guard.load(guard.save(tmp_path / "g.safetensors"), classifier)
    images = torch.randn(30, 3, 8, 8)
    before, after = guard(images), loaded(images)
    assert torch.equal(before.score, after.score)
    assert torch.equal(before.is_ood, after.is_ood)
    assert torch.equal(before.p_value, after.p_value)
    assert loaded.preprocessing == guard.preprocessing
    assert repr(loaded.detector) == repr(guard.detector)


def test_both_spellings_and_both_kinds_of_calibration_survive_a_file(guard, tmp_path):
    held_out, images = toy_loader(seed=1), toy_loader(seed=2)[0][0]
    rate = guard.calibrate(held_out, tpr=0.9).calibration.false_alarm
    assert rate == 0.1
    guard.calibrate(held_out, tpr=0.9, by="predicted")
    loaded = ol.Guard.load(guard.save(tmp_path / "g.safetensors"), guard.classifier)
    assert len({float(t) for t in guard(images).threshold}) == 3
    for name in ("is_ood", "p_value", "threshold"):
        assert torch.equal(getattr(loaded(images), name), getattr(guard(images), name))
    with pytest.raises(SettingError, match="`by` must be 'all' or 'predicted'; got 'class'"):
        guard.calibrate(held_out, by="class")
    with pytest.raises(SettingError, match=r"60 held-out samples are too few for a false-alarm rate of 0\.01"):
        guard.calibrate(held_out, false_alarm=0.01)


def test_a_file_of_format_1_judges_as_it_did(saved, guard, tmp_path):
    def older(metadata, tensors):
        manifest = json.loads(metadata["oodline"]) | {"format_version": 1}
        manifest["calibrations"] = {"line": {"tpr": 0.9, "threshold": 1.25}}
        metadata["oodline"] = json.dumps(manifest | {"sha256": _digest(manifest, tensors)})

    rewrite(saved, older)
    loaded = ol.Guard.load(saved, guard.classifier)
    assert (loaded.calibration.threshold, loaded.calibration.false_alarm) == (1.25, 0.1)
    again = ol.Guard.load(loaded.save(tmp_path / "new"), guard.classifier)
    assert (again.calibration.threshold, again.calibration.false_alarm) == (1.25, 0.1)


def unsorted(manifest, tensors):
    tensors["calibration/line"] = tensors["calibration/line"].flip(0)


def integers(manifest, tensors):
    tensors["calibration/line"] = tensors["calibration/line"].long()


def a_table(manifest, tensors):
    tensors["calibration/line"] = tensors["calibration/line"].unsqueeze(1)


def without_classes(manifest, tensors):
    manifest["calibrations"]["line"]["by"] = "predicted"


def classes_out_of_range(manifest, tensors):
    manifest["calibrations"]["line"]["by"] = "predicted"
    tensors["predicted/line"] = torch.arange(60)


def a_rate_of_nothing(manifest, tensors):
    manifest["calibrations"]["line"] |= {"by": "predicted", "false_alarm": 0.0}
    tensors["predicted/line"] = torch.arange(60) % 3


def a_list(manifest, tensors):
    manifest |= {"format_version": 1, "calibrations": []}


@pytest.mark.parametrize(
    "change",
    [unsorted, integers, a_table, without_classes, classes_out_of_range, a_rate_of_nothing, a_list],
)
def test_a_calibration_that_is_none_is_refused_whoever_signed_it(saved, guard, change):
    def resign(metadata, tensors):
        manifest = json.loads(metadata["oodline"])
        change(manifest, tensors)
        metadata["oodline"] = json.dumps(manifest | {"sha256": _digest(manifest, tensors)})

    rewrite(saved, resign)
    with pytest.raises(ArtifactError, match="does not describe a guard"):
        ol.Guard.load(saved, guard.classifier)


def test_saving_twice_gives_the_same_bytes(guard, tmp_path):
    first, second = (guard.save(tmp_path / name).read_bytes() for name in ("a", "b"))
    assert first == second


def test_several_detectors_in_one_file(tmp_path):
    classifier, loader = toy_problem()
    detectors = {"energy": ol.Energy(), "knn": ol.KNN(k=3)}
    ol.fit(list(detectors.values()), classifier, loader)
    source = ModelSource(reference="timm:resnet50", head="fc")
    path = write_artifact(Artifact(detectors, HeadInfo.of(classifier.head), model=source), tmp_path / "many")
    assert list(read_artifact(path).detectors) == ["energy", "knn"]
    assert read_artifact(path).model == source
    assert ol.Guard.load(path, classifier, "knn").detector.k == 3
    with pytest.raises(UnknownNameError, match="Did you mean 'energy'"):
        ol.Guard.load(path, classifier, "enregy")


def test_another_classifier_is_refused(saved, guard):
    with pytest.raises(MismatchError, match=r"3 classes and 16 features; .* has 5 and 16"):
        ol.Guard.load(saved, ol.Classifier(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 5))))
    changed = copy.deepcopy(guard.classifier.model)
    with torch.no_grad():
        changed[2].weight[0, 0] += 1e-3
    with pytest.raises(MismatchError, match="same size but other weights"):
        ol.Guard.load(saved, ol.Classifier(changed))


def test_a_missing_truncated_or_foreign_file_is_refused(saved, guard, tmp_path):
    with pytest.raises(ArtifactError, match="there is no file"):
        ol.Guard.load(tmp_path / "nowhere.safetensors", guard.classifier)
    content = saved.read_bytes()
    for size in (0, 5, 100, len(content) - 1):
        saved.write_bytes(content[:size])
        with pytest.raises(ArtifactError, match="truncated"):
            ol.Guard.load(saved, guard.classifier)
    saved.write_bytes(b"PK\x03\x04" + b"\xff" * 500)
    with pytest.raises(ArtifactError, match="no safetensors file, or damaged"):
        ol.Guard.load(saved, guard.classifier)
    save_file({"x": torch.zeros(1)}, saved)
    with pytest.raises(ArtifactError, match="not one that oodline wrote"):
        ol.Guard.load(saved, guard.classifier)


def tamper_tensor(metadata, tensors):
    tensors["detector/line/contribution_"][0, 0] += 1


def tamper_calibration(metadata, tensors):
    tensors["calibration/line"] = tensors["calibration/line"] - 1


def tamper_threshold(metadata, tensors):
    manifest = json.loads(metadata["oodline"])
    manifest["calibrations"]["line"]["threshold"] = -1e9
    metadata["oodline"] = json.dumps(manifest)


def tamper_digest(metadata, tensors):
    metadata["oodline"] = metadata["oodline"].replace("sha256", "sha257")


@pytest.mark.parametrize("change", [tamper_tensor, tamper_calibration, tamper_threshold, tamper_digest])
def test_a_file_that_was_changed_is_refused(saved, guard, change):
    rewrite(saved, change)
    with pytest.raises(ArtifactError, match="was changed after it was written"):
        ol.Guard.load(saved, guard.classifier)


def test_one_flipped_bit_anywhere_in_the_tensors_is_found(saved, guard):
    content = bytearray(saved.read_bytes())
    for position in range(len(content) - 200, len(content), 37):
        content[position] ^= 1
        saved.write_bytes(bytes(content))
        with pytest.raises(ArtifactError, match="was changed"):
            ol.Guard.load(saved, guard.classifier)
        content[position] ^= 1


def test_a_newer_format_is_refused_before_anything_else(saved, guard):
    def newer(metadata, tensors):
        manifest = json.loads(metadata["oodline"]) | {"format_version": FORMAT_VERSION + 1, "unheard_of": True}
        metadata["oodline"] = json.dumps(manifest)

    rewrite(saved, newer)
    with pytest.raises(ArtifactError, match=rf"has format {FORMAT_VERSION + 1}; this oodline .* reads up to .*Upgrade"):
        ol.Guard.load(saved, guard.classifier)


def test_a_method_of_another_version_is_named(saved, guard):
    def rename(metadata, tensors):
        manifest = json.loads(metadata["oodline"])
        manifest["detectors"]["line"]["method"] = "lime"
        metadata["oodline"] = json.dumps(manifest | {"sha256": _digest(manifest, tensors)})

    rewrite(saved, rename)
    with pytest.raises(ArtifactError, match=r"holds the detector 'lime', which this version of oodline does not have"):
        ol.Guard.load(saved, guard.classifier)


def test_a_detector_of_ones_own_cannot_be_written_silently(tmp_path):
    class Mine(ol.Energy):
        """Higher = more in-distribution."""

    classifier, loader = toy_problem()
    guard = ol.Guard(classifier, Mine()).calibrate(loader)
    with pytest.raises(ArtifactError, match=r"Mine .* is not registered, so a file"):
        guard.save(tmp_path / "mine.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_state_is_small_and_holds_no_weights_of_the_classifier(saved):
    with safe_open(saved, framework="pt") as file:
        state = {f"detector/line/{name}" for name in ("contribution_", "threshold", "largest", "seen")}
        assert set(file.keys()) == {*state, "calibration/line", "probe/logits", "probe/score/line"}


def test_two_guards_of_one_fused_detector_are_told_to_take_a_copy_each():
    classifier, loader = toy_problem()
    detector = ol.default(classifier).fit(classifier, loader)
    sets = [[batch for seed in seeds for batch in toy_loader(seed)] for seeds in ((1, 2, 3), (4, 5, 6))]
    first = ol.Guard(classifier, copy.deepcopy(detector)).calibrate(sets[0])
    second, third = (ol.Guard(classifier, detector).calibrate(held_out) for held_out in sets)
    with pytest.raises(MismatchError, match=r"Where another guard was calibrated with it since, give each .*deepcopy"):
        second(loader[0][0])
    assert first(loader[0][0]).is_ood.shape == third(loader[0][0]).is_ood.shape == (60,)
