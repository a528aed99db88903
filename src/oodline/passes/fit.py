"""Fit any number of detectors in one forward pass over the ID training data.

The detectors say which statistics they need; equal statistics are computed once; the pass fills them; then each
detector estimates its state. No detector changes before the pass is over: an interrupted fit leaves none half-fitted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from time import perf_counter
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from oodline._util.checked import checked
from oodline._util.warning import warn
from oodline.data.batch import KnownLoader, Loader, unpack
from oodline.data.class_order import doubtful_order
from oodline.errors import HeadError, InputError, OodlineError
from oodline.model.activations import Needs, needs_network
from oodline.model.classifier import Classifier
from oodline.model.head import Head
from oodline.model.layers import Layer
from oodline.passes.engine import Engine, Reads
from oodline.passes.fit_result import FitResult, fit_error
from oodline.passes.local import Local
from oodline.passes.training_accuracy import TrainingAccuracy
from oodline.statistics import Backbone, Statistic

TRIED = 4
"""Samples on which is tried whether the classifier can serve a detector that reads more than features and logits."""


class Fittable(Protocol):
    """What `fit` needs to know of a detector."""

    name: ClassVar[str]
    """Name in tables and messages."""

    @property
    def all_needs(self) -> Needs:
        """What its statistics and scores read of the activations."""
        ...

    @property
    def all_layers(self) -> tuple[Layer, ...]:
        """Modules whose output they read, or what they read of it."""
        ...

    def _requests(self, head: Head) -> dict[str, Statistic]:
        """Empty statistics to fill."""
        ...

    def _settle(self, statistics: Mapping[str, Any], head: Head) -> None:
        """Estimate its state from the filled ones."""
        ...


@runtime_checkable
class Supposes(Protocol):
    """A detector that can say whether what it supposes of the data holds."""

    backbone: Backbone | None
    """What the features are like; set once it is fitted."""

    def assumed(self) -> dict[Any, Statistic]:
        """Empty statistics to fill, beside those it is estimated from."""
        ...

    def check_assumptions(self, statistics: Mapping[Any, Any], head: Head) -> None:
        """Warn where the filled ones do not bear it out."""
        ...


@runtime_checkable
class ChoosesLayers(Protocol):
    """A detector that may take settings that depend on the network from it."""

    def use_classifier(self, classifier: Classifier) -> None:
        """Take them, where they were left open."""
        ...


def reads(detectors: Iterable[Fittable]) -> Reads:
    """What one pass must compute for all of `detectors`."""
    needs, layers = Needs.LOGITS, dict[Layer, None]()
    for detector in detectors:
        needs |= detector.all_needs
        layers |= dict.fromkeys(detector.all_layers)
    return Reads(needs=needs, layers=tuple(layers))


def share_equal(requests: Iterable[dict[Any, Statistic]]) -> list[Statistic]:
    """Let requests that ask for equal statistics hold the same one, in place; return each of them once."""
    shared: dict[tuple[object, ...], Statistic] = {}
    for request in requests:
        for name, statistic in request.items():
            request[name] = shared.setdefault(statistic.key, statistic)
    return list(shared.values())


def check_served(detectors: Iterable[Fittable], classifier: Classifier) -> None:
    """Find out before a pass whether the classifier can give what detectors read.

    Raises
    ------
    InputError
        It cannot, such as feature maps where features were computed before; names the first detector.

    Examples
    --------
    >>> import torch
    >>> import oodline as ol
    >>> classifier, _ = ol.from_features(torch.ones(4, 8))
    >>> check_served([ol.MSP()], classifier)
    Traceback (most recent call last):
    oodline.errors.InputError: 'msp' needs logits, and only features are given. Pass logits=, or head=(W, b).
    """
    for detector in detectors:
        if why := classifier.lacking(detector.all_needs, detector.all_layers):
            raise InputError(f"'{detector.name}' {why}")


def unsupported(
    detectors: Mapping[str, Fittable], classifier: Classifier, loader: Iterable[Any]
) -> dict[str, OodlineError]:
    """Which detectors this classifier cannot serve, with the reason, such as no feature map.

    Runs the classifier once for each detector that reads more than features and logits, on the first batch, or on
    `TRIED` samples of a loader of oodline's own. An iterator is left alone, since what is read of it is gone.

    Examples
    --------
    >>> from oodline import NAP, Energy
    >>> from oodline.testing import toy_problem
    >>> list(unsupported({"nap": NAP(), "energy": Energy()}, *toy_problem()))
    ['nap']
    """
    failures: dict[str, OodlineError] = {}
    batch = None
    if not isinstance(loader, Iterator) and needs_network(**reads(detectors.values())):
        few: Iterable[Any] = loader.over([loader.rows[:TRIED]]) if isinstance(loader, KnownLoader) else loader
        batch = next(iter(few), None)
    for name, detector in detectors.items():
        try:
            check_served([detector], classifier)
            requests = detector._requests(classifier.head)
            if batch is not None and needs_network(**reads([detector])):
                inputs, labels, index = unpack(batch, 0)
                activations = classifier(inputs, index=index, **reads([detector]))
                # only a second pass shows whether the inputs can be differentiated
                for statistic in requests.values() if Needs.CLASSIFIER in detector.all_needs else ():
                    statistic.update(activations, labels)
        except (HeadError, InputError) as error:
            failures[name] = error
    return failures


@checked
def fit_all(
    detectors: Mapping[str, Fittable],
    classifier: Classifier,
    loader: Loader,
    *,
    on_failure: Literal["raise", "skip"] = "raise",
    engine: Engine | None = None,
    progress: bool = False,
) -> FitResult:
    """Fit everything in `detectors`, by its name, in place; parameters and errors as `oodline.fit`.

    Examples
    --------
    >>> from oodline import LINe, Neurons
    >>> from oodline.testing import toy_problem
    >>> list(fit_all({"mine": LINe(), "neurons": Neurons(3)}, *toy_problem()).detectors)
    ['mine', 'neurons']
    """
    named, passes = dict(detectors), engine or Local()
    failures: dict[str, OodlineError] = {}
    for name, detector in named.items():
        try:
            if isinstance(detector, ChoosesLayers):
                detector.use_classifier(classifier)
        except (HeadError, InputError) as error:
            if on_failure == "raise":
                raise
            failures[name] = error
    if on_failure == "raise":
        check_served(named.values(), classifier)
    else:
        named = {name: detector for name, detector in named.items() if name not in failures}
        with passes.synchronised():
            failures |= unsupported(named, classifier, loader)
        named = {name: detector for name, detector in named.items() if name not in failures}
        if failures and not any(isinstance(detector, Supposes) for detector in named.values()):
            named = {}  # what only goes along with detectors, such as the training accuracy, is not worth a pass
    head = classifier.head
    requests = [detector._requests(head) for detector in named.values()]
    assumed = [detector.assumed() if isinstance(detector, Supposes) else {} for detector in named.values()]
    known = any(isinstance(d, TrainingAccuracy) for d in named.values())
    compared = classifier.reads_labels and not classifier.lacking(TrainingAccuracy.all_needs)
    order = TrainingAccuracy() if compared and not known else None
    profile: dict[Any, Statistic] = {**Backbone.statistics()}
    beside = [profile, {} if order is None else order._requests(head)]
    wanted = [*requests, *assumed]
    shared = share_equal(wanted) and share_equal([*wanted, *beside])  # no pass is made for these alone
    if shared:
        passes.fill(shared, classifier.sampled(), loader, reads(named.values()), task="fitting", progress=progress)
        head = classifier.head
        if classifier.reads_labels:
            _check_classes(loader, head, order, beside[1])
    backbone = Backbone.of(profile, head)
    seconds: dict[str, float] = {}
    for (name, detector), request, measured in zip(named.items(), requests, assumed, strict=True):
        started = perf_counter()
        try:
            detector._settle(request, head)
            seconds[name] = perf_counter() - started
            if isinstance(detector, Supposes):
                detector.backbone = backbone
                detector.check_assumptions(measured, head)
        except OodlineError as error:
            failures[name] = error
    fitted = {name: detector for name, detector in named.items() if name not in failures}
    if failures and on_failure == "raise":
        raise fit_error(failures, tuple(fitted))
    return FitResult(fitted, failures, {name: seconds[name] for name in fitted}, backbone)


def _check_classes(
    loader: Iterable[Any], head: Head, order: TrainingAccuracy | None, statistics: Mapping[str, Any]
) -> None:
    source = getattr(loader, "source", None)
    warning = doubtful_order(source, head.num_classes, getattr(getattr(loader, "dataset", None), "label_offset", 0))
    if warning:
        warn(warning)
    if order is not None:
        order.class_names = getattr(source, "class_names", None)
        order._settle(statistics, head)
        if order.order:
            warn(order.order)
