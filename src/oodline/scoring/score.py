"""Score a data set with any number of detectors in one forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from oodline._util.checked import checked
from oodline._util.warning import warn
from oodline.data.batch import Loader
from oodline.detectors.named import Detectors, name_detectors
from oodline.errors import MismatchError, OodlineError
from oodline.model.classifier import Classifier
from oodline.model.head import HeadInfo
from oodline.passes.engine import Engine
from oodline.passes.fit import check_served, reads, unsupported
from oodline.passes.local import Local
from oodline.scoring.score_collector import ScoreCollector


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
        As the loader yielded them, -1 for a sample without one; None where no sample has one.
    seconds : dict of str to float
        Wall time of each detector's own part, beside the forward pass that all share.
    content : Tensor (N,), int64, optional
        A hash of each sample's features: the same content has the same one; see `statistics.content_sketch`. None
        where scores were read from a file.
    failures : dict of str to OodlineError
        Why other detectors have no scores, by name. Empty unless `on_failure="skip"`.

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
    failures: dict[str, OodlineError] = field(default_factory=dict)

    def where_finite(self) -> Scores:
        """The samples whose scores are all finite: those that have a row, where a sample has several or none."""
        kept = torch.ones(len(self.index), dtype=torch.bool)
        for column in self.scores.values():
            kept &= column.isfinite()
        return replace(
            self,
            scores={name: column[kept] for name, column in self.scores.items()},
            predicted=self.predicted[kept],
            index=self.index[kept],
            labels=None if self.labels is None else self.labels[kept],
            content=None if self.content is None else self.content[kept],
        )


@checked
def score(
    detectors: Detectors,
    classifier: Classifier,
    loader: Loader,
    *,
    on_failure: Literal["raise", "skip"] = "raise",
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
    on_failure : {"raise", "skip"}
        Where a detector cannot be served or fails on a batch, or a score is NaN or infinite: raise an error, or go on
        without that detector and warn. What fails for all of them is raised in any case.
    engine : Engine, optional
        Who makes the pass: this process, or `Torchrun()` or `Ray(...)`.
    progress : bool
        Show a progress bar with rate and time left on standard error.

    Returns
    -------
    dict of str to Tensor (N,), float64
        In the order of the loader, and of the samples' positions where several processes made the pass; higher = more
        in-distribution. They are in memory: 8 bytes per sample and detector, and 24 per sample beside.

    Warns
    -----
    UserWarning
        A detector was left out; says why.

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
    found = score_all(detectors, classifier, loader, on_failure=on_failure, engine=engine, progress=progress)
    for name, error in found.failures.items():
        warn(f"'{name}' is left out: {error}")
    return found.scores


@checked
def score_all(
    detectors: Detectors,
    classifier: Classifier,
    loader: Loader,
    *,
    on_failure: Literal["raise", "skip"] = "raise",
    engine: Engine | None = None,
    progress: bool = False,
) -> Scores:
    """As `score`, with predicted classes, labels, the position of each sample and failures beside the scores.

    Examples
    --------
    >>> from oodline import ODIN, Energy
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> inputs = {"input": loader[0][0]}  # a mapping, as for a text classifier: nothing to differentiate by
    >>> found = score_all([Energy(), ODIN()], classifier, [inputs], on_failure="skip")
    >>> list(found.scores), list(found.failures)
    (['energy'], ['odin'])
    """
    named, passes = name_detectors(detectors), engine or Local()
    failures: dict[str, OodlineError] = {}
    if on_failure == "raise":
        check_served(named.values(), classifier)
        check_fitted_on(named, classifier)
    else:
        with passes.synchronised():
            failures = unsupported(named, classifier, loader)
        for name, detector in named.items():
            try:
                check_fitted_on({name: detector}, classifier)
            except MismatchError as error:
                failures[name] = error
        named = {name: detector for name, detector in named.items() if name not in failures}
    columns = ScoreCollector(named, on_failure)
    passes.fill([columns], classifier, loader, reads(named.values()), task="scoring", progress=progress)
    ordered = columns.ordered()
    failures |= columns.failures
    return Scores(
        scores={name: ordered[f"score/{name}"] for name in named if name not in failures},
        predicted=ordered["predicted"],
        index=ordered["index"],
        content=ordered["content"],
        labels=ordered["labels"] if columns.labelled else None,
        seconds={name: spent for name, spent in columns.seconds.items() if name not in failures},
        failures=failures,
    )


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
        if known.task != now.task:
            raise MismatchError(
                f"'{name}' was fitted on a {known.task} classifier, and this one is {now.task}. Load it as it was: "
                f"Classifier(model, task='{known.task}'), or --task {known.task}."
            )
        if known.fingerprint != now.fingerprint:
            raise MismatchError(
                f"'{name}' was fitted on another classifier: a head of {known.num_classes} classes and "
                f"{known.num_features} features with fingerprint {known.fingerprint[:12]}, while this one has "
                f"{now.num_classes} and {now.num_features} with {now.fingerprint[:12]}. Fit it again on this one."
            )
