"""One pass fits all; what goes wrong is said; nothing is changed by a pass that does not end."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from oodline.data.batch import Batch
from oodline.detectors.base import Detector
from oodline.detectors.dice import DICE
from oodline.detectors.energy import Energy
from oodline.detectors.fit import fit
from oodline.detectors.kl_matching import KLMatching
from oodline.detectors.knn import KNN
from oodline.detectors.line import LINe
from oodline.detectors.mahalanobis import Mahalanobis
from oodline.detectors.msp import MSP
from oodline.detectors.nap import NAP
from oodline.detectors.odin import ODIN
from oodline.detectors.react import ReAct
from oodline.errors import HeadError, InputError, LabelError, SettingError
from oodline.model.classifier import Classifier
from oodline.passes.fit_result import FitError
from oodline.passes.training_accuracy import TrainingAccuracy
from oodline.statistics import Statistic
from oodline.testing import toy_problem

CLASSIFIER, [(INPUTS, LABELS)] = toy_problem()
BATCHES = list(zip(INPUTS.split(25), LABELS.split(25), strict=True))


def detectors() -> list[Detector]:
    return [LINe(), Mahalanobis(), KNN(k=3), KLMatching(), DICE(), ReAct(), Energy()]


def counted(batches: list[tuple[Tensor, Tensor]], seen: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in batches:
        seen.append(len(batch[0]))
        yield batch


def same(one: Detector, other: Detector) -> None:
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)
    assert one.fitted and other.fitted


def test_one_pass_over_a_generator_fits_all_as_each_alone():
    together, seen, forwards = detectors(), [], []
    handle = CLASSIFIER.model.register_forward_hook(lambda *_: forwards.append(1))
    fit(together, CLASSIFIER, counted(BATCHES, seen))
    handle.remove()
    assert seen == [25, 25, 10]
    assert len(forwards) == 3
    for one, alone in zip(together, detectors(), strict=True):
        same(one, alone.fit(CLASSIFIER, BATCHES))


def test_equal_statistics_are_shared_and_different_ones_are_not():
    class Spy(KNN):
        def estimate(self, head, bank):
            self.used: Statistic = bank
            super().estimate(head, bank)

    one, two, other = Spy(k=1), Spy(k=2), Spy(k=1, bank=30)
    fit({"one": one, "two": two, "other": other}, CLASSIFIER, BATCHES)
    assert one.used is two.used
    assert one.used is not other.used


def test_detectors_that_need_no_data_make_no_pass():
    seen: list[int] = []
    fit([Energy(), MSP()], CLASSIFIER, counted(BATCHES, seen))
    with pytest.raises(SettingError, match="`detectors` must have at least one detector; got none"):
        fit([], CLASSIFIER, counted(BATCHES, seen))
    assert seen == []


def test_a_detector_may_come_alone():
    line, other = LINe(), LINe()
    fit(line, CLASSIFIER, BATCHES)
    fit([other], CLASSIFIER, BATCHES)
    same(line, other)


def test_a_detector_given_twice_is_fitted_once():
    detector = LINe()
    fit([detector, detector], CLASSIFIER, BATCHES)
    same(detector, LINe().fit(CLASSIFIER, BATCHES))


class Keyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = CLASSIFIER.model

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        return {"logits": self.inner(pixels)}


@pytest.mark.parametrize("key", ["label", "labels"])
def test_batches_may_be_mappings(key):
    detector = Mahalanobis().fit(Classifier(Keyword()), [{"pixels": x, key: y} for x, y in BATCHES])
    same(detector, Mahalanobis().fit(CLASSIFIER, BATCHES))


def test_batches_may_be_lists_records_or_carry_plain_labels():
    expected = Mahalanobis().fit(CLASSIFIER, BATCHES)
    for loader in (
        [[x, y, "more"] for x, y in BATCHES],
        [(x, y.tolist()) for x, y in BATCHES],
        [Batch(x, y, torch.arange(len(x))) for x, y in BATCHES],
    ):
        same(Mahalanobis().fit(CLASSIFIER, loader), expected)


def test_a_fit_error_names_each_detector_that_failed_and_why():
    line, mahalanobis, knn, energy = all_four = [LINe(), Mahalanobis(), KNN(k=3), Energy()]
    with pytest.raises(FitError, match=r"^fitting failed for 2 of 4 detectors:\n  line: ") as caught:
        fit(all_four, CLASSIFIER, [(INPUTS, LABELS % 2)])
    assert list(caught.value.failures) == ["line", "mahalanobis"]
    assert all(isinstance(error, LabelError) for error in caught.value.failures.values())
    assert "  mahalanobis: 1 of 3 classes" in str(caught.value)
    assert str(caught.value).endswith("\nThe others are fitted: knn, energy.")
    assert caught.value.fitted == ("knn", "energy")
    assert [d.fitted for d in (line, mahalanobis, knn, energy)] == [False, False, True, True]


def test_a_fit_error_has_the_names_that_were_given():
    detectors = {"few": LINe(p_a=0.1), "many": LINe(p_a=0.9), "knn": KNN(k=3)}
    with pytest.raises(FitError) as caught:
        fit(detectors, CLASSIFIER, [(INPUTS, LABELS % 2)])
    assert (list(caught.value.failures), caught.value.fitted) == (["few", "many"], ("knn",))


def test_a_fit_error_of_all_detectors_says_nothing_of_others():
    with pytest.raises(FitError, match=r"^fitting failed for all 2 detectors:\n  line: ") as caught:
        fit([LINe(), Mahalanobis()], CLASSIFIER, [(INPUTS, LABELS % 2)])
    assert caught.value.fitted == () and "others" not in str(caught.value)


def test_the_error_of_a_single_detector_is_its_own():
    with pytest.raises(LabelError, match=r"1 of 3 classes .*: 2\."):
        fit([LINe()], CLASSIFIER, [(INPUTS, LABELS % 2)])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_value_that_is_not_finite_stops_the_fit_and_names_the_sample(bad):
    inputs = INPUTS.clone()
    inputs[[31, 40], 1] = bad
    old = LINe().fit(CLASSIFIER, BATCHES)
    before = {name: value.clone() for name, value in old.state_dict().items()}
    fresh = Mahalanobis()
    with pytest.raises(InputError, match=r"2 of 25 rows .*sample 31 of the data set"):
        fit([old, fresh], CLASSIFIER, list(zip(inputs.split(25), LABELS.split(25), strict=True)))
    assert not fresh.fitted
    torch.testing.assert_close(dict(old.state_dict()), before, rtol=0, atol=0)


def test_an_empty_loader_is_refused():
    used_up = iter(BATCHES)
    list(used_up)
    for loader in ([], used_up):
        with pytest.raises(InputError, match=r"no batch\. .*a generator that was already used up"):
            fit(detectors(), CLASSIFIER, loader)


def test_labels_are_asked_for_only_by_those_that_read_them():
    fit([KNN(k=3), KLMatching()], CLASSIFIER, [x for x, _ in BATCHES])
    with pytest.raises(LabelError, match=r"no labels; yield \(inputs, labels\)"):
        fit([KNN(k=3), LINe()], CLASSIFIER, [x for x, _ in BATCHES])


def test_a_head_of_several_layers_is_refused_before_the_pass():
    seen: list[int] = []
    model = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)))
    with pytest.raises(HeadError, match="DICE needs one linear layer"):
        fit([DICE()], Classifier(model, head="1"), counted(BATCHES, seen))
    assert seen == []


@pytest.mark.parametrize("loader", [BATCHES, (batch for batch in BATCHES)], ids=["list", "generator"])
def test_progress_is_shown_on_standard_error(loader, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # to rich, a terminal
    fit([LINe()], CLASSIFIER, loader, progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "fitting" in captured.err


def test_nothing_is_printed_without_progress(capsys):
    fit(detectors(), CLASSIFIER, BATCHES)
    assert capsys.readouterr() == ("", "")


def test_what_cannot_be_fitted_is_skipped_with_its_reason():
    detectors = {"few": LINe(p_a=0.1), "map": NAP(), "knn": KNN(k=3), "energy": Energy()}
    result = fit(detectors, CLASSIFIER, [(INPUTS, LABELS % 2)], on_failure="skip")
    assert result.detectors == {"knn": detectors["knn"], "energy": detectors["energy"]}
    assert {name: type(error) for name, error in result.failures.items()} == {"map": HeadError, "few": LabelError}
    assert str(result.failures["map"]).startswith("no feature map (N, K, H, W) was found")
    assert list(result.seconds) == ["knn", "energy"] and min(result.seconds.values()) >= 0
    same(detectors["knn"], KNN(k=3).fit(CLASSIFIER, BATCHES))


def test_where_all_are_skipped_none_is_fitted_and_no_pass_is_made_for_what_goes_along():
    seen = []

    def batches():
        for batch in BATCHES:
            seen.append(batch)
            yield batch

    class Loader:
        def __iter__(self):
            return batches()

    accuracy = TrainingAccuracy()
    result = fit([NAP(), accuracy], CLASSIFIER, Loader(), on_failure="skip")
    assert (result.detectors, list(result.failures), result.seconds) == ({}, ["nap"], {})
    assert len(seen) == 1 and accuracy.value is None


def test_an_iterator_loses_no_batch_to_the_trial():
    skipped = fit({"line": LINe(), "odin": ODIN()}, CLASSIFIER, iter(BATCHES), on_failure="skip").detectors["line"]
    same(skipped, LINe().fit(CLASSIFIER, BATCHES))


def test_nan_activations_are_raised_also_where_failures_are_skipped():
    with pytest.raises(InputError, match="sample 0 of the data set"):
        fit([LINe(), KNN(k=3)], CLASSIFIER, [(torch.full_like(INPUTS, math.nan), LABELS)], on_failure="skip")
