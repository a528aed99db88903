"""A run as the numbers of a report: what its plots, slider and pictures show, detector by detector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from oodline.errors import InputError, unknown_name
from oodline.evaluation.metrics import auroc
from oodline.evaluation.risk_coverage import risk_coverage
from oodline.evaluation.run import Run
from oodline.report.curves import Bins, Curve, Ladder, accepting, bins, ladder, risk_curve, roc
from oodline.scoring.calibration import Calibration, calibrate, false_alarm_of

Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Pair:
    """The ID test data and one other set, for one detector.

    Parameters
    ----------
    bins : Bins
        Their histograms, in the bins of all pairs of the detector.
    roc : tuple of arrays
        x, y; None for a shifted ID set, which is not to be told apart.
    auroc : float or None
        Of all scores, not of the thinned curve.
    risk : tuple of arrays
        Coverage and risk where this OOD set comes beside the ID test data; None without labels, or for shifted ID data.
    aurc : float or None
        Of all scores.
    """

    bins: Bins
    roc: Curve | None
    auroc: float | None
    risk: Curve | None
    aurc: float | None


@dataclass(frozen=True, eq=False)
class DetectorContents:
    """One detector.

    Parameters
    ----------
    ladder : Ladder
        The slider's positions, over the ID test data and all others that are shown.
    wrong : ndarray (T,) or None
        At each position, the wrongly classified ID test images that are flagged; None without labels.
    pairs : dict of str to Pair
        By name of the other set.
    risk : tuple of arrays or None
        Coverage and risk of the ID test data alone.
    aurc : float or None
        Of the ID test data alone.
    calibration : Calibration or None
        From the run's calibration set, where it has one.
    """

    ladder: Ladder
    wrong: NDArray[np.int64] | None
    pairs: dict[str, Pair]
    risk: Curve | None
    aurc: float | None
    calibration: Calibration | None


def id_name(run: Run) -> str:
    """What the ID test data is called: the name of its set, or names joined where there are several."""
    return " + ".join(run.sets("id"))


def others(run: Run) -> list[str]:
    """The sets beside the ID test data: shifted ID data, then OOD sets."""
    return [*run.sets("csid"), *run.sets("ood")]


def ordered(run: Run, first: Sequence[str] | None = None) -> list[str]:
    """Labels of the detectors in the order of a report: those named come first, the others as the run has them.

    Raises
    ------
    UnknownNameError
        The run has no such detector.
    InputError
        It has none at all.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from oodline.testing import toy_run
    >>> with TemporaryDirectory() as folder:
    ...     ordered(toy_run(f"{folder}/run"), ["msp"])
    ['msp', 'energy']
    """
    labels = list(run.record.detectors)
    if not labels:
        raise InputError(f"the run {run.folder} has no detector, so there is nothing to report.")
    for label in first or ():
        if label not in labels:
            raise unknown_name("detector of this run", label, labels)
    return list(dict.fromkeys([*(first or ()), *labels]))


def read_contents(run: Run, label: str) -> DetectorContents:
    """The numbers of one detector.

    Raises
    ------
    InputError
        Scores are NaN, or a set is empty.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from oodline.testing import toy_run
    >>> with TemporaryDirectory() as folder:
    ...     found = read_contents(toy_run(f"{folder}/run"), "energy")
    >>> list(found.pairs), int(found.ladder.flagged["test"][found.ladder.marked])
    (['halved', 'origin'], 3)
    """
    ours, right = run.pooled(("id",))[label], run.correct()
    theirs = {name: run.scores(name)[label] for name in others(run)}
    calibration = calibration_of(run, label)
    marked = accepting(ours, run.record.tpr) if calibration is None else calibration.threshold
    steps = ladder(ours, theirs, marked, id_name=id_name(run))
    alone = None if right is None else risk_coverage(ours, right)
    shifted = run.sets("csid")
    histograms = bins(ours, theirs)
    return DetectorContents(
        steps,
        None if right is None else np.searchsorted(np.sort(ours[~right]), steps.thresholds),
        {name: _pair(histograms[name], ours, right, scores, name in shifted) for name, scores in theirs.items()},
        None if alone is None else risk_curve(alone, len(ours)),
        None if alone is None else alone.aurc,
        calibration,
    )


def calibration_of(run: Run, label: str) -> Calibration | None:
    """The calibration that the run made of its held-out ID set, None where it has none."""
    names = run.sets("calibration")
    if not names:
        return None
    scores = torch.tensor(np.concatenate([run.scores(name)[label] for name in names]))
    return calibrate(scores, false_alarm_of(None, run.record.tpr))


def _pair(counts: Bins, ours: Values, right: NDArray[np.bool_] | None, theirs: Values, shifted: bool) -> Pair:
    if shifted:
        return Pair(counts, None, None, None, None)
    risk = None if right is None else risk_coverage(ours, right, theirs)
    return Pair(
        counts,
        roc(ours, theirs),
        auroc(ours, theirs),
        None if risk is None else risk_curve(risk, len(ours) + len(theirs)),
        None if risk is None else risk.aurc,
    )
