"""`tune` on a network that knows eight of the digits, judged afterwards on OOD data that it never saw."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from oodline.cli.demo import demo_data, train
from oodline.detectors.ash import ASHS
from oodline.detectors.base import Detector
from oodline.detectors.dice import DICE
from oodline.detectors.knn import KNN
from oodline.detectors.line import LINe
from oodline.detectors.msp import MSP
from oodline.detectors.nap import NAP
from oodline.detectors.react import ReAct
from oodline.errors import InputError, LabelError, SettingError
from oodline.evaluation.evaluate import evaluate
from oodline.model.classifier import Classifier
from oodline.testing import toy_problem
from oodline.tuning.candidates import with_settings
from oodline.tuning.pseudo_outliers import FAR
from oodline.tuning.search import tune

SMALL = {"p_a": [0.1, 0.9], "clip": ["98%", "100%"]}


def batches(images: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(images.split(80), labels.split(80), strict=True))


@pytest.fixture(scope="module")
def digits():
    """A classifier of the digits 0 to 7; ID batches to fit on, held out, to test on; and real OOD batches."""
    torch.manual_seed(0)
    sets = {name: (images[:400], labels[:400]) for name, (images, labels) in demo_data().items()}
    classifier = Classifier(train(*demo_data()["train"], epochs=5))
    ood = {name: batches(*(part[:150] for part in sets[name])) for name in ("digits 8, 9", "photographs", "noise")}
    held_out = batches(*(part[:160] for part in sets["calibration"]))
    return classifier, batches(*sets["train"]), held_out, batches(*sets["test"]), ood


def mean_auroc(detectors: dict[str, Detector], digits) -> dict[str, float]:
    classifier, fit, _, test, ood = digits
    for detector in detectors.values():
        detector.fit(classifier, fit)
    table = evaluate(detectors, classifier, test, ood)
    return {name: table.mean(name, "auroc") for name in detectors}


@pytest.mark.parametrize("detector", [ASHS(), DICE(), ReAct()], ids=lambda d: d.name)
def test_the_choice_is_near_the_best_on_real_ood_data_that_it_never_saw(detector, digits):
    classifier, fit, held_out, _, _ = digits
    tuned = tune(detector, classifier, fit, held_out)
    every = {str(c.settings): with_settings(detector, c.settings) for c in tuned.candidates}
    real = mean_auroc(every, digits)
    chosen, values = real[str(tuned.best.settings)], sorted(real.values())
    assert chosen >= values[-1] - 0.02
    assert chosen >= values[len(values) // 2]


def test_the_result_is_the_fitted_detector_of_the_chosen_settings(digits):
    classifier, fit, held_out, test, _ = digits
    tuned = tune(LINe(p_w=0.3), classifier, fit, held_out, grid=SMALL)
    again = LINe(p_w=0.3, **tuned.best.settings).fit(classifier, fit)
    torch.testing.assert_close(tuned.detector.state_dict(), again.state_dict(), rtol=0, atol=0)
    activations = classifier(test[0][0])
    assert torch.equal(tuned.detector(activations), again(activations))
    assert tuned.reference.startswith("line,p_a=")
    assert "p_w=0.3" in tuned.reference


def test_the_criterion_is_the_area_against_every_pseudo_outlier_and_the_largest_wins(digits):
    classifier, fit, held_out, *_ = digits
    tuned = tune(LINe(clip=0.8), classifier, fit, held_out, grid=SMALL)
    assert len(tuned.candidates) == 5  # the grid, and what was given
    assert tuned.best.value == max(c.value for c in tuned.candidates)
    for candidate in tuned.candidates:
        assert {group: list(sets) for group, sets in candidate.areas.items()} == {
            "near": ["turn", "blend", "mosaic", "quadrants"],
            "far": ["magnify", "blur", "noise", "phase-scramble", "patch-shuffle"],
        }
    # the area of one set, once more by hand
    choice = LINe(**tuned.best.settings).fit(classifier, fit)
    noisy = [FAR["noise"](images, torch.Generator().manual_seed(80 * i)) for i, (images, _) in enumerate(held_out)]
    table = evaluate(choice, classifier, held_out, {"noise": noisy})
    assert table.value("line", "auroc", "noise") == pytest.approx(tuned.best.areas["far"]["noise"], abs=1e-6)


def test_a_seed_repeats_the_table_and_another_one_changes_it(digits):
    classifier, fit, held_out, *_ = digits
    one, same, other = (tune(LINe(), classifier, fit, held_out, grid=SMALL, seed=s) for s in (0, 0, 1))
    assert one.candidates == same.candidates
    assert one.candidates != other.candidates


def test_the_labels_of_held_out_images_change_nothing(digits):
    classifier, fit, held_out, *_ = digits
    scrambled = [(images, labels.flip(0)) for images, labels in held_out]
    absent = [images for images, _ in held_out]
    one, two, three = (tune(LINe(), classifier, fit, data, grid=SMALL) for data in (held_out, scrambled, absent))
    assert one.candidates == two.candidates == three.candidates


def test_no_more_than_the_limit_is_read(digits):
    classifier, fit, held_out, *_ = digits
    seen = []

    def counted():
        for images, labels in held_out:
            seen.append(len(images))
            yield images, labels

    tuned = tune(LINe(), classifier, iter(fit), counted(), grid=SMALL, limit=100)
    assert seen == [80, 80]
    assert tuned.held_out_data.samples == 100
    assert tuned.fit_data.samples == sum(len(y) for _, y in fit)


def test_every_candidate_is_fitted_from_one_pass(digits):
    classifier, fit, held_out, *_ = digits
    passes = []
    handle = classifier.model.register_forward_hook(lambda _m, inputs, _o: passes.append(len(inputs[0])))
    tune(LINe(), classifier, fit, held_out, grid=SMALL)
    handle.remove()
    assert sum(passes) == sum(len(y) for _, y in fit) + 10 * sum(len(y) for _, y in held_out)


def test_the_given_detector_is_left_as_it_was(digits):
    classifier, fit, held_out, *_ = digits
    given = ReAct(clip="90%", scorer=LINe())
    tune(given, classifier, fit, held_out, grid={"clip": ["90%", "98%"]})
    assert not given.fitted
    assert given.clip == "90%"


def test_other_pseudo_outliers_may_be_given(digits):
    classifier, fit, held_out, *_ = digits
    flip = {"mine": {"flip": lambda images, _generator: images.flip(3)}}
    tuned = tune(LINe(), classifier, fit, held_out, grid=SMALL, pseudo_outliers=flip)
    assert list(tuned.best.areas) == ["mine"]


def test_held_out_data_that_was_fitted_on_is_refused(digits):
    classifier, fit, held_out, *_ = digits
    with pytest.raises(InputError, match=r"160 of 160 held-out samples are among the fit data"):
        tune(LINe(), classifier, [*fit, *held_out], held_out, grid=SMALL)
    images, labels = held_out[0]
    few = [(images[:5], labels[:5])]  # a duplicate here and there is usual
    assert tune(LINe(), classifier, [*fit, *few], held_out, grid=SMALL).best.value > 0.5


def test_held_out_data_that_cannot_serve_is_refused(digits):
    classifier, fit, held_out, *_ = digits
    with pytest.raises(InputError, match="held-out data yielded no batch"):
        tune(LINe(), classifier, fit, [], grid=SMALL)
    with pytest.raises(InputError, match="fit data yielded no batch"):
        tune(LINe(), classifier, [], held_out, grid=SMALL)
    images = held_out[0][0][:1].expand(4, -1, -1, -1)
    with pytest.raises(InputError, match=r"takes all 4 held-out samples for one class.*shuffle"):
        tune(LINe(), classifier, fit, [images], grid=SMALL)
    with pytest.raises(InputError, match="come one per batch"):
        tune(LINe(), classifier, fit, list(held_out[0][0].split(1)), grid=SMALL)
    with pytest.raises(SettingError, match="`limit` must be an integer of at least 2; got 1"):
        tune(LINe(), classifier, fit, held_out, grid=SMALL, limit=1)


def test_a_detector_without_anything_to_tune_is_refused_before_any_pass(digits):
    with pytest.raises(SettingError, match="declares no setting to tune"):
        tune(MSP(), digits[0], iter(()), iter(()))


def test_candidates_that_cannot_be_used_say_why_and_all_failing_is_an_error(digits):
    classifier, fit, held_out, *_ = digits
    tuned = tune(KNN(k=5, bank=50), classifier, fit, held_out, grid={"k": [5, 60]})
    assert [bool(c.failure) for c in tuned.candidates] == [False, True]
    assert "`k` must be at most `bank`, 50; got 60" in tuned.candidates[1].failure
    with pytest.raises(SettingError, match=r"none of the 1 candidates .* at least 5000 training samples"):
        tune(KNN(k=5000), classifier, fit, held_out, grid={"k": [5000]})


def test_missing_labels_of_the_fit_data_are_said(digits):
    classifier, fit, held_out, *_ = digits
    with pytest.raises(LabelError, match="no labels"):
        tune(LINe(), classifier, [images for images, _ in fit], held_out, grid=SMALL)


def test_a_detector_that_reads_the_feature_map_is_tuned_on_images(digits):
    classifier, fit, held_out, *_ = digits
    tuned = tune(NAP(), classifier, fit, held_out, grid={"epsilon": [0.1, 10.0]})
    blurred = [FAR["blur"](images, torch.Generator()) for images, _ in held_out]
    by_hand = evaluate(NAP(**tuned.best.settings), classifier, held_out, {"blur": blurred}).value(
        "nap", "auroc", "blur"
    )
    assert tuned.best.areas["far"]["blur"] == pytest.approx(by_hand, abs=1e-6)


def test_inputs_that_are_no_images_have_pseudo_outliers_in_feature_space():
    classifier, [(inputs, labels)] = toy_problem()
    fit, held_out = [(inputs[:30], labels[:30])], [(inputs[30:], labels[30:])]
    made_up = ["mixed features", "uncoupled features"]
    with_labels = tune(LINe(), classifier, fit, held_out, grid=SMALL)
    assert {group: list(sets) for group, sets in with_labels.best.areas.items()} == {
        "near": [*made_up, "left-out classes"]
    }
    without = tune(LINe(), classifier, fit, [inputs[30:]], grid=SMALL)
    assert {group: list(sets) for group, sets in without.best.areas.items()} == {"near": made_up}


class Tokens(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, ids: Tensor) -> Tensor:
        return self.inner(ids.float())


def test_mappings_of_tokens_are_tuned_and_what_needs_images_is_refused():
    classifier, [(inputs, labels)] = toy_problem()
    tokens = Classifier(Tokens(classifier.model))
    ids = (100 * inputs).long()
    fit, held_out = [{"ids": ids[:30], "labels": labels[:30]}], [{"ids": ids[30:], "labels": labels[30:]}]
    assert tune(LINe(), tokens, fit, held_out, grid={"p_a": [0.1, 0.5]}).best.value > 0.5

    class Layered(LINe):
        layers = ("inner.0",)

    with pytest.raises(InputError, match="no pseudo-outliers can be made for Layered"):
        tune(Layered(), tokens, fit, held_out, grid={"p_a": [0.1, 0.5]})
