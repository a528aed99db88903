"""One suite for every detector: whatever is in the catalogue is held to the contract of `oodline.detectors.base`."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oodline.data.batch import Batch
from oodline.detectors.base import Detector, Paper, is_member
from oodline.detectors.catalog import CATALOG, build_detector, create_detector, detector_class
from oodline.errors import (
    ExportError,
    InputError,
    LabelError,
    MismatchError,
    NotFittedError,
    OodlineError,
    SettingError,
    UnknownNameError,
)
from oodline.guard.graph import GuardGraph, trace
from oodline.guard.guard import Guard
from oodline.model.activations import Activations, Needs
from oodline.model.classifier import Classifier
from oodline.passes.fit import FitError, fit, reads
from oodline.scoring.score import score
from oodline.statistics import ClassMoments, Statistic

COMPOSED = [
    "react,scorer=dice",
    "react,scorer=line",
    "react,scorer=mahalanobis",
    "dice,scorer=msp",
    "ash-s,scorer=max-logit",
    "knn,index=faiss-flat",
    "nap-combined,scorer=feature-norm",
    "fuse,detectors=energy+knn+line:p_a=0.5:clip=0.8+line:clip=0.8,rule=harmonic",
    'nac,layers={"0":[1.0,20,20]}',
]
LIGHTER = {
    "corp": "corp,size=64",
    "weiper-msp": "weiper-msp,repeats=10",
    "weiper-kld": "weiper-kld,repeats=10",
}
"""Settings that show the same in less time: CoRP decomposes a matrix of 2048 x 2048, WeiPer draws a hundred heads."""
UNEVEN = [1, 7, 31, 21]
"""Sizes of batches in which 60 samples may come."""
REFERENCES = [*(LIGHTER.get(name, name) for name in CATALOG), *COMPOSED]
CLASSES, BLOCK = 3, 10
WIDTH = CLASSES * BLOCK
EVERYONE = list(range(60))
LABELS = torch.arange(60) % CLASSES

every_detector = pytest.mark.parametrize("name", CATALOG)
every_reference = pytest.mark.parametrize("reference", REFERENCES)


def make_classifier(seed: int = 0, width: int = WIDTH) -> Classifier:
    """Global average pooling and a head in which each class is supported by a block of features of its own."""
    generator = torch.Generator().manual_seed(seed)
    head = nn.Linear(width, CLASSES)
    own = torch.arange(width) % CLASSES == torch.arange(CLASSES).unsqueeze(1)
    with torch.no_grad():
        head.weight.copy_(torch.where(own, 1.0, -0.5) + 0.1 * torch.randn(CLASSES, width, generator=generator))
        head.bias.copy_(0.1 * torch.randn(CLASSES, generator=generator))
    return Classifier(nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head))


def images_of(features: Tensor, generator: torch.Generator) -> Tensor:
    """Images whose feature map, (N, D, 2, 2), averages to about `features`; every other one shows in a corner alone."""
    corner, everywhere = torch.tensor([[4.0, 0.0], [0.0, 0.0]]), torch.ones(2, 2)
    places = torch.stack([corner, everywhere])[torch.arange(features.shape[1]) % 2]
    return features[:, :, None, None] * places * (1 + 0.1 * torch.randn(*features.shape, 2, 2, generator=generator))


def in_distribution(seed: int = 0, labels: Tensor = LABELS) -> Tensor:
    """Images in which the block of the labelled class is active."""
    generator = torch.Generator().manual_seed(100 + seed)
    own = torch.arange(WIDTH) % CLASSES == labels.unsqueeze(1)
    background = 0.05 * torch.randn(len(labels), WIDTH, generator=generator).abs()
    evidence = 0.7 + 0.2 * torch.randn(len(labels), WIDTH, generator=generator)
    return images_of(torch.where(own, evidence, background), generator)


def without_evidence(seed: int = 0) -> Tensor:
    """Images in which two features of each block are active: too few for any class, and never seen together.

    Every method should find them less familiar, whether it reads sizes, directions or distances.
    """
    generator = torch.Generator().manual_seed(200 + seed)
    rank = torch.rand(60, BLOCK, CLASSES, generator=generator).argsort(1).flatten(1)
    background = 0.05 * torch.randn(60, WIDTH, generator=generator).abs()
    return images_of(torch.where(rank < 2, 0.5, background), generator)


IMAGES, HELD_OUT = in_distribution(), in_distribution(5)


def batches(
    size: int | list[int] = 60, order: list[int] = EVERYONE, images: Tensor = IMAGES, labels: Tensor = LABELS
) -> list[Batch]:
    """A loader that says which sample is which, so that order and cuts cannot change what is meant."""
    return [Batch(images[part], labels[part], part) for part in torch.tensor(order).split(size)]


@functools.cache
def _fitted_once(reference: str) -> tuple[Detector, Classifier]:
    classifier = make_classifier()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return create_detector(reference).fit(classifier, batches()), classifier


def fitted(reference: str) -> tuple[Detector, Classifier]:
    """A copy of the detector that was fitted when it was first asked for, and a copy of its classifier."""
    return copy.deepcopy(_fitted_once(reference))


def read(detector: Detector, classifier: Classifier, images: Tensor = IMAGES) -> Activations:
    """Run the classifier for what the detector reads."""
    return classifier(images, **reads([detector]))


def filled(detector: Detector, classifier: Classifier, loader: Iterable[Batch]) -> dict[str, Statistic]:
    """Fill the statistics that the detector asks for, without settling it."""
    statistics = detector.requests(classifier.head)
    for activations, labels in classifier.stream(loader, **reads([detector])):
        for statistic in statistics.values():
            statistic.update(activations, labels)
    return statistics


def statistics_of(reference: str) -> list[Statistic]:
    return list(create_detector(reference).requests(make_classifier().head).values())


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


def has_state(detector: Detector) -> bool:
    return bool(detector.fitted_tensors) or any(has_state(member) for _, member in detector.members)


def same_scores(one: Tensor, other: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def same_detector(one: Detector, other: Detector, classifier: Classifier) -> None:
    """Compare by scores, since equal detectors may differ in state: eigenvectors have no sign of their own."""
    for images in (IMAGES, without_evidence()):
        same_scores(one(read(one, classifier, images)), other(read(other, classifier, images)))


def same_tensors(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def same_state(one: Detector, other: Detector) -> None:
    same_tensors(one.state_dict(), other.state_dict())


def auroc(positive: Tensor, negative: Tensor) -> float:
    difference = positive[:, None] - negative
    return float((difference > 0).double().mean() + 0.5 * (difference == 0).double().mean())


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that can be compared: a member becomes its name and settings."""

    def compared(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(compared(one) for one in value)
        return (value.name, plain(value.settings)) if isinstance(value, Detector) else value

    return {key: compared(value) for key, value in settings.items()}


@every_detector
def test_traits_are_declared(name):
    cls = detector_class(name)
    assert cls.name == name
    assert isinstance(cls.needs, Needs) and cls.needs
    assert isinstance(cls.paper, Paper)
    assert cls.paper.title.strip()  # as short as authors like: "ViM", "GEN"
    assert cls.paper.venue.rsplit(maxsplit=1)[-1].isdigit()  # venue and year
    assert "Higher = more in-distribution" in " ".join(cls.__doc__.split())


@every_reference
def test_one_finite_floating_score_a_sample(reference):
    detector, classifier = fitted(reference)
    scores = detector(read(detector, classifier, IMAGES[:7]))
    assert scores.shape == (7,)
    assert scores.is_floating_point()
    assert scores.isfinite().all()


@every_reference
def test_finite_scores_for_features_of_any_sign_and_size(reference):
    classifier = Classifier(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, CLASSES)))
    inputs = torch.randn(60, WIDTH, 2, 2)
    detector = create_detector(reference).fit(classifier, [(inputs, LABELS)])
    for size in (0.0, 1e-20, 1.0, 1e4):
        assert detector(read(detector, classifier, size * inputs)).isfinite().all(), size


@every_reference
@pytest.mark.parametrize("seed", range(2))
def test_in_distribution_scores_higher(reference, seed):
    classifier, labels = make_classifier(seed), torch.arange(300) % CLASSES
    # enough samples for every default: the 50th neighbour, say, is to be found within the class
    detector = create_detector(reference).fit(classifier, [(in_distribution(seed, labels), labels)])
    held_out = detector(read(detector, classifier, in_distribution(seed + 1)))
    strange = detector(read(detector, classifier, without_evidence(seed)))
    assert auroc(held_out, strange) > 0.8


@every_reference
def test_fit_and_score_are_deterministic(reference):
    one, classifier = fitted(reference)
    torch.manual_seed(0)
    other = create_detector(reference).fit(classifier, batches())
    same_state(one, other)
    activations = read(one, classifier)
    assert torch.equal(one(activations), one(activations))
    assert torch.equal(one(activations), other(activations))


@every_reference
def test_a_score_does_not_depend_on_the_batch(reference):
    detector, classifier = fitted(reference)
    whole = detector(read(detector, classifier))
    order = torch.randperm(60)
    parts = [detector(read(detector, classifier, IMAGES[part])) for part in order.split(UNEVEN)]
    same_scores(torch.cat(parts), whole[order])


@every_reference
def test_a_fit_does_not_depend_on_the_batches(reference):
    detector, classifier = fitted(reference)
    order = torch.randperm(60).tolist()
    other = create_detector(reference).fit(classifier, batches(UNEVEN, order))
    same_detector(detector, other, classifier)


@every_reference
@pytest.mark.parametrize("cuts", [[30], [1, 11, 59]])
def test_merged_parts_equal_the_whole(reference, cuts):
    detector, classifier = fitted(reference)
    order = torch.randperm(60).tolist()
    parts = [order[i:j] for i, j in zip([0, *cuts], [*cuts, 60], strict=True)]
    merged = create_detector(reference)
    total = merged.requests(classifier.head)
    for part in reversed(parts):
        for name, statistic in filled(merged, classifier, batches(13, part)).items():
            total[name].merge(statistic)
    merged.settle(total, classifier.head)
    same_detector(detector, merged, classifier)


@every_reference
def test_a_statistic_survives_saving_midway(reference):
    detector, classifier = fitted(reference)
    resumed = create_detector(reference)
    first = filled(resumed, classifier, batches(20, EVERYONE[:40]))
    second = resumed.requests(classifier.head)
    for name, statistic in second.items():
        statistic.load_state(first[name].state())
    for activations, labels in classifier.stream(batches(20, EVERYONE[40:]), **reads([resumed])):
        for statistic in second.values():
            statistic.update(activations, labels)
    resumed.settle(second, classifier.head)
    same_detector(detector, resumed, classifier)


@every_reference
def test_state_dict_round_trip(reference):
    detector, classifier = fitted(reference)
    fresh = create_detector(reference)
    fresh.load_state_dict(detector.state_dict(), strict=True)
    assert fresh.fitted
    activations = read(detector, classifier)
    assert torch.equal(fresh(activations), detector(activations))
    with pytest.raises(RuntimeError, match="nonsense"):
        fresh.load_state_dict({**detector.state_dict(), "nonsense": torch.zeros(1)}, strict=True)


@every_reference
def test_use_before_fit(reference):
    detector, classifier = create_detector(reference), make_classifier()
    activations = read(detector, classifier)
    assert detector.fitted != has_state(detector)
    if not has_state(detector):
        assert detector(activations).isfinite().all()
        return
    with pytest.raises(NotFittedError, match=r"is not fitted. Call \w+.fit"):
        detector(activations)
    with pytest.raises(NotFittedError):
        score(detector, classifier, batches())


@every_reference
@pytest.mark.parametrize("width", [WIDTH - 3, WIDTH + 3])
def test_a_head_of_another_size(reference, width):
    detector, _ = fitted(reference)
    other = make_classifier(width=width)
    images = torch.rand(5, width, 2, 2)
    if not has_state(detector):
        assert detector(read(detector, other, images)).isfinite().all()
        return
    with pytest.raises(MismatchError, match=rf"{WIDTH} features.* {width}"):
        detector(read(detector, other, images))


@every_reference
def test_a_head_of_other_weights(reference):
    detector, _ = fitted(reference)
    other = make_classifier(seed=1)
    if not has_state(detector):
        assert len(score(detector, other, batches())[detector.name]) == 60
        return
    with pytest.raises(MismatchError, match="fitted on another classifier"):
        score(detector, other, batches())


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
def test_data_of_one_class(reference):
    classifier, detector = make_classifier(), create_detector(reference)
    labels = torch.zeros(60, dtype=torch.int64)
    try:
        detector.fit(classifier, batches(images=in_distribution(labels=labels), labels=labels))
    except OodlineError as error:
        assert str(error).endswith(".") and len(str(error).split()) > 5
    else:
        assert detector(read(detector, classifier)).isfinite().all()


@every_reference
def test_forward_is_pure(reference):
    detector, classifier = fitted(reference)
    activations = read(detector, classifier)
    read_by = [IMAGES, activations.features, activations.logits, activations.head.weight, activations.head.bias]
    read_by += [v for v in (activations.feature_map, *activations.layers.values()) if v is not None]
    tensors = [*read_by, *detector.state_dict().values(), *classifier.model.state_dict().values()]
    before = [tensor.clone() for tensor in tensors]
    detector(activations)
    assert all(torch.equal(now, then) for now, then in zip(tensors, before, strict=True))


@every_reference
def test_settings_rebuild_the_detector(reference):
    detector = create_detector(reference)
    rebuilt = build_detector(detector.name, detector.settings)
    assert plain(rebuilt.settings) == plain(detector.settings)
    assert repr(rebuilt) == repr(detector)
    for name, value in detector.settings.items():
        assert is_member(value) or f"{name}={value!r}" in repr(detector)


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


@pytest.mark.parametrize("reference", [*CATALOG, "react,scorer=line", "ash-s,scorer=max-logit"])
def test_its_graph_gives_its_scores_or_it_says_why_there_is_none(reference):
    detector, classifier = fitted(reference)
    guard = Guard(classifier, detector).calibrate(batches(images=HELD_OUT))
    if why := detector.why_not_exportable:
        assert len(why.split()) > 8
        with pytest.raises(ExportError, match=why):
            GuardGraph(guard)
        return
    graph = trace(GuardGraph(guard), IMAGES[:4]).module()
    for size in (1, 3, 7):
        verdict = guard(HELD_OUT[-size:])
        with torch.no_grad():
            _logits, label, score, _p_value, _is_ood = graph(HELD_OUT[-size:])
        assert torch.equal(label, verdict.label)
        same_scores(score, verdict.score)


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
        self.name, self.all_needs, self.all_layers = detector.name, detector.all_needs, detector.all_layers
        self.requests = detector.requests
        self.statistics: list[Statistic] = []

    def settle(self, statistics: Mapping[str, Statistic], head: Any) -> None:
        self.statistics += statistics.values()
        self.detector.settle(statistics, head)


def test_all_in_one_pass_equal_each_alone():
    classifier = make_classifier()
    spies = [Spy(create_detector(reference)) for reference in REFERENCES]
    wanted = [s for spy in spies for s in spy.requests(classifier.head).values()]
    passes: list[int] = []
    handle = classifier.model.register_forward_hook(lambda _m, args, _out: passes.append(len(args[0])))
    fit([create_detector(r) for r in REFERENCES if not runs_again(r)], classifier, batches(25))
    handle.remove()
    assert passes == [25, 25, 10]
    fit(spies, classifier, batches(25))
    for spy, reference in zip(spies, REFERENCES, strict=True):
        same_state(spy.detector, create_detector(reference).fit(classifier, batches(25)))
    used = {id(statistic) for spy in spies for statistic in spy.statistics}
    assert len(used) == len({statistic.key for statistic in wanted}) < len(wanted)


@pytest.mark.filterwarnings("ignore::oodline.MemberLeftOutWarning")
def test_one_that_cannot_be_fitted_does_not_stop_the_others():
    classifier, labels = make_classifier(), torch.arange(60) % 2
    detectors = [create_detector(name) for name in CATALOG]
    with pytest.raises(FitError, match="fitting failed for ") as caught:
        fit(detectors, classifier, batches(labels=labels))
    failed = {name for name in CATALOG if needs_every_class(name)}
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
        fit([fresh, old], classifier, interrupted())
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
