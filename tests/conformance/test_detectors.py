"""One suite for every detector: whatever is in the catalogue is held to the contract of `oodline.detectors.base`."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oodline.data.batch import Batch
from oodline.detectors.base import Detector
from oodline.detectors.catalog import CATALOG, create_detector, detector_class
from oodline.detectors.fit import fit
from oodline.detectors.paper import Paper
from oodline.errors import (
    InputError,
    LabelError,
    OodlineError,
    SettingError,
    UnknownNameError,
)
from oodline.guard.guard import Guard
from oodline.model.activations import Needs
from oodline.model.classifier import Classifier
from oodline.passes.fit_result import FitError
from oodline.scoring.score import score
from oodline.statistics import ClassMoments, Statistic
from oodline.testing import rules
from oodline.testing.case import Case, read, requested
from oodline.testing.problem import (
    CLASSES,
    HELD_OUT,
    IMAGES,
    LABELS,
    WIDTH,
    batches,
    in_distribution,
    make_classifier,
    without_evidence,
)
from oodline.testing.rules import RULES

FOLDER = tempfile.TemporaryDirectory()
"""Holds the words of NegLabel, which has no use without; removed at the end."""
WORDS = Path(FOLDER.name) / "words.npy"
np.save(WORDS, np.random.default_rng(0).normal(size=(40, WIDTH)))

COMPOSED = [
    "react,scorer=dice",
    "react,scorer=line",
    "react,scorer=mahalanobis",
    "dice,scorer=msp",
    "ash-s,scorer=max-logit",
    "knn,index=faiss-flat",
    "nap-combined,scorer=feature-norm",
    "fuse,detectors=energy+knn+line:p_a=0.5:clip=0.8+line:clip=0.8,rule=harmonic",
    "fuse,detectors=layered-mahalanobis+knn:k=10,rule=z-sum",
    'nac,layers={"0":[1.0,20,20]}',
]
LIGHTER = {
    "corp": "corp,size=64",
    "weiper-msp": "weiper-msp,repeats=10",
    "weiper-kld": "weiper-kld,repeats=10",
    "neglabel": f"neglabel,words={WORDS}",
}
"""Settings that show the same in less time: CoRP decomposes a matrix of 2048 x 2048, WeiPer draws a hundred heads."""
SERVED = [name for name in CATALOG if Needs.OBSERVED not in detector_class(name).needs]
"""Without those of language models, which `tests/detectors/test_nll.py` holds to the contract."""
REFERENCES = [*(LIGHTER.get(name, name) for name in SERVED), *COMPOSED]
ELSEWHERE = (rules.survives_a_file, rules.its_graph_gives_its_scores_or_it_says_why_there_is_none)
"""Rules that not every reference needs to be held to: of files see `tests/guard/test_guard.py`."""

every_detector = pytest.mark.parametrize("name", SERVED)
every_reference = pytest.mark.parametrize("reference", REFERENCES)


@functools.cache
def case_of(reference: str) -> Case:
    """The detector to check; it is fitted when it is first asked for."""
    return Case(lambda: create_detector(reference))


def fitted(reference: str) -> tuple[Detector, Classifier]:
    """A copy of the fitted detector, and a copy of its classifier."""
    return case_of(reference).fitted()


def statistics_of(reference: str) -> list[Statistic]:
    return list(requested(create_detector(reference), make_classifier()).values())


def grouped_by_label(reference: str) -> bool:
    return any(
        getattr(source, "by", None) in ("label", "correct")
        for statistic in statistics_of(reference)
        for source in (statistic, getattr(statistic, "moments", None))
    )


def needs_every_class(reference: str) -> bool:
    """A sample with labels may do without a class, and a fusion without a member; means by class may not."""
    return not reference.startswith("fuse") and any(
        getattr(moments, "by", None) in ("label", "correct")
        for statistic in statistics_of(reference)
        for moments in (statistic, getattr(statistic, "moments", None))
        if isinstance(moments, ClassMoments)
    )


def runs_again(reference: str) -> bool:
    """Whether it runs the classifier for itself."""
    return Needs.CLASSIFIER in create_detector(reference).all_needs


OURS = ("band-energy",)
"""Detectors without a paper."""


SEES_PLACES = ("map-agreement",)
"""What compares places alone: neurons of the toy problem have none of their own. See `tests/explain/test_maps.py`."""


def same_tensors(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def same_state(one: Detector, other: Detector) -> None:
    same_tensors(one.state_dict(), other.state_dict())


@every_detector
def test_traits_are_declared(name):
    cls = detector_class(name)
    assert cls.name == name
    assert isinstance(cls.needs, Needs) and cls.needs
    if name not in OURS:
        assert isinstance(cls.paper, Paper)
        assert cls.paper.title.strip()  # as short as authors like: "ViM", "GEN"
        assert cls.paper.venue.rsplit(maxsplit=1)[-1].isdigit()  # venue and year
    assert "Higher = more in-distribution" in " ".join(cls.__doc__.split())


@every_reference
@pytest.mark.parametrize("rule", [rule for rule in RULES if rule not in ELSEWHERE], ids=lambda rule: rule.__name__)
def test_it_keeps_the_rule(reference, rule):
    if reference in SEES_PLACES and rule is rules.in_distribution_scores_higher:
        return
    rule(case_of(reference))


@pytest.mark.parametrize(
    "reference",
    [*(LIGHTER.get(n, n) for n in SERVED), "react,scorer=line", "ash-s,scorer=max-logit"],
)
def test_its_graph_gives_its_scores_or_it_says_why_there_is_none(reference):
    rules.its_graph_gives_its_scores_or_it_says_why_there_is_none(case_of(reference))
    why = create_detector(reference).why_not_exportable
    assert not why or len(why.split()) > 8


def converted(dtype: torch.dtype) -> Classifier:
    classifier = make_classifier()
    classifier.model.to(dtype)
    return classifier


@every_reference
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_a_classifier_in_another_precision(reference, dtype):
    detector, classifier = fitted(reference)
    other = converted(dtype)
    again = create_detector(reference).fit(other, batches())
    close_to(again(read(again, other, HELD_OUT)), detector(read(detector, classifier, HELD_OUT)), dtype)


@every_reference
def test_under_autocast(reference):
    detector, classifier = fitted(reference)
    with torch.autocast("cpu", torch.bfloat16):
        again = create_detector(reference).fit(classifier, batches())
        scores = again(read(again, classifier, HELD_OUT))
    close_to(scores, detector(read(detector, classifier, HELD_OUT)), torch.bfloat16)


def close_to(scores: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert scores.dtype in (torch.float32, torch.float64)
    assert scores.isfinite().all()
    error = (scores - expected).abs() / expected.abs().max()
    assert error.median() < max(5e-6, 16 * torch.finfo(dtype).eps)
    # a mask, a bin or a rank may flip where two values round to the same one
    assert error.quantile(0.9) < max(1e-5, 64 * torch.finfo(dtype).eps)
    assert error.max() < max(1e-3, 64 * torch.finfo(dtype).eps)


@every_reference
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_counted(reference, value):
    detector, classifier = fitted(reference)
    images = IMAGES.clone()
    images[[11, 40], 3] = value
    with pytest.raises(InputError, match=r"2 of 60 .*sample 11 "):
        score(detector, classifier, batches(images=images))
    if statistics_of(reference):
        with pytest.raises(InputError, match=r"2 of 60 .*sample 11 "):
            create_detector(reference).fit(classifier, batches(images=images))


@every_reference
def test_an_empty_loader(reference):
    detector, classifier = fitted(reference)
    with pytest.raises(InputError, match="no batch"):
        score(detector, classifier, [])
    if statistics_of(reference):
        with pytest.raises(InputError, match="no batch"):
            create_detector(reference).fit(classifier, [])


BAD_LABELS: dict[str, Callable[[Tensor], Tensor | None]] = {
    "too large": lambda labels: torch.where(labels == 2, 3, labels),
    "negative": lambda labels: torch.where(labels == 2, -1, labels),
    "missing": lambda labels: None,
    "float": lambda labels: labels.float(),
    "too few": lambda labels: labels[:-1],
    "one-hot": lambda labels: nn.functional.one_hot(labels, CLASSES),
}


@pytest.mark.filterwarnings("ignore:the order of the classes looks wrong")
@pytest.mark.parametrize(
    ("reference", "kind"),
    [(r, k) for r in REFERENCES for k in (BAD_LABELS if grouped_by_label(r) else ("too large", "missing"))],
)
def test_bad_labels_stop_those_that_read_labels(reference, kind):
    classifier, detector = make_classifier(), create_detector(reference)
    loader = [(IMAGES, BAD_LABELS[kind](LABELS))]
    if grouped_by_label(reference):
        with pytest.raises(LabelError, match="label"):
            detector.fit(classifier, loader)
        assert not detector.fitted
    else:
        assert detector.fit(classifier, loader).fitted


@every_reference
@pytest.mark.filterwarnings("ignore::oodline.MemberLeftOutWarning")
@pytest.mark.filterwarnings("ignore::oodline.errors.FewSamplesWarning")
def test_a_class_without_samples(reference):
    classifier, detector = make_classifier(), create_detector(reference)
    labels = torch.arange(60) % 2
    loader = batches(images=in_distribution(labels=labels), labels=labels)
    if needs_every_class(reference):
        with pytest.raises(LabelError, match=r"1 of 3 classes .*: 2\."):
            detector.fit(classifier, loader)
        assert not detector.fitted
    else:
        assert detector.fit(classifier, loader)(read(detector, classifier)).isfinite().all()


@every_reference
@pytest.mark.filterwarnings("ignore::oodline.MemberLeftOutWarning")
@pytest.mark.filterwarnings("ignore::oodline.errors.FewSamplesWarning")
def test_data_of_one_class(reference):
    classifier, detector = make_classifier(), create_detector(reference)
    labels = torch.zeros(60, dtype=torch.int64)
    try:
        detector.fit(classifier, batches(images=in_distribution(labels=labels), labels=labels))
    except OodlineError as error:
        assert str(error).endswith(".") and len(str(error).split()) > 5
    else:
        assert detector(read(detector, classifier)).isfinite().all()


@every_detector
def test_presets_build_and_name_their_source(name):
    cls = detector_class(name)
    for key, preset in cls.presets.items():
        built = cls.preset(key)
        assert {k: built.settings[k] for k in preset.settings} == dict(preset.settings)
        assert repr(create_detector(f"{name},preset={key}")) == repr(built)
        assert len(preset.source) > 3
    with pytest.raises(UnknownNameError, match="unknown preset"):
        cls.preset("nonsense")
    with pytest.raises(UnknownNameError, match="unknown preset"):
        create_detector(f"{name},preset=nonsense")


@every_detector
def test_an_unknown_setting(name):
    with pytest.raises(SettingError, match=f"'{name}' has no setting 'nonsense'"):
        create_detector(f"{name},nonsense=1")


@every_detector
def test_a_setting_of_the_wrong_type(name):
    for setting in detector_class(name)().settings:
        with pytest.raises((SettingError, UnknownNameError)):
            create_detector(f"{name},{setting}=nonsense")


@pytest.mark.long
@every_reference
def test_its_graph_runs_in_onnxruntime(reference, tmp_path):
    detector, classifier = fitted(reference)
    if not detector.why_not_exportable:
        guard = Guard(classifier, detector).calibrate(batches(images=without_evidence()))
        made = guard.export_onnx(tmp_path / "guard.onnx", HELD_OUT)
        assert made.differences["label"] == made.differences["is_ood"] == 0


class Spy:
    """Stands for a detector in `fit` and remembers the statistics it was settled with."""

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        detector.use_classifier(make_classifier())
        self.name, self.all_needs, self.all_layers = detector.name, detector.all_needs, detector.all_layers
        self._requests = detector._requests
        self.statistics: list[Statistic] = []

    def _settle(self, statistics: Mapping[str, Statistic], head: Any) -> None:
        self.statistics += statistics.values()
        self.detector._settle(statistics, head)


def test_all_in_one_pass_equal_each_alone():
    classifier = make_classifier()
    spies = [Spy(create_detector(reference)) for reference in REFERENCES]
    wanted = [s for spy in spies for s in spy._requests(classifier.head).values()]
    passes: list[int] = []
    handle = classifier.model.register_forward_hook(lambda _m, args, _out: passes.append(len(args[0])))
    fit({r: create_detector(r) for r in REFERENCES if not runs_again(r)}, classifier, batches(25))
    handle.remove()
    assert passes == [25, 25, 10]
    fit(dict(zip(REFERENCES, spies, strict=True)), classifier, batches(25))
    for spy, reference in zip(spies, REFERENCES, strict=True):
        same_state(spy.detector, create_detector(reference).fit(classifier, batches(25)))
    used = {id(statistic) for spy in spies for statistic in spy.statistics}
    assert len(used) == len({statistic.key for statistic in wanted}) < len(wanted)


@pytest.mark.filterwarnings("ignore::oodline.MemberLeftOutWarning")
@pytest.mark.filterwarnings("ignore::oodline.errors.FewSamplesWarning")
def test_one_that_cannot_be_fitted_does_not_stop_the_others():
    classifier, labels = make_classifier(), torch.arange(60) % 2
    detectors = [create_detector(LIGHTER.get(name, name)) for name in SERVED]
    with pytest.raises(FitError, match="fitting failed for ") as caught:
        fit(detectors, classifier, batches(labels=labels))
    failed = {name for name in SERVED if needs_every_class(name)}
    assert set(caught.value.failures) == failed
    assert {detector.name for detector in detectors if not detector.fitted} == failed


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def interrupted() -> Iterator[Batch]:
    yield from batches(20)[:2]
    raise KeyboardInterrupt


@pytest.mark.parametrize("reference", [r for r in REFERENCES if statistics_of(r)])
def test_an_interrupted_fit_changes_nothing(reference):
    classifier = make_classifier()
    classifier.model.train()
    classifier.model[0].eval()
    before = modes(classifier.model)
    fresh, old = create_detector(reference), create_detector(reference).fit(classifier, batches())
    state, head = {k: v.clone() for k, v in old.state_dict().items()}, old.fitted_on
    with pytest.raises(KeyboardInterrupt):
        fit({"fresh": fresh, "old": old}, classifier, interrupted())
    assert not fresh.fitted
    assert old.fitted_on is head
    same_tensors(old.state_dict(), state)
    assert modes(classifier.model) == before
    assert hooks(classifier.model) == 0


@pytest.mark.parametrize("reference", [r for r in REFERENCES if needs_every_class(r)])
def test_a_refit_that_fails_keeps_the_old_state(reference):
    detector, classifier = fitted(reference)
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    labels = torch.zeros(60, dtype=torch.int64)
    with pytest.raises(LabelError):
        detector.fit(classifier, batches(images=2 * IMAGES, labels=labels))
    same_tensors(detector.state_dict(), before)
