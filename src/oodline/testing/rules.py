"""The contract of `oodline.detectors.base` as rules, each a function that raises `AssertionError` where it is broken.

The first line of a rule's docstring states it; the message says what was found, and what to do.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from oodline.detectors.base import is_member
from oodline.detectors.catalog import build_detector
from oodline.errors import ExportError, MismatchError, NotFittedError
from oodline.guard.graph import GuardGraph, trace
from oodline.guard.guard import Guard
from oodline.model.classifier import Classifier
from oodline.passes.fit import reads
from oodline.scoring.score import score
from oodline.testing.case import Case, auroc, filled, plain, read, requested, require, same_detector, same_scores
from oodline.testing.problem import (
    CLASSES,
    EVERYONE,
    HELD_OUT,
    IMAGES,
    LABELS,
    SAMPLES,
    UNEVEN,
    WIDTH,
    batches,
    in_distribution,
    make_classifier,
    without_evidence,
)

Rule = Callable[[Case], None]

_EACH_ALONE = "Compute each score from its own sample alone."
_MERGEABLE = (
    "Estimate from the statistics alone, which must be the same in any order and in any parts; a random draw takes a "
    "generator of its own with a fixed seed."
)


def settings_rebuild_it(case: Case) -> None:
    """Its settings, given to its name, make the same detector again."""
    detector = case.make()
    rebuilt = build_detector(detector.name, detector.settings)
    keep = "Keep every argument of __init__ under its own name, as it was given."
    for key, value in plain(detector.settings).items():
        again = plain(rebuilt.settings)[key]
        require(again == value, f"'{key}' was {value!r} and came back as {again!r}. {keep}")
        shown = is_member(detector.settings[key]) or f"{key}={value!r}" in repr(detector)
        require(shown, f"'{key}' is not shown by repr(). Do not override extra_repr.")
    require(repr(rebuilt) == repr(detector), f"{detector!r} came back as {rebuilt!r}. {keep}")


def one_finite_score_per_sample(case: Case) -> None:
    """A batch of N samples gives N finite floating-point numbers."""
    detector, classifier = case.fitted()
    scores = detector(read(detector, classifier, IMAGES[:7]))
    require(
        scores.shape == (7,) and scores.is_floating_point(),
        f"7 samples gave {scores.dtype} of shape {tuple(scores.shape)}. Return a floating-point tensor (N,), and leave "
        "forward as it is.",
    )
    bad = int((~scores.isfinite()).sum())
    require(bad == 0, f"{bad} of 7 scores are NaN or infinite. Look for a division by zero, or a log of it.")


def finite_for_features_of_any_sign_and_size(case: Case) -> None:
    """Scores are finite for features of any sign, and from 0 to 10,000 in size."""
    classifier = Classifier(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, CLASSES)))
    inputs = torch.randn(SAMPLES, WIDTH, 2, 2)
    detector = case.make().fit(classifier, [(inputs, LABELS)])
    for size in (0.0, 1e-20, 1.0, 1e4):
        bad = int((~detector(read(detector, classifier, size * inputs)).isfinite()).sum())
        require(
            bad == 0,
            f"{bad} of {SAMPLES} scores are NaN or infinite for features of size {size:g}. Bound what divides, and "
            "what exp and log take.",
        )


def in_distribution_scores_higher(case: Case) -> None:
    """Samples like the training data score higher than others."""
    for seed in range(2):
        classifier, labels = make_classifier(seed), torch.arange(5 * SAMPLES) % CLASSES
        # enough samples for every default: the 50th neighbour, say, is to be found within the class
        detector = case.make().fit(classifier, [(in_distribution(seed, labels), labels)])
        held_out = detector(read(detector, classifier, in_distribution(seed + 1)))
        found = auroc(held_out, detector(read(detector, classifier, without_evidence(seed))))
        turned = "A higher score must mean more in-distribution: return the negative."
        weak = "It does not tell samples without evidence for any class apart."
        require(
            found > 0.8,
            f"the AUROC on the toy problem is {found:.2f}, and 0.8 is asked for. {turned if found < 0.5 else weak}",
        )


def fit_and_score_are_deterministic(case: Case) -> None:
    """The same data gives the same state, and the same sample the same score, to the last bit."""
    one, classifier = case.fitted()
    torch.manual_seed(0)
    other = case.make().fit(classifier, batches())
    for name, value in one.state_dict().items():
        again = other.state_dict().get(name)
        equal = again is not None and torch.allclose(value, again, rtol=0, atol=0, equal_nan=True)
        require(equal, f"'{name}' differs between two fits on the same data. Use a generator with a fixed seed.")
    activations = read(one, classifier)
    scores = one(activations)
    require(torch.equal(one(activations), scores), "scoring twice gives other scores. Draw nothing at random in score.")
    require(
        torch.equal(other(activations), scores),
        "two fits on the same data score differently. Annotate all of the state as Fitted.",
    )


def a_score_does_not_depend_on_the_batch(case: Case) -> None:
    """A sample's score is the same alone, in another batch, and at another place."""
    detector, classifier = case.fitted()
    whole = detector(read(detector, classifier))
    order = torch.randperm(SAMPLES)
    parts = [detector(read(detector, classifier, IMAGES[part])) for part in torch.split(order, UNEVEN)]
    places = torch.empty_like(order)
    places[order] = torch.arange(SAMPLES)
    same_scores(torch.cat(parts)[places], whole, ("in a small batch", "among all"), _EACH_ALONE)


def a_fit_does_not_depend_on_the_batches(case: Case) -> None:
    """The order of the training data and its cut into batches do not matter."""
    detector, classifier = case.fitted()
    other = case.make().fit(classifier, batches(UNEVEN, torch.randperm(SAMPLES).tolist()))
    same_detector(detector, other, classifier, ("after a fit on one batch", "on the same data in several"), _MERGEABLE)


def merged_parts_equal_the_whole(case: Case) -> None:
    """Statistics of parts of the data, merged, give what the whole gives: so several processes can share a fit."""
    for cuts in ([SAMPLES // 2], [1, 11, SAMPLES - 1]):
        detector, classifier = case.fitted()
        order = torch.randperm(SAMPLES).tolist()
        parts = [order[i:j] for i, j in zip([0, *cuts], [*cuts, SAMPLES], strict=True)]
        merged = case.make()
        total = requested(merged, classifier)
        for part in reversed(parts):
            for name, statistic in filled(merged, classifier, batches(13, part)).items():
                total[name].merge(statistic)
        merged._settle(total, classifier.head)
        same_detector(detector, merged, classifier, ("after one fit", "after merging parts"), _MERGEABLE)


def a_statistic_survives_saving_midway(case: Case) -> None:
    """A pass that is interrupted can go on from the saved statistics."""
    detector, classifier = case.fitted()
    resumed = case.make()
    first = filled(resumed, classifier, batches(20, EVERYONE[:40]))
    second = requested(resumed, classifier)
    for name, statistic in second.items():
        statistic.load_state_dict(first[name].state_dict())
    for activations, labels in classifier.stream(batches(20, EVERYONE[40:]), **reads([resumed])):
        for statistic in second.values():
            statistic.update(activations, labels)
    resumed._settle(second, classifier.head)
    same_detector(detector, resumed, classifier, ("after one fit", "after a fit that went on"), _MERGEABLE)


def state_dict_round_trip(case: Case) -> None:
    """`state_dict` holds all that a fit changes, and refuses what does not belong to it."""
    detector, classifier = case.fitted()
    fresh = case.make()
    fresh.use_classifier(classifier)
    fresh.load_state_dict(detector.state_dict(), strict=True)
    keep = "Annotate every fitted tensor as Fitted, and set nothing else in estimate."
    require(fresh.fitted, f"it is not fitted after load_state_dict. {keep}")
    activations = read(detector, classifier)
    require(
        torch.equal(fresh(activations), detector(activations)), f"it scores differently after load_state_dict. {keep}"
    )
    try:
        fresh.load_state_dict({**detector.state_dict(), "nonsense": torch.zeros(1)}, strict=True)
    except RuntimeError as error:
        require("nonsense" in str(error), f"a tensor that does not belong to it is refused with '{error}'.")
    else:
        raise AssertionError("load_state_dict takes a tensor that does not belong to it. Do not override it.")


def use_before_fit(case: Case) -> None:
    """What needs fitting says so when it is used before; what does not can be used at once."""
    detector, classifier = case.make(), make_classifier()
    activations = read(detector, classifier)
    if not detector.has_state:
        require(bool(detector(activations).isfinite().all()), "it has no fitted tensor, and cannot score at once.")
        return
    require(not detector.fitted, "it is fitted before fit. Leave its fitted tensors alone in __init__.")
    for use in (lambda: detector(activations), lambda: score(detector, classifier, batches())):
        try:
            use()
        except NotFittedError:
            continue
        raise AssertionError("it scores before it is fitted. Write score, and leave forward as it is.")


def another_head_is_refused(case: Case) -> None:
    """What was fitted on one classifier is not used with another, of other sizes or other weights."""
    detector, _ = case.fitted()
    for width in (WIDTH - 3, WIDTH + 3):
        other = make_classifier(width=width)
        images = torch.rand(5, width, 2, 2)
        if not detector.has_state:
            scores = detector(read(detector, other, images))
            require(bool(scores.isfinite().all()), f"its scores are not finite with {width} features.")
            continue
        try:
            detector(read(detector, other, images))
        except MismatchError as error:
            require(f"{WIDTH} features" in str(error) and str(width) in str(error), f"the error says no sizes: {error}")
        else:
            raise AssertionError(f"it was fitted on {WIDTH} features and scores {width}. Leave forward as it is.")
    try:
        by_name = score(detector, make_classifier(seed=1), batches())
    except MismatchError as error:
        require(detector.has_state and "fitted on another classifier" in str(error), f"it is refused: {error}")
    else:
        require(not detector.has_state, "it scores with a head of other weights. Do not override mark_fitted.")
        require(len(by_name[detector.name]) == SAMPLES, "it does not score a head of other weights.")


def forward_is_pure(case: Case) -> None:
    """Scoring changes neither its inputs, nor the detector, nor the classifier."""
    detector, classifier = case.fitted()
    activations = read(detector, classifier)
    tensors: dict[str, Tensor] = {
        "the inputs": IMAGES,
        "the features": activations.features,
        "the logits": activations.logits,
        **{f"'{name}' of the detector": value for name, value in detector.state_dict().items()},
        **{f"'{name}' of the classifier": value for name, value in classifier.model.state_dict().items()},
        **{f"the output of '{name}'": value for name, value in activations.layers.items()},
    }
    if activations.feature_map is not None:
        tensors["the feature map"] = activations.feature_map
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    detector(activations)
    for name, tensor in tensors.items():
        require(torch.equal(tensor, before[name]), f"scoring changes {name}. Use no operation in place.")


def survives_a_file(case: Case) -> None:
    """A guard that is saved and loaded gives the same verdicts, to the last bit."""
    detector, classifier = case.fitted()
    guard = Guard(classifier, detector).calibrate(batches(images=HELD_OUT))
    with TemporaryDirectory() as folder:
        loaded = Guard.load(guard.save(Path(folder) / "guard.safetensors"), classifier)
    for images in (HELD_OUT, without_evidence()):
        one, other = guard(images), loaded(images)
        for name in ("score", "p_value", "is_ood"):
            require(
                torch.equal(getattr(one, name), getattr(other, name)),
                f"'{name}' differs after saving and loading. Keep all that score reads in settings or fitted tensors.",
            )


def its_graph_gives_its_scores_or_it_says_why_there_is_none(case: Case) -> None:
    """It becomes one graph with the classifier, which gives its scores; or `not_exportable` says why not."""
    detector, classifier = case.fitted()
    guard = Guard(classifier, detector).calibrate(batches(images=HELD_OUT))
    if why := detector.why_not_exportable:
        try:
            GuardGraph(guard)
        except ExportError as error:
            require(why in str(error), f"the error does not say why: {error}")
            return
        raise AssertionError(f"it says that there is no graph, since it {why}, and there is one.")
    remedy = "Write score as operations on tensors, or say why it cannot be one: not_exportable = 'sorts samples ...'."
    try:
        graph = trace(GuardGraph(guard), IMAGES[:4]).module()
    except Exception as error:
        raise AssertionError(f"it cannot become a graph: {str(error).splitlines()[0]} {remedy}") from error
    for size in (1, 3, 7):
        verdict = guard(HELD_OUT[-size:])
        with torch.no_grad():
            _logits, label, scores, _p_value, _is_ood = graph(HELD_OUT[-size:])
        require(torch.equal(label, verdict.label), f"the graph predicts other classes. {remedy}")
        same_scores(scores, verdict.score, ("in the graph", "outside"), remedy)


RULES: tuple[Rule, ...] = (
    settings_rebuild_it,
    one_finite_score_per_sample,
    use_before_fit,
    forward_is_pure,
    fit_and_score_are_deterministic,
    a_score_does_not_depend_on_the_batch,
    in_distribution_scores_higher,
    finite_for_features_of_any_sign_and_size,
    a_fit_does_not_depend_on_the_batches,
    merged_parts_equal_the_whole,
    a_statistic_survives_saving_midway,
    state_dict_round_trip,
    another_head_is_refused,
    survives_a_file,
    its_graph_gives_its_scores_or_it_says_why_there_is_none,
)
"""In an order in which the first broken one says most."""
