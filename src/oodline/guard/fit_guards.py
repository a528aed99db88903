"""Fit detectors and calibrate them in one call: `oodline fit`, from Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Annotated, Literal

from oodline._util.checked import checked
from oodline._util.ranges import Range, Rate
from oodline.data.batch import Loader
from oodline.detectors.default import default
from oodline.detectors.named import Detectors, name_detectors
from oodline.errors import OodlineError
from oodline.guard.artifact import Artifact, FitInfo, ModelSource, write_artifact
from oodline.guard.calibrate_detectors import calibrate_detectors
from oodline.guard.guard import Guard
from oodline.guard.neurons import Neurons
from oodline.guard.probe import Probe
from oodline.model.classifier import Classifier
from oodline.passes.engine import Engine
from oodline.passes.fit import Fittable, fit_all
from oodline.passes.fit_result import fit_error
from oodline.passes.local import Local
from oodline.passes.training_accuracy import TrainingAccuracy
from oodline.preprocessing.kinds import AnyPreprocessing
from oodline.scoring.calibration import check_enough, check_false_alarm, false_alarm_of
from oodline.scoring.class_calibration import AnyCalibration
from oodline.scoring.split import count_samples


@dataclass(frozen=True, eq=False)
class FittedGuards:
    """What `fit_guards` made.

    Parameters
    ----------
    classifier : Classifier
        The classifier.
    artifact : Artifact
        All that a file of it holds.
    failures : dict of str to OodlineError
        Why detectors could not be fitted, by name.
    accuracy : TrainingAccuracy
        How much of the training data the classifier gets right, and a warning where that is too little.
    seconds : float
        Wall time of the fit.

    Examples
    --------
    >>> from oodline.testing import toy_loader, toy_problem
    >>> fitted = fit_guards(None, *toy_problem(), toy_loader(seed=1))
    >>> fitted.guard().detector.name, fitted.failures, fitted.left_out, fitted.accuracy.value > 0.9
    ('fuse', {}, {}, True)
    """

    classifier: Classifier
    artifact: Artifact
    failures: dict[str, OodlineError]
    accuracy: TrainingAccuracy
    seconds: float

    def guard(self, detector: str | None = None) -> Guard:
        """The guard of one of the detectors, by name; of the first if omitted."""
        return Guard.of(self.artifact, self.classifier, detector)

    @property
    def left_out(self) -> dict[str, dict[str, str]]:
        """Members that detectors do without, and why, by detector."""
        found = {name: dict(d.members_left_out) for name, d in self.artifact.detectors.items()}
        return {name: members for name, members in found.items() if members}

    def save(
        self,
        path: str | Path,
        *,
        model: ModelSource | None = None,
        fit: FitInfo | None = None,
        class_names: Sequence[str] | None = None,
    ) -> Path:
        """Write all of them to one file, with what is known of model, data and class names.

        Raises
        ------
        ArtifactError, DataError
            As `Guard.save`.
        """
        names = self.artifact.class_names if class_names is None else tuple(class_names)
        return write_artifact(replace(self.artifact, model=model, fit=fit, class_names=names), path)


@checked
def fit_guards(
    detectors: Detectors | None,
    classifier: Classifier,
    loader: Loader,
    held_out: Loader | None = None,
    *,
    false_alarm: Rate | None = None,
    tpr: Rate | None = None,
    by: Literal["all", "predicted"] = "all",
    neurons: Annotated[int, Range(0)] = 0,
    class_names: Sequence[str] | None = None,
    preprocessing: AnyPreprocessing | None = None,
    label_names: Sequence[str] | None = None,
    keep_inputs: Annotated[int, Range(0)] = 0,
    engine: Engine | None = None,
    progress: bool = False,
) -> FittedGuards:
    """Fit detectors on ID training data in one forward pass, and calibrate them on held-out ID data in another.

    Parameters
    ----------
    detectors : Detector, name, iterable of them, mapping from names to them, or None
        Fitted in place; the first one decides. None or an empty sequence is `default(classifier)`.
    classifier : Classifier
        The frozen classifier.
    loader : iterable
        Batches of ID training data with labels.
    held_out : iterable, optional
        Batches of ID data that nothing was fitted on. If omitted, there are scores and no verdicts.
    false_alarm : float, optional
        As in `Guard.calibrate`.
    tpr : float, optional
        As in `Guard.calibrate`.
    by : {"all", "predicted"}
        As in `Guard.calibrate`.
    neurons : int
        Number of most activating training images to keep per neuron, for explanations.
    class_names : sequence of str, optional
        As in `Guard`.
    preprocessing : Preprocessing or TextPreprocessing, optional
        As in `Guard`.
    label_names : sequence of str, optional
        Names of the labels, for a warning that they are in another order than the logits.
    keep_inputs : int
        As in `Guard.calibrate`.
    engine : Engine, optional
        Who makes the passes.
    progress : bool
        Show progress bars on standard error.

    Raises
    ------
    FitError, OodlineError
        No detector could be fitted; where some could, `failures` says why the others could not.
    SettingError
        As `Guard.calibrate`.

    Examples
    --------
    >>> from oodline.testing import toy_loader, toy_problem
    >>> fitted = fit_guards(None, *toy_problem(), toy_loader(seed=1))
    >>> fitted.guard()(toy_loader(seed=2)[0][0]).is_ood.shape
    torch.Size([60])
    """
    passes = engine or Local()
    rate = false_alarm_of(false_alarm, tpr)
    check_false_alarm(rate)
    unnamed = detectors is None or (isinstance(detectors, list | tuple | dict) and not detectors)
    named = name_detectors(default(classifier) if unnamed else detectors)
    if preprocessing is not None:
        for detector in named.values():
            detector.use_preprocessing(preprocessing)
    with passes.synchronised():
        if held_out is not None and (count := count_samples(held_out)) is not None:
            check_enough(count, rate)
    started = perf_counter()
    known, accuracy = Neurons(neurons) if neurons else None, TrainingAccuracy(label_names)
    also: list[Fittable] = [] if known is None else [known]
    judged = classifier.reads_labels and not classifier.lacking(accuracy.all_needs)
    if judged and (also or any(d.has_state for d in named.values())):  # no pass is made for the accuracy alone
        also.append(accuracy)
    together = {**named, **{each.name: each for each in also}}
    fitted = fit_all(together, classifier, loader, on_failure="skip", engine=passes, progress=progress)
    seconds = perf_counter() - started
    failures = fitted.failures
    named = {name: detector for name, detector in named.items() if name in fitted.detectors}
    if not named:
        raise fit_error(failures)
    calibrations: dict[str, AnyCalibration] = {}
    probe: Probe | None = None
    if held_out is not None:
        made = calibrate_detectors(
            named, classifier, held_out, rate, by, keep_inputs=keep_inputs, engine=passes, progress=progress
        )
        calibrations, probe = made.calibrations, made.probe
    artifact = Artifact.of(
        classifier,
        named,
        calibrations=calibrations,
        class_names=None if class_names is None else tuple(class_names),
        preprocessing=preprocessing,
        neurons=known if known in fitted.detectors.values() else None,
        probe=probe,
    )
    return FittedGuards(classifier, artifact, failures, accuracy, seconds)
