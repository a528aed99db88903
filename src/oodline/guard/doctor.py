"""Examine a classifier, and some of its data, before anything is fitted: what is found, what fits, what is missing."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from typing import Any, Literal

from oodline._util.checked import checked
from oodline._util.ranges import Rate
from oodline.data.batch import Inputs, Loader, unpack
from oodline.data.stated import class_names_of
from oodline.detectors.base import Detector
from oodline.detectors.catalog import create_detector, detector_names
from oodline.detectors.default import default_detector
from oodline.detectors.fit import fit
from oodline.errors import LabelError, OodlineError
from oodline.guard.diagnosis import Diagnosis, HeadFacts
from oodline.guard.probe import peek
from oodline.model.activations import Needs
from oodline.model.classifier import Classifier
from oodline.model.head import LayeredHead
from oodline.model.no_head import NoHead
from oodline.passes.fit import Fittable, unsupported
from oodline.passes.local import Local
from oodline.passes.training_accuracy import TrainingAccuracy
from oodline.scoring.calibration import samples_needed
from oodline.scoring.split import can_spare, count_samples, samples_to_spare
from oodline.statistics import Backbone

EXTRAS = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "serve": ("fastapi", "uvicorn", "prometheus_client"),
    "report": ("jinja2", "plotly", "matplotlib"),
    "pandas": ("pandas",),
    "faiss": ("faiss",),
}
"""Packages of the extras that a guard may need next."""

SLOW = {"corp": "its fit takes seconds whatever the data, so it is not tried here"}
"""What is not tried, and why: it finds the eigenvectors of its many random features."""


@checked
def doctor(
    classifier: Classifier,
    loader: Loader | None = None,
    held_out: Loader | None = None,
    *,
    false_alarm: Rate = 0.05,
) -> Diagnosis:
    """Examine a classifier: head, preprocessing, features, which detectors suit it and why, and what is missing.

    Parameters
    ----------
    classifier : Classifier
        The frozen classifier.
    loader : iterable, optional
        Batches of ID training data, with labels if there are any; a few hundred images suffice. If omitted, what
        depends on data is left open.
    held_out : iterable, optional
        Held-out ID data, of which the number is compared with what `false_alarm` needs.
    false_alarm : float
        The rate that a guard is to promise.

    Returns
    -------
    Diagnosis
        With a text and a dictionary.

    Raises
    ------
    HeadError, InputError
        The classifier cannot be used; says why and what to do.

    Examples
    --------
    >>> from oodline.testing import toy_loader, toy_problem
    >>> print(doctor(*toy_problem(), toy_loader(seed=1)))
    head:          '2', one linear layer, 3 classes x 16 features; found: W f + b are the logits
    ...
    """
    first, data = (None, None) if loader is None else peek(loader)
    inputs = _trial(classifier) if first is None else unpack(first, 0)[0]
    proven = inputs is not None
    if inputs is not None:
        (classifier.everywhere() if first is None else classifier)(inputs)  # raises where it cannot be used
    labelled = first is not None and unpack(first, 0)[1] is not None
    detectors = {name: create_detector(name) for name in detector_names()}
    batch = first if first is not None or inputs is None else (inputs,)
    unfit = {name: str(why) for name, why in _unsupported(detectors, classifier, batch).items()}
    rest = {name: each for name, each in detectors.items() if name not in unfit}
    default = default_detector(classifier)
    known_preprocessing = classifier.preprocessing is not None or bool(classifier.lacking(Needs.INPUTS))
    doubtful: dict[str, str] = {}
    undecided: dict[str, str] = {}
    backbone, accuracy, said = None, TrainingAccuracy(classifier.class_names), []
    if data is not None:
        try:
            if not labelled:
                raise LabelError("labels are needed to try it")
            backbone, undecided = _try(rest, default, classifier, data, accuracy)
            # with wrong preprocessing the predictions are wrong, so they cannot show whether labels are in order
            order = accuracy.order if known_preprocessing else ""
            said = [text for text in (accuracy.warning, order) if text]
            doubtful = {name: d.doubts for name, d in rest.items() if d.doubts and name not in undecided}
        except LabelError as error:  # missing or wrong labels say nothing against the model
            backbone = _measure(classifier, data)
            undecided = {name: str(error) for name, each in rest.items() if each.has_state or each.assumed_of_data}
    else:
        undecided = {
            name: "data is needed to try it" for name, each in rest.items() if each.has_state or each.assumed_of_data
        }
    known = {**undecided, **doubtful}
    members = tuple(member.name for _, member in default.members)
    return Diagnosis(
        head=_head(classifier, proven),
        preprocessing=_preprocessing(classifier),
        class_names=_class_names(classifier, loader),
        backbone=backbone,
        accuracy=accuracy.value,
        default="fuse of " + " + ".join(members),
        members=members,
        reason=default.reason or ("the fit chooses among these by what the features are like" if data is None else ""),
        fits=tuple(name for name in rest if name not in known),
        doubtful=doubtful,
        undecided=undecided,
        unfit=unfit,
        not_exportable={
            name: why.removeprefix(f"{type(each).__name__} ")
            for name, each in rest.items()
            if (why := each.why_not_exportable)
        },
        missing=tuple(_missing(classifier, data, labelled, held_out, false_alarm)),
        warnings=tuple(said),
    )


def _class_names(classifier: Classifier, loader: Loader | None) -> tuple[str, ...] | None:
    """Those of the classifier, else of the data, as a fit takes them."""
    return class_names_of(classifier.class_names, () if loader is None else loader, classifier.head.num_classes)


def _trial(classifier: Classifier) -> Inputs | None:
    """Two inputs that mean nothing, such as the classifier reads, where that is known."""
    preprocessing = classifier.preprocessing
    return None if preprocessing is None or classifier.lacking(Needs.INPUTS) else preprocessing.example()


def _unsupported(detectors: dict[str, Detector], classifier: Classifier, batch: Any) -> dict[str, OodlineError]:
    found: dict[str, OodlineError] = {}
    for name, detector in detectors.items():
        try:
            detector.use_classifier(classifier)
        except OodlineError as error:
            found[name] = error
    rest = {name: each for name, each in detectors.items() if name not in found}
    return found | unsupported(rest, classifier, [] if batch is None else [batch])


def _try(
    detectors: dict[str, Detector],
    default: Detector,
    classifier: Classifier,
    data: Iterable[Any],
    accuracy: TrainingAccuracy,
) -> tuple[Backbone | None, dict[str, str]]:
    """Fit what reads features and logits; what reads more would take a long pass, and `unsupported` has tried it."""
    tried = {name: each for name, each in detectors.items() if not each.needs_network and name not in SLOW}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the diagnosis says what they say
        together: dict[str, Fittable] = {**tried, "the default": default, accuracy.name: accuracy}
        result = fit(together, classifier, data, on_failure="skip")
    untried = {name: why for name, why in SLOW.items() if name in detectors}
    return result.backbone, untried | {name: str(why) for name, why in result.failures.items() if name in tried}


def _measure(classifier: Classifier, data: Iterable[Any]) -> Backbone | None:
    statistics = Backbone.statistics()
    Local().fill(list(statistics.values()), classifier, data, {"needs": Needs.FEATURES, "layers": ()}, task="reading")
    return Backbone.of(statistics, classifier.head)


def _head(classifier: Classifier, proven: bool) -> HeadFacts:
    head = classifier.head
    kind: Literal["linear", "layers", "none"] = (
        "none" if isinstance(head, NoHead) else "layers" if isinstance(head, LayeredHead) else "linear"
    )
    known = "named" if classifier.head_is_named else "found"
    shown = "a pass makes the logits by it" if kind == "layers" else "W f + b are the logits"
    origin = f"{known}: {shown}" if proven else f"{known} by its name; data would show whether it makes the logits"
    return HeadFacts(classifier.head_name, kind, head.num_classes, head.num_features, origin)


def _preprocessing(classifier: Classifier) -> str:
    if classifier.preprocessing is None:
        return "not known: images are only scaled to [0, 1]"
    return f"{classifier.preprocessing.describe()}; {classifier.preprocessing_origin or 'set by you'}"


def _missing(
    classifier: Classifier, data: Iterable[Any] | None, labelled: bool, held_out: Iterable[Any] | None, rate: float
) -> Iterator[str]:
    unit = getattr(classifier.preprocessing, "unit", "images")
    if data is None:
        yield f"training data: some hundred ID {unit} with labels say which detectors suit the network"
    elif not labelled:
        yield "labels: most detectors are fitted by class"
    if classifier.preprocessing is None and not classifier.lacking(Needs.INPUTS):
        yield "preprocessing: how images were prepared when the network was trained"
    needed = samples_needed(rate)
    count = None if held_out is None else count_samples(held_out)
    wanted = samples_to_spare(rate)
    if held_out is None:
        promise = f"{100 * rate:.3g} % of false alarms"
        yield f"held-out ID data for a threshold: {needed} {unit} or more for {promise}, better {wanted}"
    elif count is not None and count < needed:
        yield f"more held-out ID data: {count} {unit} are there, and {100 * rate:.3g} % of false alarms need {needed}"
    elif count is not None and not can_spare(count, rate):
        yield f"more held-out ID data: with {wanted} {unit}, not {count}, fused detectors get a reference of their own"
    for extra, packages in EXTRAS.items():
        if absent := [package for package in packages if find_spec(package) is None]:
            yield f"{', '.join(absent)}: pip install 'oodline[{extra}]'"
