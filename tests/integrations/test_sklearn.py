"""`ol.OODDetector` is an outlier detector of scikit-learn, and keeps the promise of `Guard`."""

from __future__ import annotations

import pickle
import sys

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import oodline as ol
from oodline.errors import HeadError, InputError, SettingError


def features(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    return random.normal(size=(n, 6)) + 6 * np.eye(3, 6)[labels], labels


@pytest.mark.parametrize("name", ["default", "knn,k=1"])
def test_scikit_learns_own_checks_pass(name):
    # half of ten samples, which some checks have, can promise no less
    made = check_estimator(ol.OODDetector(name, false_alarm=0.4, calibration_size=0.5), on_skip=None)
    assert {check["status"] for check in made} <= {"passed", "skipped"}
    assert len(made) > 40


def test_the_scores_are_those_of_the_detector_and_the_sign_is_the_verdict():
    X, _ = features(400)
    model = ol.OODDetector("knn,k=3", false_alarm=0.1).fit(X)
    other = np.concatenate([X[:20], np.full((3, 6), -30.0)])
    expected = ol.score(model.guard_.detector, model.guard_.classifier, model.guard_.classifier.loader(other))["knn"]
    np.testing.assert_array_equal(model.score_samples(other), expected.numpy())
    verdict = model.guard_(other)
    np.testing.assert_array_equal(model.predict(other) == -1, verdict.is_ood.numpy())
    assert model.predict(other)[-3:].tolist() == [-1, -1, -1]
    assert model.offset_ == model.guard_.calibration.threshold
    assert len(model.guard_.calibration.scores) == 80


def test_the_promised_rate_holds_on_new_samples():
    rates = [
        np.mean(ol.OODDetector(false_alarm=0.1, random_state=seed).fit(features(300, seed)[0]).predict(fresh) == -1)
        for seed, fresh in enumerate([features(500, 100 + seed)[0] for seed in range(8)])
    ]
    assert 0.05 < np.mean(rates) < 0.13


def test_labels_are_read_by_those_that_read_them():
    X, labels = features(300)
    names = np.array(["cat", "dog", "emu"])[labels]
    model = ol.OODDetector("mahalanobis").fit(X, names)
    between = np.full((1, 6), 2.0)  # in the middle of the classes: far from each, near to the mean of all
    assert model.predict(between).tolist() == [-1]
    assert ol.OODDetector("mahalanobis,by=all").fit(X, names).predict(between).tolist() == [1]
    with pytest.raises(ValueError, match="label"):
        ol.OODDetector("mahalanobis").fit(X)


def test_a_head_brings_the_default_and_all_that_reads_logits():
    X, labels = features(900)
    X = np.abs(X)
    head = (np.eye(3, 6), np.zeros(3))
    model = ol.OODDetector(head=head).fit(X, labels)
    assert model.guard_.detector.name == "fuse"
    assert ol.OODDetector("energy", head=head).fit(X).predict(X[:3]).tolist() == [1, 1, 1]
    with pytest.raises(HeadError, match=r"'energy' needs logits.*features alone: conjnorm, .*knn, mahalanobis"):
        ol.OODDetector("energy").fit(X)


def test_it_goes_where_estimators_go():
    X, _ = features(240)
    detector = ol.KNN(k=2)
    model = clone(ol.OODDetector(detector)).set_params(false_alarm=0.2)
    assert model.get_params()["false_alarm"] == 0.2
    search = GridSearchCV(
        make_pipeline(StandardScaler(), model),
        {"ooddetector__detector": ["knn,k=1", "knn,k=5"]},
        scoring=lambda fitted, X, y=None: fitted.decision_function(X).mean() - fitted.decision_function(-X).mean(),
        cv=2,
        error_score="raise",
    ).fit(X)
    assert search.best_score_ > 0
    assert search.predict(-X).mean() < 0
    assert not detector.fitted
    again = pickle.loads(pickle.dumps(search.best_estimator_))
    np.testing.assert_array_equal(again.decision_function(X), search.best_estimator_.decision_function(X))


def test_too_few_samples_for_the_rate_are_refused_with_the_number():
    X, _ = make_blobs(40, random_state=0)
    with pytest.raises(SettingError, match="19"):
        ol.OODDetector().fit(X)
    for size in (0, 1.5, True, "0.2"):
        with pytest.raises(SettingError, match="`calibration_size` must be a fraction between 0 and 1, or a number"):
            ol.OODDetector(calibration_size=size).fit(X)
    for size in (40, 41, 0.999):
        with pytest.raises(SettingError, match=r"`calibration_size` must leave samples to fit on; .* of 40"):
            ol.OODDetector(calibration_size=size).fit(X)
    with pytest.raises(InputError, match="within float32; got 1e"):
        ol.OODDetector().fit(X * 0 + 1e39)
    with pytest.raises(SettingError, match=r"`detector` must be set as a whole; got 'detector__k'"):
        ol.OODDetector("knn").set_params(detector__k=7)
    with pytest.raises(SettingError, match="`detector` must be a name or a Detector; got 3"):
        ol.OODDetector(3).fit(X)


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    monkeypatch.delitem(sys.modules, "oodline.integrations.sklearn")
    with pytest.raises(ImportError, match=r"pip install 'oodline\[sklearn\]'"):
        _ = ol.OODDetector
