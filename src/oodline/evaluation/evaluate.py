"""From ID and OOD data sets to a table: every detector, every set, one forward pass over each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from oodline._util.checked import checked
from oodline._util.progress import track
from oodline._util.warning import warn
from oodline.data.batch import Loader
from oodline.detectors.named import Detectors, name_detectors
from oodline.errors import InputError, LabelError, unknown_name
from oodline.evaluation.bootstrap import Bootstrap, Interval
from oodline.evaluation.metric_table import METRICS
from oodline.evaluation.metrics import EXACT, Convention
from oodline.evaluation.paper import PAPER
from oodline.evaluation.pooling import full_spectrum, pool
from oodline.evaluation.scored_sets import ScoredSets, check_names
from oodline.evaluation.table import Column, Table
from oodline.model.classifier import Classifier
from oodline.scoring.score import score_all

__all__ = ["Column", "Table", "evaluate", "score_sets", "tabulate", "tabulate_sets"]


def tabulate(
    id_scores: Mapping[str, Float[Tensor, " n"]],
    ood_scores: Mapping[str, Mapping[str, Float[Tensor, " m"]]],
    *,
    groups: Mapping[str, Sequence[str]] | None = None,
    convention: Convention = EXACT,
    bootstrap: Bootstrap | None = None,
    progress: bool = False,
) -> Table:
    """Metrics from scores that are already there: ID scores by detector, OOD scores by set and detector.

    Parameters
    ----------
    id_scores, ood_scores : mapping
        Higher = more in-distribution.
    groups : mapping of str to sequence of str, optional
        Names of OOD sets by group, such as near and far, of each of which a mean is shown.
    convention : Convention
        `EXACT`, or `oodline.evaluation.paper.PAPER` to count as the authors of LINe do.
    bootstrap : Bootstrap, optional
        With it, every set and every mean has a confidence interval.

    Raises
    ------
    InputError
        No OOD set, or NaN scores.
    SettingError
        A group names no OOD set.

    Examples
    --------
    >>> from torch import tensor
    >>> ours, theirs = tensor([2.0, 3.0, 4.0]), tensor([1.0, 2.5])
    >>> sets = {"a": {"energy": theirs}, "b": {"energy": theirs - 1}, "c": {"energy": theirs - 2}}
    >>> table = tabulate({"energy": ours}, sets, groups={"near": ["a", "b"]}, bootstrap=Bootstrap(resamples=100))
    >>> [column.title for column in table.columns]
    ['a', 'b', 'near mean', 'c', 'mean']
    >>> table.interval("energy", "auroc", None).high
    1.0
    """
    if not ood_scores:
        raise InputError("an evaluation needs at least one OOD data set beside the ID one.")
    cells = {
        name: {ood: convention.measure(scores, by_name[name]) for ood, by_name in ood_scores.items()}
        for name, scores in id_scores.items()
    }
    table = Table(cells, groups=groups or {}, convention=convention.name)
    several = [column.sets for column in table.columns if len(column.sets) > 1]
    pooled = {
        name: {sets: convention.measure(scores, pool({ood: ood_scores[ood][name] for ood in sets})) for sets in several}
        for name, scores in id_scores.items()
    }
    intervals = {}
    if bootstrap is not None:
        for name in track(list(id_scores), "resampling", id_scores, shown=progress, unit="detectors"):
            theirs = {ood: by_name[name] for ood, by_name in ood_scores.items()}
            intervals[name] = _intervals(id_scores[name], theirs, table.columns, convention, bootstrap)
    return replace(table, pooled=pooled, intervals=intervals)


def _intervals(
    ours: Tensor, theirs: Mapping[str, Tensor], columns: Sequence[Column], convention: Convention, bootstrap: Bootstrap
) -> dict[Column, dict[str, Interval]]:
    drawn = bootstrap.resample(ours, theirs, convention)
    return {
        column: {m: bootstrap.interval(np.mean([drawn[name][m] for name in column.sets], axis=0)) for m in METRICS}
        for column in columns
    }


@checked
def score_sets(
    detectors: Detectors,
    classifier: Classifier,
    id_loader: Loader,
    ood_loaders: Mapping[str, Loader],
    *,
    csid_loaders: Mapping[str, Loader] | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
    progress: bool = False,
) -> ScoredSets:
    """Score every data set of an evaluation, each in one forward pass; parameters and errors as `evaluate`.

    Examples
    --------
    >>> import torch
    >>> from oodline import Energy
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> found = score_sets(Energy(), classifier, loader, {"zeros": [torch.zeros(5, 4)]})
    >>> len(found.id.index), len(found.ood["zeros"].index), found.correct().float().mean() > 0.9
    (60, 5, tensor(True))
    """
    named = name_detectors(detectors)
    if not ood_loaders:
        raise InputError("an evaluation needs at least one OOD data set beside the ID one.")
    check_names(ood_loaders.keys(), (csid_loaders or {}).keys(), groups or {})

    def scores(loaders: Mapping[str, Iterable[Any]]) -> dict[str, Any]:
        return {name: score_all(named, classifier, loader, progress=progress) for name, loader in loaders.items()}

    ours = score_all(named, classifier, id_loader, progress=progress)
    classes = classifier.head.num_classes
    if ours.labels is not None and (outside := int((ours.labels >= classes).sum())):
        raise LabelError(
            f"{outside} of the {len(ours.labels)} ID samples have labels outside [0, {classes - 1}], the classes of "
            "this classifier. Check that the data names the same classes; an empty class folder counts as a class."
        )
    if ours.labels is not None and (missing := int((ours.labels < 0).sum())):
        first = int(ours.index[(ours.labels < 0).nonzero()[0, 0]])
        warn(
            f"{missing} of the {len(ours.labels)} ID samples have no label (the first: sample {first}), so there is no "
            "accuracy. Label or leave out these."
        )
    return ScoredSets(ours, scores(ood_loaders), scores(csid_loaders or {}), groups or {})


def tabulate_spectra(
    id_scores: Mapping[str, Float[Tensor, " n"]],
    ood_scores: Mapping[str, Mapping[str, Float[Tensor, " m"]]],
    csid_scores: Mapping[str, Mapping[str, Float[Tensor, " k"]]],
    milliseconds: Mapping[str, float],
    **how: Any,
) -> Table:
    """As `tabulate`, which `how` is handed to; with covariate-shifted ID sets, `full_spectrum` counts them as ID."""
    main = replace(tabulate(id_scores, ood_scores, **how), milliseconds=dict(milliseconds))
    if not csid_scores:
        return main
    both = full_spectrum(id_scores, csid_scores)
    return replace(main, full_spectrum=tabulate_spectra(both, ood_scores, {}, milliseconds, **how))


def tabulate_sets(sets: ScoredSets, *, convention: Convention = EXACT, bootstrap: Bootstrap | None = None) -> Table:
    """The table of scored sets; where there are covariate-shifted ID sets, `full_spectrum` counts them as ID.

    Raises
    ------
    InputError, SettingError
        As `tabulate`.
    """
    ood = {name: found.scores for name, found in sets.ood.items()}
    correct = sets.correct()
    accuracy = None if correct is None else float(correct.double().mean())
    csid = {name: found.scores for name, found in sets.csid.items()}
    table = tabulate_spectra(
        sets.id.scores, ood, csid, sets.milliseconds, groups=sets.groups, convention=convention, bootstrap=bootstrap
    )
    return replace(table, accuracy=accuracy)


@checked
def evaluate(
    detectors: Detectors,
    classifier: Classifier,
    id_loader: Loader,
    ood_loaders: Mapping[str, Loader],
    *,
    csid_loaders: Mapping[str, Loader] | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
    convention: Convention | Literal["exact", "paper"] = EXACT,
    bootstrap: Bootstrap | int | None = None,
    progress: bool = False,
) -> Table:
    """Score one ID and any number of OOD data sets, each in one forward pass, and tabulate all metrics.

    What `oodline evaluate` does; `write_table` of `oodline.evaluation.writing` writes the result as it does.

    Parameters
    ----------
    detectors : Detector, name, iterable of them, or mapping from names to them
        Fitted.
    classifier : Classifier
        The classifier that they were fitted on.
    id_loader : iterable
        In-distribution test data, batches as `oodline.score` takes them.
    ood_loaders : mapping of str to iterable
        Out-of-distribution data, by name.
    csid_loaders : mapping of str to iterable, optional
        Covariate-shifted ID data, by name; the table's `full_spectrum` then counts it as ID.
    groups : mapping of str to sequence of str, optional
        Names of OOD sets by group, such as near and far.
    convention : {"exact", "paper"} or Convention
        How metrics count ties and areas: exactly, or as the code of the LINe, DICE and ReAct papers.
    bootstrap : int or Bootstrap, optional
        Resamples for 95 % confidence intervals, such as 1000; none if omitted.
    progress : bool
        Show a progress bar on standard error.

    Raises
    ------
    InputError
        No OOD set, an empty loader, NaN or infinite activations or scores.
    SettingError
        Two sets have the same name, a group names no OOD set, or there are fewer than 2 resamples.

    Examples
    --------
    >>> import torch
    >>> from oodline import Energy
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> table = evaluate(Energy(), classifier, loader, {"origin": [torch.zeros(50, 4)]})
    >>> table.value("energy", "auroc", "origin") > 0.9
    True
    >>> print(table.to_markdown())
    | detector | origin |
    |---|---|
    | energy | **100.00** |
    """
    counting, drawing = convention_of(convention), bootstrap_of(bootstrap)
    sets = score_sets(
        detectors, classifier, id_loader, ood_loaders, csid_loaders=csid_loaders, groups=groups, progress=progress
    )
    return tabulate_sets(sets, convention=counting, bootstrap=drawing)


def convention_of(given: Convention | str) -> Convention:
    """A convention, or that of a name.

    Raises
    ------
    UnknownNameError
        There is none of this name.
    """
    if isinstance(given, Convention):
        return given
    known = {each.name: each for each in (EXACT, PAPER)}
    if given not in known:
        raise unknown_name("convention", given, known)
    return known[given]


def bootstrap_of(given: Bootstrap | int | None) -> Bootstrap | None:
    """A bootstrap, or one of this many resamples; None for 0 or None.

    Raises
    ------
    SettingError
        There are fewer than 2 resamples.
    """
    return given if given is None or isinstance(given, Bootstrap) else Bootstrap(given) if given else None
