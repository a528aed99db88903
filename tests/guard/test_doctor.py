"""`doctor`: what it says is what a fit would show, and it never fails for a model that can be used."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

import oodline as ol
from oodline.detectors.catalog import detector_names
from oodline.errors import AssumptionWarning, HeadError, InputError
from oodline.testing import toy_loader, toy_problem


@pytest.fixture(scope="module")
def found():
    return ol.doctor(*toy_problem(), toy_loader(seed=1), false_alarm=0.01)


def test_every_detector_has_one_place(found):
    places = [*found.fits, *found.doubtful, *found.undecided, *found.unfit]
    assert sorted(places) == sorted(detector_names())


def test_it_says_what_a_fit_shows(found):
    classifier, loader = toy_problem()
    default = ol.default(classifier).fit(classifier, loader)
    assert found.default == "fuse of " + " + ".join(member.name for member in default.detectors)
    assert found.reason == default.reason and found.backbone == default.backbone
    labels = loader[0][1]
    assert found.accuracy == float((classifier(loader[0][0]).logits.argmax(1) == labels).double().mean())
    assert (found.head.name, found.head.kind) == ("2", "linear")
    with pytest.warns(AssumptionWarning, match="NAC may do worse than MSP here: alpha = 100"):
        ol.NAC().fit(classifier, loader)
    assert found.doubtful["nac"].startswith("alpha = 100 puts")
    assert "no feature map" in found.unfit["nap"]
    assert "runs the classifier again" in found.not_exportable["odin"]


def test_doubts_about_a_member_of_the_default_say_that_it_is_used_fused(found):
    name = found.members[0]
    text = " ".join(str(replace(found, doubtful={name: "too few", "nac": "too flat"})).split())
    assert f"doubtful: {name}: too few (alone; fused with others, the default uses it) nac: too flat" in text


def test_a_tiny_rate_takes_no_longer():
    assert "999999999 images or more" in str(ol.doctor(toy_problem()[0], false_alarm=1e-9).missing)


def test_it_counts_held_out_data(found):
    assert "more held-out ID data: 60 images are there, and 1 % of false alarms need 99" in found.missing
    text = " ".join(str(found).split())
    assert "head: '2', one linear layer, 3 classes x 16 features; found: W f + b are the logits" in text
    assert json.loads(json.dumps(found.to_dict()))["head"]["classes"] == 3


def test_without_data_it_says_what_data_would_show():
    bare = ol.doctor(toy_problem()[0])
    assert bare.backbone is None and bare.accuracy is None
    assert "energy" in bare.fits and bare.undecided["line"] == "data is needed to try it"
    assert "data would show" in bare.head.origin
    assert any(text.startswith("training data:") for text in bare.missing)


@pytest.mark.parametrize("labels", [None, torch.full((60,), 7)])
def test_missing_and_wrong_labels_are_no_fault_of_the_model(labels):
    classifier, [(inputs, _)] = toy_problem()
    found = ol.doctor(classifier, [(inputs,) if labels is None else (inputs, labels)])
    assert found.backbone.kind == "rectified" and found.accuracy is None
    assert "label" in found.undecided["line"] and "energy" in found.fits


def test_signed_features_are_doubted_by_methods_for_rectified_ones():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))
    found = ol.doctor(ol.Classifier(model, head="2"), toy_problem()[1])
    assert found.head.origin.startswith("named")
    assert "the features are signed" in found.doubtful["react"]
    assert found.default == "fuse of band-energy + nci"


def test_a_model_that_cannot_be_used_is_an_error():
    with pytest.raises(HeadError):
        ol.doctor(ol.Classifier(nn.Sequential(nn.Linear(4, 3), nn.ReLU())), toy_problem()[1])
    broken = toy_problem()[0]
    broken.model[0].weight.data[:] = torch.nan
    with pytest.raises(InputError, match="NaN"):
        ol.doctor(broken, toy_problem()[1])


def test_advice_to_tune_is_for_detectors_that_have_something_to_tune():
    classifier, loader = toy_problem()
    with pytest.warns(AssumptionWarning) as caught:
        ol.fit([ol.NAC(), ol.FeatureNorm(), ol.DICE()], classifier, loader)
    said = {str(each.message).split()[0]: str(each.message) for each in caught}
    assert said["NAC"].endswith("`oodline tune` finds some), or choose another method.") == bool(ol.NAC.tunable)
    assert said["FeatureNorm"].endswith("in 92%. Choose another method.")
    assert "`oodline tune`" in said["DICE"]
