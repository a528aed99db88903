"""Fuse and its parts against slow NumPy and SciPy references."""

from __future__ import annotations

import functools
import warnings
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oodline import (
    KNN,
    MSP,
    NAP,
    Energy,
    Fuse,
    Guard,
    LayeredMahalanobis,
    LINe,
    Mahalanobis,
    RelativeMahalanobis,
    SeenDataWarning,
    ViM,
    create_detector,
    default,
)
from oodline._util.hashing import splitmix64
from oodline.detectors.base import Detector
from oodline.detectors.catalog import write_reference
from oodline.detectors.fuse import MemberLeftOutWarning
from oodline.detectors.member_rule import FEW, RECTIFIED, SIGNED, choose_members
from oodline.detectors.parts.combining import RULES, normal_quantile
from oodline.detectors.parts.p_values import log_p_values, scale_of
from oodline.errors import ArtifactError, InputError, LabelError, MismatchError, NotFittedError, SettingError
from oodline.evaluation.record import DetectorEntry
from oodline.guard.manifest import BackboneRecord
from oodline.guard.records import describe
from oodline.guard.state_checks import backbone_of, check_tensors
from oodline.model.activations import Needs
from oodline.model.classifier import Classifier
from oodline.model.head import HeadInfo
from oodline.statistics import Backbone
from oodline.testing import toy_loader, toy_problem
from oodline.testing.case import read
from oodline.tuning.candidates import with_settings

every_rule = pytest.mark.parametrize("rule", RULES)


def slow_log_p(score: float, reference: np.ndarray) -> float:
    """One p-value, from the definition: quantiles at 10 %, 15 %, ..., 90 %, straight lines, exponential tails."""
    levels = [i / 20 for i in range(2, 19)]
    knots = [np.quantile(reference, level) for level in levels]
    below, above = knots[0] - reference, reference - knots[-1]
    apart = (knots[-1] - knots[0]) / 1000
    knots = [knot + i * apart for i, knot in enumerate(knots)]
    if score < knots[0]:
        return float(np.log(0.1) - (knots[0] - score) / below[below > 0].mean())
    if score > knots[-1]:
        return float(np.log1p(-0.1 * np.exp(-(score - knots[-1]) / above[above > 0].mean())))
    return float(np.log(np.interp(score, knots, levels)))


def samples(seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """600 held-out samples."""
    parts = [toy_loader(seed=1000 * seed + part)[0] for part in range(10)]
    return [(torch.cat([inputs for inputs, _ in parts]), torch.cat([labels for _, labels in parts]))]


def slow_rule(rule: str, p: np.ndarray) -> float:
    """What each rule makes of a few p-values that are neither tiny nor next to 1."""
    if rule == "fisher":
        statistic, _ = scipy.stats.combine_pvalues(p, "fisher")
        return -statistic / 2
    if rule == "stouffer":
        statistic, _ = scipy.stats.combine_pvalues(p, "stouffer")
        return -statistic
    if rule == "harmonic":
        return float(np.log(scipy.stats.hmean(p)))
    if rule == "minimum":
        return float(np.log(p.min()))
    return float(np.log(scipy.stats.cauchy.sf(np.mean(scipy.stats.cauchy.isf(p)))))


def test_p_values_follow_their_definition():
    reference = np.random.default_rng(0).gamma(3.0, size=500)
    scores = np.concatenate([np.linspace(-3, 15, 181), reference[:20]])
    found = log_p_values(torch.tensor(scores).unsqueeze(1), scale_of(torch.tensor(reference).unsqueeze(1))).squeeze(1)
    np.testing.assert_allclose(found.numpy(), [slow_log_p(score, reference) for score in scores], rtol=1e-9)


def test_p_values_of_new_id_scores_are_uniform():
    generator = torch.Generator().manual_seed(0)
    reference, new = torch.randn(2, 4000, 1, generator=generator)
    p = log_p_values(new, scale_of(reference)).exp().flatten().numpy()
    assert scipy.stats.kstest(p, "uniform").statistic < 0.03


@given(
    reference=st.lists(st.floats(-1e4, 1e4), min_size=10, max_size=60),
    scores=st.lists(st.floats(-1e5, 1e5), min_size=2, max_size=20),
)
@settings(deadline=None)
def test_a_lower_score_never_has_a_higher_p_value(reference, scores):
    scale = scale_of(torch.tensor(reference).double().unsqueeze(1))
    log_p = log_p_values(torch.tensor(sorted(scores)).double().unsqueeze(1), scale).flatten()
    assert log_p.isfinite().all()
    assert (log_p <= 0).all()
    assert (log_p.diff() >= 0).all()


def test_order_is_kept_far_beyond_the_reference():
    scale = scale_of(torch.randn(100, 1, generator=torch.Generator().manual_seed(0)))
    scores = torch.tensor([[-1e6], [-1000.0], [-100.0], [-10.0], [-1.0], [0.0], [1.0], [2.0], [3.0], [6.0]])
    assert (log_p_values(scores, scale).flatten().diff() > 0).all()


def test_tied_reference_scores_are_no_cliff():
    scale = scale_of(torch.ones(100, 1))
    assert log_p_values(torch.tensor([[0.0], [1.0], [2.0]]), scale).isfinite().all()


@every_rule
def test_rules_against_scipy(rule):
    p = np.random.default_rng(0).uniform(0.001, 0.98, (200, 3))
    found = RULES[rule](torch.tensor(p).log())
    np.testing.assert_allclose(found.numpy(), [slow_rule(rule, row) for row in p], rtol=1e-6, atol=1e-9)


@every_rule
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_rules_keep_the_order_of_p_values_beyond_floating_numbers(rule, dtype):
    lowest = torch.tensor([-1e6, -1e4, -2000.0, -200.0, -60.0, -49.0, -21.0, -19.0, -5.0, -0.5, -0.01], dtype=dtype)
    for other in (-30.0, -0.7, -1e-6):
        scores = RULES[rule](torch.stack([lowest, torch.full_like(lowest, other)], dim=1))
        assert scores.isfinite().all()
        tied = 0 if rule != "minimum" else int((lowest > other).sum())
        assert (scores.diff() >= 0).all()
        if dtype == torch.float64:  # in float32 the harmonic mean of a tiny p-value and another is the tiny one
            assert int((scores.diff() <= 0).sum()) <= tied


@every_rule
def test_rules_do_not_mind_the_order_of_members(rule):
    log_p = -torch.rand(50, 4, generator=torch.Generator().manual_seed(0)) * 30
    torch.testing.assert_close(RULES[rule](log_p), RULES[rule](log_p[:, [2, 0, 3, 1]]))


def test_normal_quantiles_against_scipy():
    log_p = torch.tensor([[-1e5, -1000.0, -51.0, -49.0, -10.0, -1.0, -0.1, -1e-6]]).double()
    found = normal_quantile(log_p)
    np.testing.assert_allclose(scipy.stats.norm.logcdf(found.numpy()), log_p.numpy(), rtol=1e-7)


def slow_reference(make, classifier: Classifier, inputs: torch.Tensor) -> np.ndarray:
    """Score each of five folds by a detector that is fitted on the other four."""
    order = np.argsort(splitmix64(np.arange(len(inputs), dtype=np.uint64)))
    fold = torch.empty(len(inputs), dtype=torch.int64)
    fold[torch.from_numpy(order)] = torch.arange(len(inputs)) % 5
    predicted, scores = classifier(inputs).logits.argmax(1), []
    for k in range(5):
        detector = make()
        if detector.has_state:
            detector.fit(classifier, [(inputs[fold != k], predicted[fold != k])])
        scores.append(detector(read(detector, classifier, inputs[fold == k])).double().numpy())
    return np.concatenate(scores)


def layered() -> LayeredMahalanobis:
    """Of a layer whose values do not depend on one another linearly, where rounding would decide."""
    return LayeredMahalanobis(layers=("1",))


MEMBERS = (Energy, lambda: KNN(k=5), lambda: LINe(p_a=0.5, clip=9.0), layered)


@functools.cache
def slow_columns() -> list[list[float]]:
    """Log p-values of 15 new samples by each member, fused by hand; the same for every rule."""
    classifier, loader = toy_problem()
    columns, inputs = [], toy_loader(seed=1)[0][0][:15]
    for make in MEMBERS:
        alone, reference = make().fit(classifier, loader), slow_reference(make, classifier, loader[0][0])
        columns.append([slow_log_p(float(s), reference) for s in alone(read(alone, classifier, inputs)).double()])
    return columns


@every_rule
def test_fuse_against_its_definition(rule):
    classifier, loader = toy_problem()
    fuse = Fuse([make() for make in MEMBERS], rule=rule).fit(classifier, loader)
    new = read(fuse, classifier, toy_loader(seed=1)[0][0][:15])
    expected = [slow_rule(rule, np.exp(row)) for row in np.array(slow_columns()).T]
    np.testing.assert_allclose(fuse(new), expected, atol=2e-3)
    p = fuse.p_values(new)
    assert list(p) == ["energy", "knn", "line", "layered-mahalanobis"]
    np.testing.assert_allclose(np.stack([v.log() for v in p.values()]), slow_columns(), atol=2e-3)


def test_z_sum_is_a_sum_of_standardised_scores(tmp_path):
    classifier, loader = toy_problem()
    fuse = Fuse([Mahalanobis(), KNN(k=10)], rule="z-sum").fit(classifier, loader)
    fresh = [Mahalanobis, lambda: KNN(k=10)]
    new, expected = classifier(toy_loader(seed=1)[0][0]), 0.0
    for make in fresh:
        reference = slow_reference(make, classifier, loader[0][0])
        scores = make().fit(classifier, loader)(new).double().numpy()
        expected = expected + (scores - np.mean(reference)) / np.sqrt(np.mean((reference - np.mean(reference)) ** 2))
    np.testing.assert_allclose(fuse(new), expected, rtol=1e-4, atol=1e-4)
    # p-values of the members are those of any other rule
    other = Fuse([Mahalanobis(), KNN(k=10)]).fit(classifier, loader)
    assert all(torch.equal(p, other.p_values(new)[name]) for name, p in fuse.p_values(new).items())
    held_out = samples(1)
    fuse.set_reference(classifier, held_out)
    standard = [m(classifier(held_out[0][0])) for _, m in fuse.members]
    again = sum((m(new) - s.mean()) / s.std(unbiased=False) for (_, m), s in zip(fuse.members, standard, strict=True))
    torch.testing.assert_close(fuse(new).double(), again.double(), rtol=1e-4, atol=1e-4)
    guard = Guard(classifier, fuse).calibrate(toy_loader(seed=2))
    assert torch.equal(Guard.load(guard.save(tmp_path / "guard"), classifier).detector(new), fuse(new))


def test_z_sum_does_not_level_off():
    classifier, loader = toy_problem()
    fuse = Fuse([Mahalanobis(), KNN(k=10)], rule="z-sum").fit(classifier, loader)
    inputs = loader[0][0][:1]
    scores = torch.cat([fuse(classifier(size * inputs)) for size in (20.0, 200.0, 2000.0)])
    assert scores[1] < 10 * scores[0] < 0  # a squared distance grows a hundredfold
    assert scores[2] < 50 * scores[1]


def test_refer_compares_with_held_out_data():
    classifier, loader = toy_problem()
    held_out, new = samples(1), samples(2)
    fuse = Fuse([KNN(k=1), Energy()]).fit(classifier, loader)
    before = fuse.p_values(classifier(new[0][0]))["knn"]
    after = fuse.set_reference(classifier, held_out).p_values(classifier(new[0][0]))["knn"]
    # each training sample is its own nearest neighbour, so folds of them are scored by the others
    assert 0.02 < float((before < 0.1).double().mean()) < 0.25
    assert 0.05 < float((after < 0.1).double().mean()) < 0.15


def test_of_more_training_data_than_is_kept_members_score_what_is_kept():
    classifier, _ = toy_problem()
    loader = samples(1) + samples(2)
    fuse = Fuse([Energy(), layered()]).fit(classifier, loader)
    inputs = torch.cat([inputs for inputs, _ in loader])
    kept = np.argsort(splitmix64(np.arange(len(inputs), dtype=np.uint64)))[:1000]
    new, expected = read(fuse, classifier, toy_loader(seed=1)[0][0][:15]), np.zeros(15)
    for alone in (Energy(), layered().fit(classifier, loader)):
        reference = alone(read(alone, classifier, inputs[kept])).double().numpy()
        expected += [slow_log_p(float(s), reference) for s in alone(new).double()]
    np.testing.assert_allclose(fuse(new), expected, atol=2e-3)


def test_refer_takes_members_that_were_fitted_by_themselves():
    classifier, loader = toy_problem()
    members = [KNN(k=5).fit(classifier, loader), Energy()]
    with pytest.raises(NotFittedError):
        Fuse(members)(classifier(loader[0][0]))
    fuse = Fuse(members).set_reference(classifier, toy_loader(seed=1))
    together = Fuse([KNN(k=5), Energy()]).fit(classifier, loader).set_reference(classifier, toy_loader(seed=1))
    activations = classifier(toy_loader(seed=2)[0][0])
    assert torch.equal(fuse(activations), together(activations))
    assert fuse.fitted_on == together.fitted_on


def test_refer_refuses_members_of_other_classifiers_and_unfitted_ones():
    classifier, loader = toy_problem()
    other = Classifier(torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3)))
    with pytest.raises(MismatchError, match="'knn' was fitted on another classifier"):
        Fuse([Energy(), KNN(k=5).fit(other, loader)]).set_reference(classifier, loader)
    with pytest.raises(NotFittedError, match="'knn' is not fitted"):
        Fuse("energy+knn").set_reference(classifier, loader)


def test_calibrating_on_the_reference_is_noticed():
    classifier, loader = toy_problem()
    reference, held_out = toy_loader(seed=1), toy_loader(seed=2)
    fuse = Fuse("energy+line").fit(classifier, loader).set_reference(classifier, reference)
    Guard(classifier, fuse).calibrate(held_out)
    for known in (loader, reference):
        with pytest.warns(SeenDataWarning):
            Guard(classifier, fuse).calibrate(known)


@pytest.mark.parametrize("referred", [False, True], ids=["fitted", "referred"])
def test_the_promise_on_false_alarms_holds(referred):
    classifier, loader = toy_problem()
    fuse = Fuse("energy+knn:k=5+line").fit(classifier, loader)
    if referred:
        fuse.set_reference(classifier, toy_loader(seed=1))
    for rate in (0.05, 0.2):
        flagged = []
        for seed in range(2, 22, 2):
            guard = Guard(classifier, fuse).calibrate(toy_loader(seed=seed), false_alarm=rate)
            flagged.append(guard(samples(seed + 1)[0][0]).is_ood.double().mean())
        # each calibration's own rate is Beta(k, n + 1 - k) with n = 60, and 10 of them are averaged
        k = int(rate * 61)
        spread = (scipy.stats.beta(k, 61 - k).var() + rate / 600) ** 0.5 / 10**0.5
        assert abs(float(torch.stack(flagged).mean()) - k / 61) < 4 * spread


def test_a_guard_comes_back_from_its_file(tmp_path):
    classifier, loader = toy_problem()
    fuse = Fuse([LINe(clip="90%", p_a=0.5), "line", KNN(k=7)], rule="harmonic").fit(classifier, loader)
    guard = Guard(classifier, fuse).calibrate(toy_loader(seed=1))
    again = Guard.load(guard.save(tmp_path / "guard.safetensors"), classifier)
    inputs = toy_loader(seed=2)[0][0]
    assert torch.equal(again(inputs).score, guard(inputs).score)
    assert torch.equal(again(inputs).is_ood, guard(inputs).is_ood)
    assert repr(again.detector) == repr(fuse)
    assert [name for name, _ in again.detector.members] == ["line", "line-2", "knn"]


@pytest.mark.parametrize(
    ("reference", "written"),
    [
        ("fuse", "fuse"),
        ("fuse,rule=cauchy", "fuse,rule=cauchy"),
        ("fuse,detectors=energy+knn:k=5:bank=100", "fuse,detectors=energy+knn:k=5:bank=100"),
        ("fuse,detectors=react:scorer=dice+energy", "fuse,detectors=react:scorer=dice+energy"),
    ],
)
def test_references_say_members_and_their_settings(reference, written):
    detector = create_detector(reference)
    assert write_reference(detector) == written
    assert repr(create_detector(written)) == repr(detector)


class WholeLayer(Detector):
    """Reads all of a module's output."""

    name = "whole-layer"
    needs = Needs.LAYERS
    layers = ("0",)

    def score(self, activations):
        return activations.layers["0"].flatten(1).sum(1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["energy"], "at least two detectors to combine; got 1"),
        ([], "at least two detectors to combine; got 0"),
        ([Energy(), NAP()], "'nap' reads more than features and logits, and vectors of layers"),
        ([Energy(), WholeLayer()], r"'whole-layer' reads the whole output of '0'\. Let it read PooledLayer\('0'\)"),
    ],
)
def test_members_that_cannot_be_fused(given, message):
    with pytest.raises(SettingError, match=message):
        Fuse(given)


def test_too_few_reference_samples():
    classifier, [(inputs, labels)] = toy_problem()
    with pytest.raises(InputError, match="at least 10 ID samples; 9 were seen"):
        Fuse([Energy(), MSP()]).fit(classifier, [(inputs[:9], labels[:9])])


def test_a_refit_that_fails_changes_no_member():
    classifier, [(inputs, labels)] = toy_problem()
    fuse = Fuse([Energy(), KNN(k=1), Mahalanobis()]).fit(classifier, [(inputs, labels)])
    before = {name: value.clone() for name, value in fuse.state_dict().items()}
    with pytest.raises(InputError, match="at least 10 ID samples; 9 were seen"):
        fuse.fit(classifier, [(inputs[:9], labels[:9])])
    after = fuse.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_member_that_cannot_be_fitted_is_left_out_until_it_can(tmp_path):
    classifier, [(inputs, labels)] = toy_problem()
    two = labels < 2
    fuse = Fuse([Energy(), Mahalanobis(), KNN(k=5)])
    with pytest.warns(MemberLeftOutWarning, match="Fuse does without 'mahalanobis': 1 of 3 classes have no"):
        fuse.fit(classifier, [(inputs[two], labels[two])])
    alone = Fuse([Energy(), KNN(k=5)]).fit(classifier, [(inputs[two], labels[two])])
    new = classifier(toy_loader(seed=2)[0][0])
    assert torch.equal(fuse(new), alone(new))
    assert list(fuse.p_values(new)) == ["energy", "knn"]
    guard = Guard(classifier, fuse).calibrate(toy_loader(seed=1))
    again = Guard.load(guard.save(tmp_path / "guard"), classifier)
    assert again.detector.members_left_out == fuse.members_left_out
    assert torch.equal(again.detector(new), fuse(new))
    assert [d.name for d in again.detector.detectors] == ["energy", "mahalanobis", "knn"]
    again.detector.fit(classifier, [(inputs, labels)])
    assert again.detector.members_left_out == {}
    assert list(again.detector.p_values(new)) == ["energy", "mahalanobis", "knn"]


def test_a_member_that_reads_layers_goes_into_a_file_and_comes_back_when_it_can_be_fitted(tmp_path):
    classifier, [(inputs, labels)] = toy_problem()
    two = labels < 2
    fuse = Fuse("energy+knn:k=5+layered-mahalanobis")
    with pytest.warns(MemberLeftOutWarning, match="without 'layered-mahalanobis': 1 of 3 classes have no"):
        fuse.fit(classifier, [(inputs[two], labels[two])])
    fuse.fit(classifier, [(inputs, labels)])
    again = Guard.load(Guard(classifier, fuse).save(tmp_path / "guard"), classifier).detector
    new = read(again, classifier, toy_loader(seed=2)[0][0])
    assert torch.equal(again(new), fuse(new))
    assert list(again.p_values(new)) == ["energy", "knn", "layered-mahalanobis"]
    written = write_reference(fuse)
    assert written.endswith('+layered-mahalanobis:layers=["0": "1"]')
    assert torch.equal(create_detector(written).fit(classifier, [(inputs, labels)])(new), fuse(new))


def test_a_member_whose_scores_are_all_the_same_is_left_out():
    classifier, loader = toy_problem()
    constant = Energy(temperature=1e12)
    with pytest.warns(MemberLeftOutWarning, match="'energy': it gives 60 reference samples the same score"):
        fuse = Fuse([constant, MSP(), KNN(k=3)]).fit(classifier, loader)
    assert [name for name, _ in fuse.members] == ["msp", "knn"]


def test_the_last_member_is_not_left_out():
    classifier, [(inputs, labels)] = toy_problem()
    two = labels < 2
    with pytest.raises(LabelError, match="1 of 3 classes"):
        Fuse([RelativeMahalanobis(), Mahalanobis()]).fit(classifier, [(inputs[two], labels[two])])
    fuse = Fuse([Energy(), MSP()])
    with pytest.raises(SettingError, match="cannot do without all of"):
        fuse.leave_out({"energy": "", "msp": ""})
    with pytest.raises(SettingError, match="no member 'line' in use"):
        fuse.leave_out({"line": ""})


def test_candidates_do_not_share_members():
    fuse = Fuse([LINe(), KNN(k=5)])
    other = with_settings(fuse, {"rule": "minimum"})
    assert other.rule == "minimum"
    assert not {id(member) for member in fuse.detectors} & {id(member) for member in other.detectors}
    assert repr(other.detectors) == repr(fuse.detectors)


@pytest.mark.parametrize("given", [[1, 2], None, 3, ["energy", None]])
def test_what_are_no_detectors_is_refused(given):
    with pytest.raises(SettingError, match=r"`detectors` must be .*; got "):
        Fuse(given)
    with pytest.raises(SettingError, match=r"`rule` must be .*; got .'fisher'."):
        Fuse("energy+msp", rule=["fisher"])


def test_the_default_suits_the_head():
    head = torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    layered = Classifier(torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), head), head="2")
    classifier, _ = toy_problem()
    loader = [toy_loader(seed=seed)[0] for seed in range(3)]
    for one, members in (
        (classifier, ["line", "fdbd", "vim", "nci"]),
        (layered, ["line", "gen", "react", "knn"]),
    ):
        detector = default(one).fit(one, loader)
        assert [member.name for member in detector.detectors] == members
        assert detector(one(loader[0][0])).isfinite().all()


def test_members_follow_from_the_features_at_every_fit():
    torch.manual_seed(0)
    features, labels = torch.randn(300, 16) + 3 * torch.eye(16)[torch.arange(300) % 4], torch.arange(300) % 4
    classifier = Classifier(torch.nn.Sequential(torch.nn.Identity(), torch.nn.Linear(16, 4)))
    fuse = Fuse()
    assert fuse.detectors == fuse.settings["detectors"] == "auto"
    fuse.fit(classifier, [(features, labels)])
    assert [name for name, _ in fuse.members] == ["band-energy", "nci"]
    assert fuse.reason == f"features are signed, {float((features < 0).double().mean()):.0%} are negative"
    assert [each.name for each in fuse.detectors] == ["band-energy", "nci"]
    assert fuse.members_left_out == {}
    assert write_reference(fuse) == "fuse,detectors=band-energy+nci"
    fuse.fit(classifier, [(features.relu(), labels)])
    assert [name for name, _ in fuse.members] == ["line", "fdbd", "vim", "nci"]
    assert fuse.reason == "features are rectified, 0% are negative; 300 images for 16 features"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fuse.fit(classifier, [(features[:28].relu(), labels[:28])])
    assert fuse.reason == "features are rectified, 0% are negative; 28 images for 16 features"
    assert [name for name, _ in fuse.members] == ["line", "fdbd", "vim", "nci"]
    before = fuse.state_dict()
    with pytest.raises(InputError, match="at least 10 ID samples; 4 were seen"):
        fuse.fit(classifier, [(features[:4], labels[:4])])
    assert [name for name, _ in fuse.members] == ["line", "fdbd", "vim", "nci"]
    assert fuse.state_dict().keys() == before.keys()


@pytest.mark.parametrize(("images", "members"), [(999, RECTIFIED), (1000, FEW), (1199, FEW), (1200, RECTIFIED)])
def test_few_images_for_many_features_change_the_members(images, members):
    backbone = Backbone(600, 10, images, images / 10, 0.1, 0.0, 0.1, 20.0, "linear")
    assert choose_members(backbone).members == members
    assert choose_members(replace(backbone, negatives=0.5)).members == SIGNED


def test_a_file_holds_the_members_that_were_chosen_and_why(tmp_path):
    classifier, loader = toy_problem()
    guard = Guard(classifier, Fuse().fit(classifier, loader)).calibrate(toy_loader(seed=1))
    guard.save(tmp_path / "guard.safetensors")
    again = Guard.load(tmp_path / "guard.safetensors", classifier)
    assert [name for name, _ in again.detector.members] == ["line", "fdbd", "vim", "nci"]
    assert again.detector.reason == "features are rectified, 0% are negative; 60 images for 16 features"
    assert again.detector.backbone == guard.detector.backbone
    assert (again.detector.backbone.samples, again.detector.backbone.head) == (60, "linear")


def test_a_member_that_has_too_little_data_to_mean_much_is_left_out_until_there_is_more():
    torch.manual_seed(0)
    classifier = Classifier(torch.nn.Sequential(torch.nn.Linear(24, 24), torch.nn.ReLU(), torch.nn.Linear(24, 10)))
    images, labels = torch.randn(200, 24), torch.arange(200) % 10
    fuse, alone = Fuse("energy+gen+vim"), ViM()
    with pytest.warns(
        MemberLeftOutWarning, match=r"without 'vim': 32 samples support 8 .* 10 classes alone span 9\. Fit"
    ):
        fuse.fit(classifier, [(images[:32], labels[:32])])
    assert list(fuse.members_left_out) == ["vim"]
    assert [name for name, _ in fuse.members] == ["energy", "gen"]
    assert alone.fit(classifier, [(images[:32], labels[:32])])(classifier(images)).isfinite().all()
    fuse.fit(classifier, [(images[:36], labels[:36])])
    assert fuse.members_left_out == {}
    assert alone.fit(classifier, [(images, labels)]).unreliable == ""
    stated = Fuse("energy+vim:dimension=3").fit(classifier, [(images[:32], labels[:32])])
    assert stated.members_left_out == {}  # who states a dimension knows


def test_a_member_left_out_of_a_fitted_one_takes_its_reference_along(tmp_path):
    classifier, loader = toy_problem()
    fuse = Fuse("energy+knn:k=5+fdbd").fit(classifier, loader)
    fuse.leave_out({"knn": "slow"})
    activations = classifier(loader[0][0])
    torch.testing.assert_close(fuse(activations), Fuse("energy+fdbd").fit(classifier, loader)(activations))
    Guard(classifier, fuse).save(tmp_path / "guard.safetensors")
    again = Guard.load(tmp_path / "guard.safetensors", classifier).detector
    torch.testing.assert_close(again(activations), fuse(activations))


def test_what_a_file_says_of_the_choice_is_gone_when_it_is_fitted_again(tmp_path):
    classifier, loader = toy_problem()
    Guard(classifier, Fuse().fit(classifier, loader)).save(tmp_path / "guard.safetensors")
    detector = Guard.load(tmp_path / "guard.safetensors", classifier).detector
    assert detector.reason
    assert detector.fit(classifier, loader).reason == ""
    assert [name for name, _ in detector.members] == ["line", "fdbd", "vim", "nci"]


def test_a_fit_that_fails_leaves_what_is_known_of_the_network():
    classifier, loader = toy_problem()
    fuse = Fuse().fit(classifier, loader)
    known = fuse.backbone
    for few in (1, 5):
        with pytest.raises(InputError, match=f"at least 10 ID samples; {few} were seen"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fuse.fit(classifier, [(loader[0][0][:few], loader[0][1][:few])])
    assert fuse.backbone == known


def test_a_run_records_what_a_file_says_of_the_choice():
    classifier, loader = toy_problem()
    record = describe(Fuse().fit(classifier, loader)).model_dump(exclude_defaults=True)
    assert DetectorEntry(**record, state_bytes=0).reason == record["reason"]


def test_a_description_of_another_network_and_a_state_of_nan_are_refused():
    classifier, loader = toy_problem()
    detector = Fuse().fit(classifier, loader)
    head = HeadInfo.of(classifier.head)
    record = BackboneRecord(**{**vars(detector.backbone), "features": 8})
    with pytest.raises(ArtifactError, match="has 8 features and 3 classes, and the head 16 and 3"):
        backbone_of(record, head)
    detector.scale[0, 0] = float("nan")
    with pytest.raises(ArtifactError, match="'scale' of 'fuse' holds NaN"):
        check_tensors("fuse", detector, head)
