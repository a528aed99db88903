"""The parts of a search: combinations, folds of classes, made-up features, trials, and what was touched."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Generator, nn

from oodline.detectors.catalog import CATALOG, create_detector, detector_class, write_reference
from oodline.detectors.energy import Energy
from oodline.detectors.knn import KNN
from oodline.detectors.line import LINe
from oodline.detectors.msp import MSP
from oodline.detectors.react import ReAct
from oodline.errors import InputError, SettingError, UnknownNameError
from oodline.evaluation.metrics import auroc
from oodline.model.activations import Activations, Needs
from oodline.model.classifier import Classifier
from oodline.model.head import LinearHead
from oodline.testing import activations_of, toy_problem
from oodline.tuning.candidates import Candidate, best, combinations, with_settings
from oodline.tuning.data_fingerprint import Fingerprinter
from oodline.tuning.feature_space import mix, uncouple
from oodline.tuning.leave_classes_out import Fold, folds
from oodline.tuning.trial import CHUNK, Trial, concatenate

TUNABLE = [name for name in CATALOG if detector_class(name).tunable]


def drawn(n: int, classes: int = 4, width: int = 6) -> Activations:
    generator = Generator().manual_seed(n)
    head = LinearHead(torch.randn(classes, width, generator=generator), torch.randn(classes, generator=generator))
    return activations_of(torch.rand(n, width, generator=generator), head)


@pytest.mark.parametrize("name", TUNABLE)
def test_every_declared_value_builds_a_detector(name):
    detector = create_detector(name)
    for choice in combinations(detector):
        changed = with_settings(detector, choice)
        assert {key: changed.settings[key] for key in choice} == choice


@pytest.mark.parametrize("name", TUNABLE)
def test_a_written_reference_builds_the_same_detector(name):
    detector = create_detector(name)
    for choice in combinations(detector)[:20]:
        changed = with_settings(detector, choice)
        again = create_detector(write_reference(changed, also=tuple(choice)))
        assert repr(again) == repr(changed)


def test_a_reference_names_a_member_and_refuses_one_with_settings_of_its_own():
    assert write_reference(ReAct(scorer=MSP())) == "react,scorer=msp"
    with pytest.raises(SettingError, match="settings of its own"):
        write_reference(ReAct(scorer=Energy(temperature=2.0)))


def test_combinations_begin_with_what_was_given_and_hold_each_once():
    detector = LINe(p_a=0.5, p_w=0.3)
    found = combinations(detector, {"p_a": [0.1, 0.5], "p_w": [0.3]})
    assert found == [{"p_a": 0.5, "p_w": 0.3}, {"p_a": 0.1, "p_w": 0.3}]


def test_a_copy_with_other_settings_shares_no_member():
    given = ReAct(scorer=LINe())
    copy = with_settings(given, {"clip": 1.0})
    assert copy.scorer is not given.scorer
    assert (copy.clip, given.clip) == (1.0, "98%")


@pytest.mark.parametrize("grid", [{}, {"p_a": []}])
def test_an_empty_grid_is_refused(grid):
    with pytest.raises(SettingError, match="offers no value to try"):
        combinations(LINe(), grid)


def test_a_detector_with_nothing_to_tune_and_an_unknown_setting_are_refused():
    with pytest.raises(SettingError, match="MSP declares no setting to tune"):
        combinations(MSP())
    with pytest.raises(UnknownNameError, match=r"setting of LINe 'p_b'. Did you mean 'p_[aw]'"):
        combinations(LINe(), {"p_b": [0.1]})


def test_groups_count_the_same_whatever_their_size():
    many = {f"n{i}": 0.5 for i in range(9)}
    assert Candidate({}, {"near": many, "far": {"one": 1.0}}).value == 0.75


def test_the_best_is_the_first_of_the_largest_and_never_one_that_failed():
    low, high, same = (Candidate({"k": k}, {"near": {"a": v}}) for k, v in ((1, 0.5), (2, 0.9), (3, 0.9)))
    assert best([Candidate({"k": 0}, failure="no"), low, high, same]) is high
    with pytest.raises(SettingError, match="none of the 1 candidates could be used; the first: no"):
        best([Candidate({"k": 0}, failure="no")])


def test_folds_leave_each_class_out_once_and_repeat_by_seed():
    for classes in (3, 10, 101):
        left_out = torch.stack([~fold.kept for fold in folds(classes, seed=1)])
        assert torch.equal(left_out.sum(0), torch.ones(classes, dtype=torch.int64))
        assert int(left_out.sum(1).max()) <= classes - 2
    assert torch.equal(folds(10, seed=1)[0].kept, folds(10, seed=1)[0].kept)
    assert not all(torch.equal(a.kept, b.kept) for a, b in zip(folds(10, 1), folds(10, 2), strict=True))


def test_a_fold_gives_the_logits_of_the_head_that_is_left():
    whole, labels = drawn(12), torch.arange(12) % 4
    fold = Fold(torch.tensor([True, False, True, True]))
    inside, renumbered = fold.inside(whole, labels)
    outside = fold.outside(whole, labels)
    assert inside.index.tolist() == [i for i in range(12) if i % 4 != 1]
    assert renumbered.tolist() == [0, 1, 2] * 3
    assert outside.index.tolist() == [1, 5, 9]
    for part in (inside, outside):
        torch.testing.assert_close(part.logits, part.head(part.features))
        assert part.head.num_classes == 3


def test_mixed_features_are_the_mean_with_a_sample_of_another_class():
    whole = drawn(40)
    made = mix(whole, Generator().manual_seed(0))
    assert torch.equal(made.features, mix(whole, Generator().manual_seed(0)).features)
    torch.testing.assert_close(made.logits, whole.head(made.features))
    partners = 2 * made.features - whole.features
    distance, source = torch.cdist(partners, whole.features).min(1)
    assert float(distance.max()) < 1e-3
    predicted = whole.logits.argmax(1)
    assert bool((predicted[source] != predicted).all())


def test_uncoupled_features_keep_each_column_and_no_row():
    whole = drawn(40)
    made = uncouple(whole, Generator().manual_seed(0))
    assert torch.equal(made.features.sort(0).values, whole.features.sort(0).values)
    assert float(torch.cdist(made.features, whole.features).min()) > 0
    torch.testing.assert_close(made.logits, whole.head(made.features))


def test_samples_of_one_class_cannot_be_mixed():
    with pytest.raises(InputError, match="takes all 3 held-out samples for class 0"):
        mix(activations_of(torch.tensor([[1.0, 0.0]]).expand(3, 2)), Generator())


def test_a_trial_gives_scores_in_the_order_of_the_samples_and_areas_from_them():
    ids, far = drawn(CHUNK + 100), drawn(CHUNK + 100)
    far = far.replace(features=far.features / 2, logits=far.logits / 2)
    own, others = Trial(ids, {"far": far}).scores(Energy())
    torch.testing.assert_close(own, Energy()(ids).double())
    torch.testing.assert_close(others["far"], Energy()(far).double())
    area = auroc(own.numpy(), others["far"].numpy())
    assert Trial(ids, {"far": far}).areas(Energy()) == {"far": area}


def test_a_trial_refuses_scores_that_are_not_finite():
    class Broken(Energy):
        def score(self, activations):
            return super().score(activations) * float("nan")

    with pytest.raises(InputError, match="6 of 6 scores are NaN"):
        Trial(drawn(4), {"far": drawn(2)}).areas(Broken())


def test_joined_records_give_back_their_parts_with_maps_layers_and_inputs():
    model = nn.Sequential(
        nn.Conv2d(1, 5, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3)
    )
    classifier, images = Classifier(model), torch.rand(7, 1, 6, 6)
    asked = {"needs": Needs.FEATURE_MAP | Needs.INPUTS, "layers": ("1",)}
    parts = [classifier(images[:4], **asked), classifier(images[4:], **asked)]
    whole = concatenate(parts)
    last = whole.take(torch.tensor([6, 4]))
    for of in (lambda a: a.features, lambda a: a.feature_map, lambda a: a.layers["1"], lambda a: a.inputs):
        assert torch.equal(of(last), of(parts[1])[[2, 0]])
    assert len(whole) == 7


def test_a_witness_knows_samples_again_in_other_batches_and_with_other_padding():
    witness = Fingerprinter()
    witness.see({"ids": torch.tensor([[5, 6, 0], [7, 8, 9]])})
    assert witness.shared({"ids": torch.tensor([[5, 6], [7, 8]])}) == 1
    images, other = torch.rand(3, 3, 40, 40), Fingerprinter()
    other.see(images)
    changed = images.clone()
    changed[1] += 1e-3
    assert other.shared(changed) == 2
    assert (other.touched.samples, len(other.touched.sha256)) == (3, 64)


def test_a_witness_that_need_not_remember_still_takes_the_fingerprint():
    one, two = Fingerprinter(), Fingerprinter()
    images = torch.rand(4, 5)
    one.see(images)
    two.see(images, remember=False)
    assert one.touched == two.touched
    assert (one.shared(images), two.shared(images)) == (4, 0)


def test_line_from_shared_statistics_equals_line_fitted_alone():
    classifier, loader = toy_problem()
    settings = [
        {"p_a": a, "p_w": w, "clip": 1.0, "contribution": c}
        for a in (0.1, 0.6)
        for w in (0.1, 0.7)
        for c in ("signed", "absolute")
    ]
    head = classifier.head
    request = LINe(clip=1.0)._requests(head)
    for activations, labels in classifier.stream(loader):
        request["moments"].update(activations, labels)
    for setting in settings:
        shared = LINe(**setting)
        shared._settle(request, head)
        alone = LINe(**setting).fit(classifier, loader)
        np.testing.assert_array_equal(shared.threshold.numpy(), alone.threshold.numpy())


def test_line_forgets_what_it_sorted_when_the_statistic_goes_on():
    classifier, [(inputs, labels)] = toy_problem()
    head, both = classifier.head, LINe(p_a=0.5, clip=1.0)._requests(classifier.head)
    both["moments"].update(classifier(inputs[:30]), labels[:30])
    LINe(p_a=0.5, clip=1.0)._settle(both, head)
    both["moments"].update(classifier(inputs[30:]), labels[30:])
    after = LINe(p_a=0.5, clip=1.0)
    after._settle(both, head)
    alone = LINe(p_a=0.5, clip=1.0).fit(classifier, [(inputs[:30], labels[:30]), (inputs[30:], labels[30:])])
    torch.testing.assert_close(after.threshold, alone.threshold)


def test_neighbours_may_be_tuned_beyond_a_small_bank_only_as_failures():
    found = combinations(KNN(k=3, bank=10), {"k": [3, 100]})
    with pytest.raises(SettingError, match="`k` must be at most `bank`, 10; got 100"):
        with_settings(KNN(k=3, bank=10), found[1])
