"""A protocol from end to end: what is missing, left out, kept, and computed once."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from oodline import Classifier, Guard, evaluate, fit, fit_guards, split
from oodline.detectors.base import Detector
from oodline.detectors.catalog import create_detector
from oodline.detectors.paper import Paper
from oodline.errors import DataError, InputError, MismatchError, ModelError, SettingError
from oodline.evaluation.benchmark import open_sets, run_protocol
from oodline.evaluation.cache import CachedClassifier
from oodline.evaluation.kept import restore_fitted, score_or_recall
from oodline.evaluation.passes import BenchmarkSet, measure
from oodline.evaluation.protocol import DataSection, parse_protocol
from oodline.evaluation.run import read_run
from oodline.model.activations import Needs
from oodline.preprocessing.preprocessing import Preprocessing
from oodline.scoring.score import score_all
from oodline.testing import toy_images, toy_network, toy_problem, toy_protocol, toys

COSTLY = ("odin", "nap", "mode-csd", "rankfeat", "adascale")


@pytest.fixture
def protocol(tmp_path):
    return toy_protocol(tmp_path)


def changed(protocol, **changes):
    return parse_protocol({**protocol.model_dump(), **changes})


def bench(protocol, tmp_path, **options):
    return run_protocol(protocol, tmp_path / "run", device="cpu", **options)


def test_too_few_images_to_calibrate_on_end_a_run_before_it_begins(protocol, tmp_path):
    wanted = changed(protocol, calibration={"data": protocol.test.data, "name": "held-out"})
    with pytest.raises(SettingError, match=r"12 held-out samples are too few for .* at least 19 samples"):
        bench(wanted, tmp_path, cache=tmp_path / "cache")
    assert not (tmp_path / "run").exists() and not (tmp_path / "cache").exists()


def test_a_run_says_what_evaluating_by_hand_says(protocol, tmp_path):
    held_out = {"data": protocol.test.data, "name": "held-out"}
    wanted = changed(protocol, calibration=held_out, detectors=["msp", "knn,k=3"], tpr=0.9)
    run = bench(wanted, tmp_path)
    sets = {s.name: s.loader for s in open_sets(wanted, Preprocessing())[0]}
    classifier = Classifier(toy_network())
    detectors = {"msp": create_detector("msp"), "knn": create_detector("knn,k=3")}
    fit(list(detectors.values()), classifier, sets["train"])
    expected = evaluate(detectors, classifier, sets["test"], {"noise": sets["noise"]})
    assert run.table().cells == expected.cells
    record = run.record
    assert [(s.name, s.role, s.samples, s.cached) for s in record.sets] == [
        ("train", "fit", 12, False), ("held-out", "calibration", 12, False), ("test", "id", 12, False),
        ("noise", "ood", 12, False),
    ]  # fmt: skip
    assert record.classifier.num_features == 16
    assert record.class_names == ("0", "1", "2")
    assert record.detectors["knn"].settings["k"] == 3
    assert record.detectors["knn"].state_bytes == 12 * 16 * 4 + 12 * 8  # and the sketch of what was seen
    assert record.detectors["knn"].fit_seconds > 0
    assert record.detectors["msp"].fit_seconds is None
    assert record.detectors["msp"].milliseconds > 0
    assert record.detectors["msp"].threshold == pytest.approx(np.sort(run.scores("held-out")["msp"])[0])
    guard = Guard.load(run.folder / "guard.safetensors", classifier, "knn")
    other = toy_network()
    next(other.parameters()).data[0] += 1
    with pytest.raises(MismatchError, match="the same head but other weights before it"):
        Guard.load(run.folder / "guard.safetensors", Classifier(other), "knn")
    assert guard.calibration.threshold == record.detectors["knn"].threshold


@pytest.mark.filterwarnings("ignore::oodline.errors.AssumptionWarning")
@pytest.mark.parametrize("kept", [False, True])
def test_the_guard_of_a_run_is_the_guard_of_fit_guards(tmp_path, kept):
    torch.manual_seed(0)
    images, labels = torch.rand(180, 3, 8, 8), torch.arange(180) % 3
    for name, rows in (("train", slice(60)), ("held-out", slice(60, 180)), ("test", slice(12))):
        save_file({"inputs": images[rows].clone(), "labels": labels[rows].clone()}, tmp_path / f"{name}.safetensors")
    files = {role: {"data": f"{tmp_path}/{file}.safetensors"} for role, file in
             (("fit", "train"), ("calibration", "held-out"), ("test", "test"))}  # fmt: skip
    model = {"model": f"python:{toys.__file__}:toy_network", "preprocessing": {}}
    detectors = ["fuse,detectors=energy+knn:k=3", "msp", "odin"]
    wanted = parse_protocol({"classifier": model, "detectors": detectors, "batch_size": 50, **files})
    cache = tmp_path / "cache" if kept else None
    runs = [run_protocol(wanted, tmp_path / f"run{i}", device="cpu", cache=cache) for i in range(1 + kept)]

    train, held_out = (s.loader for s in open_sets(wanted, Preprocessing())[0][:2])
    classifier = Classifier(toy_network())
    source = CachedClassifier(classifier, cache) if kept else classifier
    named = {name.partition(",")[0]: name for name in detectors}
    expected = fit_guards(named, source, train, held_out, tpr=0.95, preprocessing=Preprocessing()).artifact
    assert len(expected.calibrations["fuse"].scores) == 120 - sum(len(b.index) for b in split(held_out)[0])
    state = expected.detectors["fuse"].state_dict()
    for run in runs:
        artifact = run.artifact()
        assert artifact.calibrations.keys() == set(named)
        for name, calibration in artifact.calibrations.items():
            assert torch.equal(calibration.scores, expected.calibrations[name].scores), name
            assert calibration.threshold == expected.calibrations[name].threshold
            assert calibration.threshold == run.record.detectors[name].threshold
            ours = run.scores("held-out")[name]
            assert np.array_equal(np.sort(ours), calibration.scores.sort().values)
        found = artifact.detectors["fuse"].state_dict()
        assert found.keys() == state.keys()
        assert all(torch.equal(found[key], value) for key, value in state.items())
        assert torch.equal(artifact.probe.logits, expected.probe.logits)
        assert artifact.probe.scores.keys() == set(named)
        assert artifact.weights == expected.weights
    assert [s.cached for s in runs[-1].record.sets] == [kept] * 3
    other, plain = run_protocol(wanted, tmp_path / "plain", device="cpu").artifact(), runs[0].artifact()
    for name in named:
        torch.testing.assert_close(other.calibrations[name].scores, plain.calibrations[name].scores)


@pytest.mark.filterwarnings("ignore::oodline.errors.FewSamplesWarning")
def test_the_network_runs_once_over_each_set_and_not_at_all_the_second_time(protocol, tmp_path):
    network = toy_network()
    ran = []
    network.register_forward_hook(lambda _m, args, _out: ran.append(len(args[0])))
    classifier = Classifier(network)
    sets, _ = open_sets(protocol, Preprocessing())
    detectors = {name: create_detector(f"{name},k=3" if name == "knn" else name) for name in ("energy", "knn", "line")}
    runs = []
    for _ in range(2):
        runs.append(measure(dict(detectors), CachedClassifier(classifier, tmp_path / "cache"), sets))
        assert sum(ran) == 36
    assert [cached for _, cached in runs[0].passes.values()] == [False] * 3
    assert [cached for _, cached in runs[1].passes.values()] == [True] * 3
    for name in ("test", "noise"):
        for label in detectors:
            assert torch.equal(runs[0].scores[name].scores[label], runs[1].scores[name].scores[label])


@pytest.mark.filterwarnings("ignore::oodline.errors.FewSamplesWarning")
def test_all_detectors_run_the_network_once_if_they_can_and_never_again(protocol, tmp_path):
    wanted = changed(protocol, detectors=["energy", *COSTLY, "knn,k=3", "mahalanobis", "line"])
    first = bench(wanted, tmp_path, cache=tmp_path / "cache")
    assert set(COSTLY) <= set(first.record.detectors)
    again = run_protocol(wanted, tmp_path / "again", device="cpu", cache=tmp_path / "cache")
    plain = run_protocol(wanted, tmp_path / "plain", device="cpu")
    assert [s.cached for s in again.record.sets] == [True] * 3
    assert [s.cached for s in plain.record.sets] == [False] * 3
    for name in ("test", "noise"):
        for label in first.record.detectors:
            assert np.array_equal(first.scores(name)[label], again.scores(name)[label]), label
            assert np.array_equal(first.scores(name)[label], plain.scores(name)[label]), label
    assert again.record.detectors["odin"].milliseconds == pytest.approx(
        first.record.detectors["odin"].milliseconds, rel=1e-9
    )


def test_other_settings_of_a_costly_detector_are_computed_and_the_rest_is_not(protocol, tmp_path):
    cache = tmp_path / "cache"
    runs = []
    for settings in ("odin", "odin,epsilon=0.1", "odin"):
        wanted = changed(protocol, detectors=["energy", settings])
        runs.append(run_protocol(wanted, tmp_path / "run", device="cpu", cache=cache))
    assert [[s.cached for s in run.record.sets] for run in runs] == [
        [True, False, False], [True, False, False], [True] * 3,
    ]  # fmt: skip
    assert np.array_equal(runs[0].scores("noise")["odin"], runs[2].scores("noise")["odin"])
    assert not np.array_equal(runs[0].scores("noise")["odin"], runs[1].scores("noise")["odin"])
    assert np.array_equal(runs[0].scores("noise")["energy"], runs[1].scores("noise")["energy"])


def test_damaged_results_of_costly_detectors_are_computed_again(protocol, tmp_path):
    wanted = changed(protocol, detectors=["adascale"])
    cache = tmp_path / "cache"
    first = bench(wanted, tmp_path, cache=cache)
    for path in [*(cache / "scores").iterdir(), *(cache / "detectors").iterdir()]:
        content = bytearray(path.read_bytes())
        content[-3] ^= 1
        path.write_bytes(bytes(content))
    again = run_protocol(wanted, tmp_path / "again", device="cpu", cache=cache)
    assert [s.cached for s in again.record.sets] == [False] * 3
    assert np.array_equal(first.scores("noise")["adascale"], again.scores("noise")["adascale"])
    third = run_protocol(wanted, tmp_path / "third", device="cpu", cache=cache)
    assert [s.cached for s in third.record.sets] == [True] * 3


def test_changed_code_is_another_result(tmp_path, monkeypatch):
    classifier, loader = toy_images(tmp_path)
    source = CachedClassifier(classifier, tmp_path / "cache")
    for computed in (12, 12, 24):
        score_or_recall({"odin": create_detector("odin")}, source, loader)
        assert source.computed == computed
        if computed == 12 and (tmp_path / "seen").exists():
            monkeypatch.setattr("oodline.evaluation.kept.code_digest", lambda: "other code")
        (tmp_path / "seen").touch()


def test_without_a_cache_nothing_is_kept(tmp_path):
    classifier, loader = toy_images(tmp_path)
    detectors = {"adascale": create_detector("adascale")}
    assert restore_fitted(detectors, classifier, loader) == {}
    assert detectors["adascale"].needs_network
    assert not (tmp_path / "cache").exists()


def test_what_cannot_be_served_is_left_out_with_its_reason_and_the_others_go_on(protocol, tmp_path):
    wanted = changed(
        protocol,
        classifier={"model": f"python:{tmp_path}/flat.py:flat", "preprocessing": {}},
        detectors=["energy", "nap", "knn,k=50", "adascale"],
    )
    (tmp_path / "flat.py").write_text(
        "from torch import nn\ndef flat():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.Linear(16, 3))\n"
    )
    run = bench(wanted, tmp_path)
    assert list(run.record.detectors) == ["energy", "adascale"]
    assert re.match("no feature map", run.record.failures["nap"])
    assert re.match(r"KNN\(k=50\) needs at least 50", run.record.failures["knn"])
    assert "- left out `nap`: no feature map" in (run.folder / "table.md").read_text()
    with pytest.raises(InputError, match=r"no detector is left:\n  knn: KNN"):
        bench(changed(wanted, detectors=["knn,k=50"]), tmp_path)
    assert read_run(tmp_path / "run").record == run.record


class Sometimes(Detector):
    """Finite scores up to a sample, NaN from there on."""

    name = "sometimes"
    needs = Needs.LOGITS
    paper = Paper("An example", "none 2000")

    def score(self, activations):
        return torch.where(activations.index < 7, 1.0, torch.nan)


def test_nan_scores_are_a_failure_of_that_detector_with_a_count(tmp_path):
    classifier, loader = toy_images(tmp_path)
    detectors = {"sometimes": Sometimes(), "energy": create_detector("energy")}
    found = score_all(detectors, classifier, loader, on_failure="skip")
    assert torch.equal(found.scores["energy"], score_all(detectors["energy"], classifier, loader).scores["energy"])
    assert list(found.scores) == list(found.seconds) == ["energy"]
    assert str(found.failures["sometimes"]) == (
        "'sometimes' gave NaN or infinite scores for 1 of 4 samples of a batch (first: sample 7 of the data set)."
    )
    sets = [
        BenchmarkSet("train", "fit", DataSection(data="x"), loader),
        BenchmarkSet("test", "id", DataSection(data="x"), loader),
    ]
    outcome = measure(detectors, CachedClassifier(classifier, tmp_path / "cache"), sets)
    assert list(outcome.detectors) == ["energy"]
    assert list(outcome.failures) == ["sometimes"]


def test_what_the_fit_warns_of_is_kept():
    classifier, [(inputs, labels)] = toy_problem()
    loader = [(inputs, torch.tensor([0, 2, 1])[labels])]
    detectors = {"mine": create_detector("nac"), "energy": create_detector("energy")}
    with pytest.warns(UserWarning, match="the order of the classes looks wrong"):
        outcome = measure(detectors, classifier, [BenchmarkSet("train", "fit", DataSection(data="x"), loader)])
    assert list(outcome.detectors) == list(detectors) and list(outcome.fit_seconds) == ["mine"]
    said = [(each.detector, each.message) for each in outcome.warnings]
    assert "no better than guessing among 3 classes" in said[0][1] and "order of the classes" in said[1][1]
    assert said[2][0] == "mine" and "alpha = 100 puts" in said[2][1]
    assert [name for name, _ in said] == [None, None, "mine"]


def test_inputs_that_cannot_be_differentiated_are_a_failure_of_those_that_must():
    classifier, loader = toy_problem()
    inputs = {"input": loader[0][0]}
    found = score_all([create_detector("odin"), create_detector("msp")], classifier, [inputs], on_failure="skip")
    assert list(found.scores) == ["msp"]
    assert "takes one tensor per batch" in str(found.failures["odin"])


def test_missing_sets_are_all_listed_with_where_to_get_them(protocol, tmp_path):
    ood = protocol.model_dump()["ood"]
    wanted = changed(
        protocol,
        ood=[*ood, {"data": "nowhere/svhn.parquet", "source": "https://example.org/svhn"}, {"data": "nowhere/dtd"}],
    )
    with pytest.raises(DataError) as error:
        bench(wanted, tmp_path)
    text = str(error.value)
    assert text.startswith("2 of 5 data sets cannot be opened:")
    assert "svhn: there is no Parquet file nowhere/svhn.parquet" in text
    assert "Get it: https://example.org/svhn" in text
    assert "dtd: there is no file or folder nowhere/dtd" in text
    assert text.endswith("Run without them: --skip-missing.")
    run = bench(wanted, tmp_path, skip_missing=True)
    assert list(run.record.missing) == ["svhn", "dtd"]
    assert run.sets("ood") == ["noise"]
    assert "- without `svhn`" in (run.folder / "table.md").read_text()


def test_a_missing_id_set_and_missing_all_ood_sets_cannot_be_skipped(protocol, tmp_path):
    for changes in ({"fit": {"data": "nowhere"}}, {"ood": [{"data": "nowhere"}]}):
        with pytest.raises(DataError, match="1 of 3 data sets cannot be opened") as error:
            bench(changed(protocol, **changes), tmp_path, skip_missing=True)
        assert "--skip-missing" not in str(error.value)


def test_missing_weights_say_where_to_get_them(protocol, tmp_path):
    classifier = {**protocol.classifier.model_dump(), "weights": "no.safetensors", "source": "https://example.org"}
    with pytest.raises(ModelError, match=r"no weight file no.safetensors.* Get it: https://example.org"):
        bench(changed(protocol, classifier=classifier), tmp_path)


def test_a_protocol_without_ood_sets_gives_scores_and_no_table(protocol, tmp_path):
    run = bench(changed(protocol, ood=[]), tmp_path)
    assert run.sets() == ["test"]
    assert run.record.metrics == []
    assert (run.folder / "table.csv").read_text() == ""


def test_limits_offsets_and_skipped_images_are_recorded(protocol, tmp_path):
    (tmp_path / "noise" / "images" / "1" / "0001.png").write_bytes(b"no image")
    ood = [{**protocol.model_dump()["ood"][0], "limit": 9, "label_offset": 2}]
    run = bench(changed(protocol, ood=ood, limit=10, on_error="skip"), tmp_path, cache=tmp_path / "cache")
    sets = {s.name: s for s in run.record.sets}
    assert (sets["train"].samples, sets["noise"].samples, sets["noise"].skipped) == (10, 8, 1)
    assert run.labels("noise").min() == 2
    assert run.record.limit == 10
    assert 4 not in run.index("noise")
    again = run_protocol(
        changed(protocol, ood=ood, limit=10, on_error="skip"), tmp_path / "b", cache=tmp_path / "cache"
    )
    assert {s.name: s.skipped for s in again.record.sets} == {"train": 0, "test": 0, "noise": 1}


def test_a_set_may_be_prepared_in_another_way(protocol, tmp_path):
    ood = [{**protocol.model_dump()["ood"][0], "preprocessing": {"mean": [0.5, 0.5, 0.5]}}]
    run, plain = bench(changed(protocol, ood=ood), tmp_path), run_protocol(protocol, tmp_path / "plain", device="cpu")
    assert not np.array_equal(run.scores("noise")["energy"], plain.scores("noise")["energy"])
    assert np.array_equal(run.scores("test")["energy"], plain.scores("test")["energy"])
    assert run.record.sets[2].preprocessing.mean == (0.5, 0.5, 0.5)


def test_a_model_that_does_not_say_how_images_are_prepared_is_warned_of(protocol, tmp_path):
    classifier = {**protocol.classifier.model_dump(), "preprocessing": None}
    with pytest.warns(UserWarning, match="does not say how images are prepared"):
        bench(changed(protocol, classifier=classifier), tmp_path)


def test_nothing_is_computed_where_the_run_could_not_be_written(protocol, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(DataError, match="other things in it"):
        run_protocol(protocol, tmp_path / "photos", cache=tmp_path / "cache", device="cpu")
    assert not (tmp_path / "cache").exists()


def test_the_record_is_plain_json_and_no_file_is_a_pickle(protocol, tmp_path):
    run = bench(protocol, tmp_path)
    document = json.loads((run.folder / "run.json").read_text())
    assert document["versions"]["torch"] == torch.__version__
    assert {p.suffix for p in run.folder.rglob("*") if p.is_file()} == {
        ".json",
        ".md",
        ".csv",
        ".safetensors",
        ".parquet",
    }


def test_two_detectors_of_one_method_fail_under_their_own_labels(protocol, tmp_path):
    run = bench(changed(protocol, detectors=["knn,k=3", "many=knn,k=40", "more=knn,k=41", "msp"]), tmp_path)
    assert list(run.record.detectors) == ["knn", "msp"]
    assert "k=40" in run.record.failures["many"]
    assert "k=41" in run.record.failures["more"]


def test_a_head_of_several_layers_is_served(protocol, tmp_path):
    (tmp_path / "deep.py").write_text(
        "from torch import nn\ndef deep():\n    return nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(),"
        " nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)))\n"
    )
    said = {"model": f"python:{tmp_path}/deep.py:deep", "preprocessing": {}, "head": "3"}
    wanted = changed(protocol, classifier=said, detectors=["energy", "dice"])
    for folder in ("one", "two"):
        run = run_protocol(wanted, tmp_path / folder, device="cpu", cache=tmp_path / "cache")
        assert run.record.classifier.num_classes == 3
        assert "several" in run.record.failures["dice"]
