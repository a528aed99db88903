"""Score a data set with any number of detectors in one forward pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from jaxtyping import Float, Int
from torch import Tensor

from oodline._util.checked import checked
from oodline.data.batch import Loader
from oodline.detectors.base import Detector
from oodline.errors import HeadError, InputError, MismatchError, OodlineError
from oodline.model.activations import Needs
from oodline.model.classifier import Classifier
from oodline.model.head import HeadInfo
from oodline.passes.engine import Engine
from oodline.passes.fit import check_served, reads
from oodline.passes.local import Local
from oodline.passes.named import name_detectors
from oodline.scoring.columns import ScoreCollector

Detectors = Detector | Mapping[str, Detector] | Iterable[Detector]
"""One, several, or several by a name of one's choice. A public function also takes a detector's name in its place."""

CHEAP = Needs.LOGITS | Needs.FEATURES | Needs.HEAD | Needs.LINEAR_HEAD
"""What every pass gives, whoever asks."""


@dataclass(frozen=True, eq=False)
class Scores:
    """Everything one pass over a data set gave.

    Parameters
    ----------
    scores : dict of str to Tensor (N,), float64
        One entry per detector, higher = more in-distribution.
    predicted : Tensor (N,), int64
        Class with the largest logit.
    index : Tensor (N,), int64
        Position of each sample in its data set.
    labels : Tensor (N,), int64, optional
        As the loader yielded them, None where it yields none.
    seconds : dict of str to float
        Wall time of each detector's own part, beside the forward pass that all share.
    content : Tensor (N,), int64, optional
        A hash of each sample's features: the same content has the same one; see `statistics.content_sketch`. None
        where scores were read from a file.

    Examples
    --------
    >>> from oodline.detectors.energy import Energy
    >>> from oodline.testing import toy_problem
    >>> found = score_all(Energy(), *toy_problem())
    >>> found.scores["energy"].shape, bool((found.predicted == found.labels).float().mean() > 0.9)
    (torch.Size([60]), True)
    """

    scores: dict[str, Float[Tensor, " n"]]
    predicted: Int[Tensor, " n"]
    index: Int[Tensor, " n"]
    labels: Int[Tensor, " n"] | None
    seconds: dict[str, float]
    content: Int[Tensor, " n"] | None = None


@checked
def score(
    detectors: Detectors,
    classifier: Classifier,
    loader: Loader,
    *,
    engine: Engine | None = None,
    progress: bool = False,
) -> dict[str, Float[Tensor, " n"]]:
    """Score a data set by any number of detectors in one forward pass.

    Parameters
    ----------
    detectors : Detector, name, iterable of them, or mapping from names to them
        Those that need fitting must be fitted. A mapping names the columns; otherwise each detector's own name does.
    classifier : Classifier
        The classifier that the detectors were fitted on.
    loader : iterable
        Batches, or one tensor or array as the only batch; labels, where there are any, are not used.
    engine : Engine, optional
        Who makes the pass: this process, or `Torchrun()` or `Ray(...)`.
    progress : bool
        Show a progress bar with rate and time left on standard error.

    Returns
    -------
    dict of str to Tensor (N,), float64
        In the order of the loader, and of the samples' positions where several processes made the pass; higher = more
        in-distribution. They are in memory: 8 bytes per sample and detector, and 24 per sample beside.

    Raises
    ------
    InputError
        Empty loader, or NaN or infinite activations or scores.
    MismatchError
        A detector was fitted on another head.
    NotFittedError
        A detector is not fitted.

    Examples
    --------
    >>> import torch
    >>> from oodline import Classifier, Energy, MSP, score
    >>> _ = torch.manual_seed(0)
    >>> classifier = Classifier(torch.nn.Linear(4, 3))
    >>> scores = score([Energy(), MSP()], classifier, [torch.randn(5, 4), torch.randn(2, 4)])
    >>> {name: values.shape for name, values in scores.items()}
    {'energy': torch.Size([7]), 'msp': torch.Size([7])}
    """
    return score_all(detectors, classifier, loader, engine=engine, progress=progress).scores


@checked
def score_all(
    detectors: Detectors,
    classifier: Classifier,
    loader: Loader,
    *,
    engine: Engine | None = None,
    progress: bool = False,
) -> Scores:
    """As `score`, with predicted classes, labels and the position of each sample beside the scores."""
    named = name_detectors(detectors)
    check_served(named.values(), classifier)
    check_fitted_on(named, classifier)
    columns = ScoreCollector(named)
    (engine or Local()).fill([columns], classifier, loader, reads(named.values()), task="scoring", progress=progress)
    found = columns.ordered()
    return Scores(
        scores={name: found[f"score/{name}"] for name in named},
        predicted=found["predicted"],
        index=found["index"],
        content=found["content"],
        labels=found["labels"] if columns.labelled else None,
        seconds=columns.seconds,
    )


def unsupported(
    detectors: Mapping[str, Detector], classifier: Classifier, loader: Iterable[Any]
) -> dict[str, OodlineError]:
    """Which detectors this classifier cannot serve, with the reason, such as no feature map.

    Reads the first batch of a loader that can be read again, and runs the classifier once for each detector that
    needs more than features and logits.

    Examples
    --------
    >>> from oodline import NAP, Energy
    >>> from oodline.testing import toy_problem
    >>> list(unsupported({"nap": NAP(), "energy": Energy()}, *toy_problem()))
    ['nap']
    """
    failures: dict[str, OodlineError] = {}
    batch = next(iter(loader), None)
    for name, detector in detectors.items():
        try:
            check_served([detector], classifier)
            requests = detector.requests(classifier.head)
            if batch is not None and (detector.all_layers or detector.all_needs & ~CHEAP):
                activations, labels = next(classifier.stream([batch], **reads([detector])))
                # only a second pass shows whether the inputs can be differentiated
                for statistic in requests.values() if Needs.CLASSIFIER in detector.all_needs else ():
                    statistic.update(activations, labels)
        except (HeadError, InputError) as error:
            failures[name] = error
    return failures


class FittedOn(Protocol):
    """Something that remembers the head it was fitted on."""

    fitted_on: HeadInfo | None


def check_fitted_on(detectors: Mapping[str, FittedOn], classifier: Classifier) -> None:
    """Raise `MismatchError` where a detector was fitted on another head than the classifier's."""
    fitted = {name: d.fitted_on for name, d in detectors.items() if d.fitted_on is not None}
    if not fitted:
        return
    classifier.expect(next(iter(fitted.values())))
    now = HeadInfo.of(classifier.head)
    for name, known in fitted.items():
        if known.fingerprint != now.fingerprint:
            raise MismatchError(
                f"'{name}' was fitted on another classifier: a head of {known.num_classes} classes and "
                f"{known.num_features} features with fingerprint {known.fingerprint[:12]}, while this one has "
                f"{now.num_classes} and {now.num_features} with {now.fingerprint[:12]}. Fit it again on this one."
            )
