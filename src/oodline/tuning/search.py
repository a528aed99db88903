"""Choose a detector's settings from ID data alone.

Papers choose them by looking at OOD results. Here held-out ID data is turned into pseudo-outliers, near ones and far
ones, every candidate is fitted from the statistics of one pass over the fit data, and the one is kept that tells
held-out data from pseudo-outliers best: the largest mean AUROC, near and far counting the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any

from oodline._util.checked import checked
from oodline._util.progress import track
from oodline._util.ranges import Range, Seed
from oodline.data.batch import Loader, unpack
from oodline.detectors.base import Detector
from oodline.detectors.catalog import write_reference
from oodline.detectors.rectifier import Rectifier
from oodline.errors import FewSamplesWarning, InputError, OodlineError, SettingError
from oodline.model.classifier import Classifier
from oodline.passes.engine import Reads
from oodline.passes.fit import reads
from oodline.statistics import Statistic
from oodline.tuning.candidates import Candidate, best, combinations, with_settings
from oodline.tuning.cases import Case, make_cases
from oodline.tuning.data_fingerprint import DataFingerprint, Fingerprinter
from oodline.tuning.held_out import Groups, hold_out
from oodline.tuning.pseudo_outliers import FAR, NEAR

PSEUDO_OUTLIERS: Groups = MappingProxyType({"near": NEAR, "far": FAR})
"""What `tune` makes of images."""

SHARED = 0.05
"""If more than this fraction of the held-out samples is among the fit data, they are not held out."""

PRUNED = ("p", "p_a", "p_w")
"""What a `Rectifier` calls the share that it prunes."""


@dataclass(frozen=True, eq=False)
class Tuned:
    """The chosen settings, and all that was tried.

    Parameters
    ----------
    detector : Detector
        With the chosen settings, fitted.
    best : Candidate
        The chosen one.
    candidates : tuple of Candidate
        All, in the order they were tried; the first has the settings that the detector came with.
    fit_data, held_out_data : DataFingerprint
        All data that was read.
    seed : int
        Of the pseudo-outliers.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> from oodline import DICE
    >>> classifier, [(inputs, labels)] = toy_problem()
    >>> tuned = tune(DICE(), classifier, [(inputs[:30], labels[:30])], [(inputs[30:], labels[30:])])
    >>> tuned.held_out_data.samples, tuned.best.value >= tuned.candidates[0].value
    (30, True)
    """

    detector: Detector
    best: Candidate
    candidates: tuple[Candidate, ...]
    fit_data: DataFingerprint
    held_out_data: DataFingerprint
    seed: int

    @property
    def reference(self) -> str:
        """The detector as `create_detector` and `--detector` take it."""
        return write_reference(self.detector, also=tuple(self.best.settings))

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence for each chosen share of pruning that is 0: the method then prunes nothing."""
        if not isinstance(self.detector, Rectifier):
            return ()
        name = type(self.detector).__name__
        return tuple(
            f"{setting}=0 turns this pruning of {name} off: no larger share that was tried did better here."
            for setting in PRUNED
            if self.best.settings.get(setting) == 0
        )


@checked
def tune(
    detector: Detector,
    classifier: Classifier,
    fit_loader: Loader,
    held_out_loader: Loader,
    *,
    grid: Mapping[str, Sequence[Any]] | None = None,
    pseudo_outliers: Groups = PSEUDO_OUTLIERS,
    limit: Annotated[int, Range(2)] = 1000,
    seed: Seed = 0,
    progress: bool = False,
) -> Tuned:
    """Choose the settings of a detector from ID data alone, and fit it with them.

    The network runs once over the fit data, and over `limit` held-out samples and each of their transforms (nine).
    Inputs that are not images have pseudo-outliers in feature space: features mixed between samples, and classes left
    out of the head. These tell less; `docs/results/tune.md` says how much.

    Parameters
    ----------
    detector : Detector
        Which method, with the settings that are not tuned; left as it is.
    classifier : Classifier
        The frozen classifier.
    fit_loader : iterable
        ID training data with labels, as `oodline.fit` takes it.
    held_out_loader : iterable
        ID data that neither classifier nor detector was fitted on, shuffled: images are mixed with others of their
        batch. Labels are used for leaving classes out only.
    grid : mapping of str to sequence, optional
        Values to try by setting. If omitted, what the detector declares in `tunable`.
    pseudo_outliers : mapping of str to mapping of str to Transform
        Transforms of images by group and name, for another domain than photographs; each group counts the same.
    limit : int
        Most held-out samples to use: their activations, and those of the pseudo-outliers, stay in memory.
    seed : int
        Of the pseudo-outliers.
    progress : bool
        Show progress bars on standard error.

    Returns
    -------
    Tuned
        The fitted detector and the table of candidates.

    Raises
    ------
    SettingError
        The detector declares nothing to tune, the grid is empty, or no candidate can be used.
    InputError
        Held-out samples are fit data, are all of one class, or come one image per batch; no pseudo-outliers can
        be made for this detector of such inputs; an empty loader.

    Examples
    --------
    >>> from oodline import KNN
    >>> from oodline.testing import toy_problem
    >>> classifier, [(inputs, labels)] = toy_problem()
    >>> fit, held_out = [(inputs[:30], labels[:30])], [(inputs[30:], labels[30:])]
    >>> tuned = tune(KNN(k=10), classifier, fit, held_out, grid={"k": [1, 5, 20]})
    >>> tuned.reference, len(tuned.candidates), tuned.detector.fitted
    ('knn,k=1', 4, True)
    """
    choices = combinations(detector, grid)
    built, failures = _build(detector, choices)
    usable = [candidate for candidate in built if candidate is not None]
    if not usable:
        raise SettingError(f"none of the {len(choices)} candidates can be built; the first: {failures[0].failure}")
    asked = reads(usable)
    held_out = hold_out(classifier, held_out_loader, pseudo_outliers, asked, limit=limit, seed=seed, shown=progress)
    cases = make_cases(built, classifier.head, held_out, seed)
    fit_data = _fill(cases, classifier, fit_loader, asked, held_out.witness, progress)
    tried = []
    for i, choice in enumerate(track(choices, "candidates", choices, shown=progress)):
        tried.append(failures.get(i) or _judge(detector, choice, [(case, case.requests[i]) for case in cases]))
    chosen = best(tried)
    final = with_settings(detector, chosen.settings)
    final._settle(cases[0].requests[tried.index(chosen)], cases[0].head)
    return Tuned(final, chosen, tuple(tried), fit_data, held_out.witness.touched, seed)


def _build(
    detector: Detector, choices: Sequence[Mapping[str, Any]]
) -> tuple[list[Detector | None], dict[int, Candidate]]:
    built: list[Detector | None] = []
    failures = {}
    for i, choice in enumerate(choices):
        try:
            built.append(with_settings(detector, choice))
        except SettingError as error:  # such as more neighbours than the bank holds
            built.append(None)
            failures[i] = Candidate(choice, failure=str(error))
    return built, failures


def _fill(
    cases: Sequence[Case],
    classifier: Classifier,
    loader: Iterable[Any],
    asked: Reads,
    held_out: Fingerprinter,
    progress: bool,
) -> DataFingerprint:
    witness, shared, total = Fingerprinter(), 0, 0
    for batch in track(loader, "fitting", loader, shown=progress):
        inputs, labels, index = unpack(batch, total)
        witness.see(inputs, remember=False)
        shared += held_out.shared(inputs)
        total += len(index)
        activations = classifier(inputs, index=index, **asked)
        for case in cases:
            case.update(activations, labels)
    if total == 0:
        raise InputError("the loader of fit data yielded no batch. Check the path and the split.")
    held = held_out.touched.samples
    if shared > SHARED * held:
        raise InputError(
            f"{shared} of {held} held-out samples are among the fit data. On what it was fitted on a detector tells "
            "nothing about new data: pass held-out ID data, such as a validation split."
        )
    return witness.touched


def _judge(
    detector: Detector, choice: Mapping[str, Any], cases: Sequence[tuple[Case, Mapping[str, Statistic]]]
) -> Candidate:
    found: dict[str, dict[str, list[float]]] = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FewSamplesWarning)  # said once, of the chosen one
            for case, request in cases:
                for name, area in case.areas(with_settings(detector, choice), request).items():
                    in_group, _, of = name.partition("/")
                    found.setdefault(in_group, {}).setdefault(of, []).append(area)
    except OodlineError as error:
        return Candidate(choice, failure=str(error))
    means = {group: {name: sum(v) / len(v) for name, v in sets.items()} for group, sets in found.items()}
    return Candidate(choice, means)
