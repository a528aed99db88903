"""One pass scores all, by names that are never confused, on the classifier that each was fitted on."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from oodline.data.batch import Batch
from oodline.detectors.base import Detector
from oodline.detectors.energy import Energy
from oodline.detectors.knn import KNN
from oodline.detectors.line import LINe
from oodline.detectors.mahalanobis import Mahalanobis
from oodline.detectors.msp import MSP
from oodline.detectors.named import name_detectors
from oodline.detectors.nap import NAP
from oodline.detectors.paper import Paper
from oodline.errors import HeadError, InputError, MismatchError, NotFittedError, SettingError
from oodline.model.activations import Activations, Needs
from oodline.scoring.score import check_fitted_on, score, score_all
from oodline.testing import toy_problem

CLASSIFIER, [(INPUTS, LABELS)] = toy_problem()
BATCHES = list(zip(INPUTS.split(25), LABELS.split(25), strict=True))
OTHER, _ = toy_problem(seed=1)


class Reciprocal(Detector):
    """Infinite where the first feature is zero, which is finite itself."""

    name = "reciprocal"
    paper = Paper("none", "none 2024")
    needs = Needs.FEATURES

    def score(self, activations: Activations) -> Tensor:
        return 1 / activations.features[:, 0]


def test_one_pass_gives_what_each_detector_gives_alone():
    detectors, forwards = [Energy(), MSP(), LINe().fit(CLASSIFIER, BATCHES)], []
    handle = CLASSIFIER.model.register_forward_hook(lambda *_: forwards.append(1))
    scores = score(detectors, CLASSIFIER, iter(BATCHES))
    handle.remove()
    assert len(forwards) == 3
    assert list(scores) == ["energy", "msp", "line"]
    for detector in detectors:
        alone = torch.cat([detector(CLASSIFIER(x)) for x, _ in BATCHES]).double()
        assert scores[detector.name].dtype == torch.float64
        torch.testing.assert_close(scores[detector.name], alone, rtol=0, atol=0)


def test_scores_carry_predictions_positions_and_labels():
    found = score_all(Energy(), CLASSIFIER, BATCHES)
    assert torch.equal(found.predicted, CLASSIFIER(INPUTS).logits.argmax(1))
    assert torch.equal(found.index, torch.arange(60))
    assert torch.equal(found.labels, LABELS)
    assert found.labels.dtype == torch.int64
    torch.testing.assert_close(found.scores, score(Energy(), CLASSIFIER, BATCHES), rtol=0, atol=0)


def test_positions_are_those_that_the_loader_says():
    order = torch.randperm(60)
    batches = [Batch(INPUTS[rows], LABELS[rows], rows) for rows in order.split(25)]
    shuffled = score_all(Energy(), CLASSIFIER, batches)
    assert torch.equal(shuffled.index, order)
    expected = score(Energy(), CLASSIFIER, BATCHES)["energy"]
    # A network in float32 may differ in its last digits with the place in the batch.
    torch.testing.assert_close(shuffled.scores["energy"][order.argsort()], expected, rtol=1e-4, atol=1e-4)


def test_labels_keep_their_rows_whichever_batches_have_them():
    (first, labels), *rest = BATCHES
    assert score_all(MSP(), CLASSIFIER, [first, INPUTS]).labels is None
    found = score_all(MSP(), CLASSIFIER, [(first, labels), *[x for x, _ in rest]]).labels
    assert found.tolist() == [*labels.tolist(), *[-1] * (60 - len(labels))]
    assert score_all(MSP(), CLASSIFIER, [(first, labels.int().tolist())]).labels.tolist() == labels.tolist()


def test_labels_may_lie_outside_the_classes():
    found = score_all(MSP(), CLASSIFIER, [(INPUTS, LABELS + 100)])
    assert torch.equal(found.labels, LABELS + 100)


def test_what_stands_in_place_of_labels_is_not_used():
    paths = [f"{i}.png" for i in range(60)]
    assert len(score(MSP(), CLASSIFIER, [(INPUTS, paths)])["msp"]) == 60


def test_a_mapping_names_the_columns():
    one, two = LINe(p_a=0.1, p_w=0.1).fit(CLASSIFIER, BATCHES), LINe(p_a=0.9, p_w=0.9).fit(CLASSIFIER, BATCHES)
    scores = score({"few": two, "many": one, "again": one}, CLASSIFIER, BATCHES)
    assert list(scores) == ["few", "many", "again"]
    assert torch.equal(scores["many"], scores["again"])
    assert not torch.equal(scores["few"], scores["many"])


def test_two_of_one_name_are_refused_with_the_remedy():
    sentence = r"`detectors` must have different names; got 2 that share 'energy'\. Pass a mapping: "
    for call in (name_detectors, lambda detectors: score(detectors, CLASSIFIER, BATCHES)):
        with pytest.raises(SettingError, match=sentence):
            call([Energy(), MSP(), Energy()])


def test_no_detector_is_refused():
    for nothing in ([], (), {}):
        with pytest.raises(SettingError, match="`detectors` must have at least one detector; got none"):
            name_detectors(nothing)


def test_a_detector_alone_needs_no_list():
    energy = Energy()
    assert name_detectors(energy) == name_detectors([energy]) == {"energy": energy}


def test_a_detector_fitted_on_another_head_is_refused():
    line = LINe().fit(CLASSIFIER, BATCHES)
    check_fitted_on({"mine": line, "energy": Energy()}, CLASSIFIER)
    sentence = r"'mine' was fitted on another classifier: .* 3 classes and 16 features .* Fit it again on this one\."
    with pytest.raises(MismatchError, match=sentence):
        check_fitted_on({"energy": Energy(), "mine": line}, OTHER)
    with pytest.raises(MismatchError, match="'line' was fitted on another"):
        score(line, OTHER, BATCHES)
    assert len(score(Energy(), OTHER, BATCHES)["energy"]) == 60


def test_a_changed_head_is_another_head():
    classifier, loader = toy_problem()
    detector = Mahalanobis().fit(classifier, loader)
    with torch.no_grad():
        classifier.head.weight[0, 0] += 1
    with pytest.raises(MismatchError, match="'mahalanobis' was fitted on another classifier"):
        score(detector, classifier, loader)


def test_one_that_is_not_fitted_is_refused():
    with pytest.raises(NotFittedError, match=r"KNN is not fitted\. Call KNN\.fit"):
        score([Energy(), KNN()], CLASSIFIER, BATCHES)


def test_a_score_that_is_not_finite_names_detector_and_sample():
    classifier, loader = toy_problem()
    inputs = loader[0][0]
    active = classifier(inputs).features[:, 0] > 0
    assert 0 < int(active.sum()) < 60
    first = int((~active).int().argmax())
    number = int((~active).sum())
    sentence = rf"'odd' gave NaN or infinite scores for {number} of 60 samples .*sample {first} of the data set"
    with pytest.raises(InputError, match=sentence):
        score({"odd": Reciprocal()}, classifier, [inputs])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_input_that_is_not_finite_is_refused(bad):
    inputs = INPUTS.clone()
    inputs[33] = bad
    with pytest.raises(InputError, match=r"1 of 25 rows .*sample 33 of the data set"):
        score(Energy(), CLASSIFIER, inputs.split(25))


def test_an_empty_loader_is_refused():
    with pytest.raises(InputError, match="no batch"):
        score(Energy(), CLASSIFIER, [])


def test_progress_is_shown_on_standard_error_only_when_asked_for(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # to rich, a terminal
    score(Energy(), CLASSIFIER, BATCHES)
    assert capsys.readouterr() == ("", "")
    score(Energy(), CLASSIFIER, BATCHES, progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "scoring" in captured.err


def test_what_cannot_score_is_left_out_with_its_reason():
    elsewhere, unfitted = LINe().fit(OTHER, BATCHES), KNN(k=3)
    zero = int((CLASSIFIER(INPUTS).features[:, 0] == 0).nonzero()[0])
    given = {"map": NAP(), "elsewhere": elsewhere, "knn": unfitted, "reciprocal": Reciprocal(), "energy": Energy()}
    found = score_all(given, CLASSIFIER, [INPUTS], on_failure="skip")
    assert list(found.scores) == list(found.seconds) == ["energy"]
    assert {name: type(error) for name, error in found.failures.items()} == {
        "map": HeadError,
        "elsewhere": MismatchError,
        "knn": NotFittedError,
        "reciprocal": InputError,
    }
    assert f"first: sample {zero} of the data set" in str(found.failures["reciprocal"])
    expected = score(Energy(), CLASSIFIER, [INPUTS])["energy"]
    assert torch.equal(found.scores["energy"], expected)
    with pytest.warns(UserWarning, match="^'knn' is left out: KNN is not fitted"):
        scores = score([unfitted, Energy()], CLASSIFIER, [INPUTS], on_failure="skip")
    assert list(scores) == ["energy"] and torch.equal(scores["energy"], expected)


def test_where_none_can_score_there_are_predictions_and_no_scores():
    found = score_all([NAP()], CLASSIFIER, BATCHES, on_failure="skip")
    assert (found.scores, list(found.failures)) == ({}, ["nap"])
    assert torch.equal(found.predicted, score_all(MSP(), CLASSIFIER, BATCHES).predicted)
