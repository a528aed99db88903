"""What the callbacks of Lightning and transformers do when training ends: fit, calibrate, evaluate, save."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.data import DataLoader

from oodline._util.checked import checked
from oodline._util.files import check_writable
from oodline._util.ranges import Rate
from oodline.data.batch import Loader
from oodline.detectors.named import Detectors
from oodline.errors import SettingError
from oodline.evaluation.evaluate import evaluate
from oodline.evaluation.metric_table import PRINTED
from oodline.evaluation.scored_sets import check_names
from oodline.evaluation.table import Table
from oodline.guard.fit_guards import FittedGuards, fit_guards
from oodline.model.classifier import Classifier
from oodline.scoring.calibration import check_enough
from oodline.scoring.split import belongs, count_samples, split

PART = 0.5
"""Of the validation data: what is calibrated on where the rest is for the table."""


class EndOfTraining:
    """Detectors of a classifier that has just been trained: fitted, calibrated, evaluated and saved.

    Parameters
    ----------
    ood : mapping of str to iterable
        Loaders of OOD data by name, for the table. None is made where there are none.
    train, val : iterable, optional
        Loaders of ID data: to fit on, with labels, and held-out. If omitted, those of the training itself.
    test : iterable, optional
        ID data for the table. If omitted, half of `val`; the other half is then for the threshold.
    detectors : Detector, name, or several, optional
        `oodline.default` if omitted.
    false_alarm : float
        Promised probability that an ID input is flagged, in (0, 1).
    groups : mapping of str to sequence of str, optional
        Names of OOD sets by group, such as near and far.
    save : str or Path, optional
        Where to write the guard file.

    Attributes
    ----------
    guards : FittedGuards
        After training; `guards.guard()` is the calibrated guard.
    table : Table
        After training, where there is OOD data.

    Raises
    ------
    SettingError
        A group names no OOD set.
    """

    guards: FittedGuards | None = None
    table: Table | None = None

    @checked
    def __init__(
        self,
        *,
        ood: Mapping[str, Loader] | None = None,
        train: Loader | None = None,
        val: Loader | None = None,
        test: Loader | None = None,
        detectors: Detectors | None = None,
        false_alarm: Rate = 0.05,
        groups: Mapping[str, Sequence[str]] | None = None,
        save: str | Path | None = None,
    ) -> None:
        super().__init__()
        self.ood, self.groups = dict(ood or {}), groups
        self.train, self.val, self.test = train, val, test
        self.detectors, self.false_alarm, self.save = detectors, false_alarm, save
        check_names(self.ood, (), groups or {})

    def given(self, name: Literal["train", "val"], theirs: Any) -> Iterable[Any]:
        """The loader that was given by this name, else the training's own, of which there must be one.

        Raises
        ------
        SettingError
            The training has none, or several.
        """
        mine: Iterable[Any] | None = getattr(self, name)
        if mine is not None:
            return mine
        loaders = list(theirs.values()) if isinstance(theirs, Mapping) else theirs
        if isinstance(loaders, list | tuple) and loaders and all(isinstance(each, DataLoader) for each in loaders):
            if len(loaders) > 1:
                raise SettingError(f"`{name}` must be one loader; the training has {len(loaders)}. Pass {name}=...")
            loaders = loaders[0]
        if loaders is None:
            raise SettingError(f"`{name}` must be a loader, since the training has none; got None. Pass {name}=...")
        found: Iterable[Any] = loaders
        return found

    def check_shares(self, processes: int) -> None:
        """Refuse shares of the data, of which each process sees one.

        Raises
        ------
        SettingError
            There are several processes, and `train` or `val` was not given.
        """
        if processes > 1 and (self.train is None or self.val is None):
            raise SettingError(
                f"`train` and `val` must be loaders of all data where {processes} processes train, each of which sees "
                "a share; got None. Pass OODCallback(train=..., val=...)."
            )

    def check_start(self, val: Iterable[Any] | None) -> None:
        """Find out before the training what would fail after it; `val` is the held-out data, where it is known yet.

        Raises
        ------
        DataError
            The guard's file cannot be written.
        InputError, SettingError
            The held-out data is empty, or too small for the false-alarm rate.
        """
        if self.save is not None:
            check_writable(self.save)
        if val is not None and (count := count_samples(val)) is not None:
            halved = self.test is None and bool(self.ood)
            check_enough(int(belongs(torch.arange(count), PART).sum()) if halved else count, self.false_alarm)

    def finish(
        self,
        model: nn.Module,
        train: Iterable[Any],
        val: Iterable[Any],
        log: Callable[[dict[str, float]], object],
    ) -> None:
        """Fit, calibrate, evaluate, log and save.

        Parameters
        ----------
        model : nn.Module
            The trained classifier.
        train, val : iterable
            ID data with labels, and held-out.
        log : callable
            Called with `ood/SET/DETECTOR/METRIC`, rates in [0, 1], where there is OOD data.

        Raises
        ------
        OodlineError
            As `fit_guards`, `evaluate` and `Guard.save`; a table that fails leaves the file, and a file the table.
        """
        held_out, test = split(val, PART) if self.test is None and self.ood else (val, self.test)
        classifier = Classifier(model)
        self.guards = fit_guards(self.detectors, classifier, train, held_out, false_alarm=self.false_alarm)
        try:
            if self.ood:
                assert test is not None
                self.table = evaluate(self.guards.artifact.detectors, classifier, test, self.ood, groups=self.groups)
                log(_rates(self.table))
        finally:
            if self.save is not None:
                self.guards.save(self.save)


def _rates(table: Table) -> dict[str, float]:
    return {
        f"ood/{column.title}/{detector}/{metric}": table.value(detector, metric, column)
        for detector in table.cells
        for column in table.columns
        for metric in PRINTED
    }
