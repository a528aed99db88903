"""Fit any number of detectors in one forward pass over the ID training data.

The detectors say which statistics they need; equal statistics are computed once; the pass fills them; then each
detector estimates its state. No detector changes before the pass is over: an interrupted fit leaves none half-fitted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Protocol, runtime_checkable

from oodline._util.checked import checked
from oodline._util.warning import warn
from oodline.data.batch import Loader
from oodline.data.class_order import doubtful_order
from oodline.errors import InputError, OodlineError
from oodline.model.activations import Needs
from oodline.model.classifier import Classifier
from oodline.model.head import Head
from oodline.passes.engine import Engine, Reads
from oodline.passes.local import Local
from oodline.passes.named import OneOrSeveral, name_detectors
from oodline.passes.training_accuracy import TrainingAccuracy
from oodline.statistics import Statistic


class Fittable(Protocol):
    """What `fit` needs to know of a detector."""

    name: ClassVar[str]
    """Name in tables and messages."""

    @property
    def all_needs(self) -> Needs:
        """What its statistics and scores read of the activations."""
        ...

    @property
    def all_layers(self) -> tuple[str, ...]:
        """Modules whose output they read."""
        ...

    def requests(self, head: Head) -> dict[str, Statistic]:
        """Empty statistics to fill."""
        ...

    def settle(self, statistics: Mapping[str, Any], head: Head) -> None:
        """Estimate its state from the filled ones."""
        ...


@runtime_checkable
class Supposes(Protocol):
    """A detector that can say whether what it supposes of the data holds."""

    def assumed(self) -> dict[str, Statistic]:
        """Empty statistics to fill, beside those it is estimated from."""
        ...

    def check_assumptions(self, statistics: Mapping[str, Any], head: Head) -> None:
        """Warn where the filled ones do not bear it out."""
        ...


def reads(detectors: Iterable[Fittable]) -> Reads:
    """What one pass must compute for all of `detectors`."""
    needs, layers = Needs.LOGITS, dict[str, None]()
    for detector in detectors:
        needs |= detector.all_needs
        layers |= dict.fromkeys(detector.all_layers)
    return Reads(needs=needs, layers=tuple(layers))


def share_equal(requests: Iterable[dict[str, Statistic]]) -> list[Statistic]:
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


class FitError(OodlineError, ValueError):
    """Some of several detectors, or all, could not be estimated; the others are fitted and can be used.

    Attributes
    ----------
    failures : dict of str to OodlineError
        Why, by the detector's name.
    fitted : tuple of str
        Names of the others.
    """

    def __init__(self, failures: dict[str, OodlineError], fitted: Sequence[str] = ()) -> None:
        reasons = "\n".join(f"  {name}: {error}" for name, error in failures.items())
        total = len(failures) + len(fitted)
        if fitted:
            what, rest = f"{len(failures)} of {total} detectors", f"\nThe others are fitted: {', '.join(fitted)}."
        else:
            what, rest = "the detector" if total == 1 else f"all {total} detectors", ""
        super().__init__(f"fitting failed for {what}:\n{reasons}{rest}")
        self.failures = failures
        self.fitted = tuple(fitted)


@checked
def fit(
    detectors: Annotated[Fittable | Iterable[Fittable] | Mapping[str, Fittable], OneOrSeveral()],
    classifier: Classifier,
    loader: Loader,
    *,
    engine: Engine | None = None,
    progress: bool = False,
) -> None:
    """Fit detectors on ID training data in one forward pass, in memory that does not grow with the data.

    Parameters
    ----------
    detectors : Detector, iterable, or mapping from name to Detector
        Fitted in place; two of the same name need a mapping. Those that need no data are left as they are; if none
        needs any, no pass is made.
    classifier : Classifier
        The frozen classifier.
    loader : iterable
        Batches of (inputs, labels): inputs (N, ...) as the model takes them, integer labels (N,) in the order of the
        logits. Anything `Classifier.stream` takes.
    engine : Engine, optional
        Who makes the pass: this process, or `Torchrun()` or `Ray(...)`, with the same result.
    progress : bool
        Show a progress bar with rate and time left on standard error.

    Warns
    -----
    UserWarning
        The classes of the data do not look like those of the classifier: another number, alphabetical where natural
        order differs, or some classes right and others predicted as one another.

    Raises
    ------
    InputError
        Empty loader, NaN or infinite activations.
    SettingError
        An argument is something else, or two detectors share a name.
    LabelError
        Labels missing or out of range, or a class without samples where a detector needs one.
    FitError
        Several detectors were asked for and some could not be estimated; names each with its reason.

    Warns
    -----
    AssumptionWarning
        The data does not bear out what a detector supposes of it, or a setting does not fit it; says the number.

    Notes
    -----
    A detector without state that supposes something of the features, such as ASH, has a pass made for this check.

    Examples
    --------
    >>> import torch
    >>> from oodline import Classifier, LINe, Mahalanobis, fit
    >>> _ = torch.manual_seed(0)
    >>> classifier = Classifier(torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3)))
    >>> loader = [(torch.randn(60, 4), torch.arange(60) % 3)]
    >>> line, mahalanobis = LINe(), Mahalanobis()
    >>> fit([line, mahalanobis], classifier, loader)
    >>> line.fitted and mahalanobis.fitted
    True
    """
    named = name_detectors(detectors)
    detectors = list(named.values())
    check_served(detectors, classifier)
    head = classifier.head
    requests = [detector.requests(head) for detector in detectors]
    assumed = [detector.assumed() if isinstance(detector, Supposes) else {} for detector in detectors]
    known = any(isinstance(d, TrainingAccuracy) for d in detectors)
    order = None if known or classifier.lacking(TrainingAccuracy.all_needs) else TrainingAccuracy()
    beside = [{}] if order is None else [order.requests(head)]
    wanted = [*requests, *assumed]
    shared = share_equal(wanted) and share_equal([*wanted, *beside])  # no pass is made for the accuracy alone
    if shared:
        (engine or Local()).fill(shared, classifier, loader, reads(detectors), task="fitting", progress=progress)
        head = classifier.head
        _check_classes(loader, head, order, beside[0])
    failures: dict[str, OodlineError] = {}
    done: list[str] = []
    for (name, detector), request, measured in zip(named.items(), requests, assumed, strict=True):
        try:
            detector.settle(request, head)
            if isinstance(detector, Supposes):
                detector.check_assumptions(measured, head)
        except OodlineError as error:
            if len(detectors) == 1:
                raise
            failures[name] = error
        else:
            done.append(name)
    if failures:
        raise FitError(failures, done)


def _check_classes(
    loader: Iterable[Any], head: Head, order: TrainingAccuracy | None, statistics: Mapping[str, Any]
) -> None:
    source = getattr(loader, "source", None)
    warning = doubtful_order(source, head.num_classes, getattr(getattr(loader, "dataset", None), "label_offset", 0))
    if warning:
        warn(warning)
    if order is not None:
        order.class_names = getattr(source, "class_names", None)
        order.settle(statistics, head)
        if order.order:
            warn(order.order)
