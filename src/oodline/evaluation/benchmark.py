"""A benchmark from a protocol to a finished run: one pass over each data set, whatever the number of detectors."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

import torch

from oodline._util.folders import check_replaceable
from oodline._util.warning import warn
from oodline._version import __version__
from oodline.data import open_loader
from oodline.data.opening import is_tensors
from oodline.data.stated import class_names_of
from oodline.errors import DataError, MissingExtraError, OodlineError, UnknownNameError
from oodline.evaluation.cache import CachedClassifier
from oodline.evaluation.passes import BenchmarkSet, Outcome, measure
from oodline.evaluation.protocol import BenchmarkProtocol, labelled_detectors
from oodline.evaluation.record import ClassifierRecord, DetectorEntry, RunRecord, SetRecord
from oodline.evaluation.run import RECORD, Run, write_run
from oodline.guard.artifact import Artifact, FitInfo, ModelSource, describe
from oodline.model.classifier import Classifier
from oodline.model.features import FeatureClassifier
from oodline.model.from_features import is_features, open_feature_classifier
from oodline.model.head import HeadInfo
from oodline.model.precision import Dtype
from oodline.model.rows.named import kind_of
from oodline.model.rows.opening import open_rows
from oodline.model.zoo import load_model, move
from oodline.preprocessing.kinds import AnyPreprocessing
from oodline.preprocessing.preprocessing import Preprocessing
from oodline.scoring.calibration import check_enough, false_alarm_of


def run_protocol(
    protocol: BenchmarkProtocol,
    output: str | Path,
    *,
    cache: str | Path | None = None,
    device: str | None = None,
    dtype: Dtype = "float32",
    compile: bool | str = False,
    workers: int = 0,
    skip_missing: bool = False,
    progress: bool = False,
) -> Run:
    """Fit, calibrate and score all detectors of a protocol, and write the run.

    Parameters
    ----------
    protocol : BenchmarkProtocol
        Such as `read_protocol` gives.
    output : str or Path
        The run's folder; an earlier run there is replaced.
    cache : str or Path, optional
        Where activations are kept, such as `default_folder()`, so that they are computed once and a run that was
        interrupted goes on; if omitted, nothing is kept.
    device : str, optional
        The GPU if there is one.
    dtype : {"float32", "bfloat16", "float16"}
        What the forward pass computes in, as `Classifier`.
    compile : bool or str
        Compile the forward pass, as `Classifier`.
    workers : int
        Processes that read images beside this one.
    skip_missing : bool
        Go on without those OOD and shifted sets that cannot be opened.
    progress : bool
        Show progress on standard error.

    Raises
    ------
    DataError
        Data sets are not there (all are listed, with where to get them), or `output` holds something else.
    InputError
        No detector could be fitted.
    SettingError
        There are too few calibration images for the TPR.
    OodlineError
        What loading a model or reading images raises.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from oodline.testing import toy_protocol
    >>> with TemporaryDirectory() as folder:
    ...     protocol = toy_protocol(folder)
    ...     run = run_protocol(protocol, f"{folder}/run", cache=f"{folder}/cache", device="cpu")
    ...     again = run_protocol(protocol, f"{folder}/again", cache=f"{folder}/cache", device="cpu")
    >>> list(run.record.detectors), [s.cached for s in run.record.sets], [s.cached for s in again.record.sets]
    (['energy', 'knn'], [False, False, False], [True, True, True])
    """
    started = perf_counter()
    check_replaceable(output, RECORD)
    torch.manual_seed(protocol.seed)
    detectors = labelled_detectors(protocol.detectors)
    classifier, preprocessing, class_names = _load(protocol, device, dtype, compile)
    for named in detectors.values():
        named.use_preprocessing(preprocessing)
    sets, missing = open_sets(
        protocol, preprocessing, classifier, workers=workers, skip_missing=skip_missing, class_names=class_names
    )
    for this in sets:
        if this.role == "calibration":
            check_enough(this.samples, false_alarm_of(None, protocol.tpr))
    # features need no cache, and rows of all pixels would be far larger than the images
    if cache is not None and classifier.rows is None and not isinstance(classifier, FeatureClassifier):
        classifier = CachedClassifier(classifier, cache)
    outcome = measure(detectors, classifier, sets, tpr=protocol.tpr, progress=progress)
    head = HeadInfo.of(classifier.head)
    said = protocol.classifier
    record = RunRecord(
        name=protocol.name,
        created=datetime.now(UTC),
        versions={"oodline": __version__, "torch": torch.__version__, "python": platform.python_version()},
        classifier=ClassifierRecord(
            reference=said.model,
            weights=said.weights,
            head=head.name,
            num_classes=head.num_classes,
            num_features=head.num_features,
            fingerprint=head.fingerprint,
        ),
        class_names=class_names_of(class_names, sets[0].loader, head.num_classes),
        preprocessing=preprocessing,
        sets=[_describe_set(s, outcome, known=cache is not None) for s in sets],
        detectors={label: _describe_detector(label, outcome) for label in outcome.detectors},
        failures=outcome.failures,
        warnings=outcome.warnings,
        missing=missing,
        tpr=protocol.tpr,
        batch_size=protocol.batch_size,
        limit=protocol.limit,
        seed=protocol.seed,
        device=str(classifier.device),
        seconds=perf_counter() - started,
        peak_bytes=_peak_memory(),
    )
    calibration = next((s.section.data for s in sets if s.role == "calibration"), None)
    artifact = Artifact.of(
        classifier,
        outcome.detectors,
        calibrations=outcome.calibrations,
        probe=outcome.probe,
        class_names=record.class_names,
        preprocessing=None if isinstance(classifier, FeatureClassifier) else preprocessing,
        model=ModelSource(reference=said.model, weights=said.weights, head=head.name),
        fit=FitInfo(data=sets[0].section.data, samples=sets[0].samples, calibration_data=calibration),
    )
    return write_run(output, record, outcome.scores, artifact)


def open_sets(
    protocol: BenchmarkProtocol,
    preprocessing: AnyPreprocessing,
    classifier: Classifier | None = None,
    *,
    workers: int = 0,
    skip_missing: bool = False,
    class_names: Sequence[str] | None = None,
) -> tuple[list[BenchmarkSet], dict[str, str]]:
    """Open every data set of a protocol before any pass begins; those that were skipped, with the reason.

    Labels of ID data are matched by name to `class_names`, the classifier's, or those of the fit data if omitted.

    Raises
    ------
    DataError
        Some are not there: all of them are listed, with where to get them. With `skip_missing`, only where these are
        ID sets, without which there is nothing to measure, or all OOD sets.
    """
    sets, missing, needed = [], {}, []
    for role, name, part in protocol.sets():
        limits = [limit for limit in (part.limit, protocol.limit) if limit is not None]
        try:
            if isinstance(classifier, FeatureClassifier):
                features = classifier.loader(
                    part.data,
                    batch_size=protocol.batch_size,
                    limit=min(limits, default=None),
                    label_offset=part.label_offset,
                )
                sets.append(BenchmarkSet(name, role, part, features))
                continue
            loader = open_loader(
                part.data,
                part.preprocessing or preprocessing,
                batch_size=protocol.batch_size,
                workers=workers,
                on_error=protocol.on_error,
                limit=min(limits, default=None),
                label_offset=part.label_offset,
                class_names=None if role == "ood" else class_names,
            )
            if role == "fit":
                class_names = loader.source.class_names or class_names
        except (DataError, MissingExtraError, UnknownNameError) as error:
            missing[name] = f"{error} Get it: {part.source}" if part.source else str(error)
            needed += [name] if role not in ("ood", "csid") else []
            continue
        sets.append(BenchmarkSet(name, role, part, loader))
    skipped_all = bool(protocol.ood) and not any(s.role == "ood" for s in sets)
    if missing and (not skip_missing or needed or skipped_all):
        listed = "\n".join(f"  {name}: {reason}" for name, reason in missing.items())
        total = len(sets) + len(missing)
        optional = "" if needed or skipped_all else "\nRun without them: --skip-missing."
        raise DataError(f"{len(missing)} of {total} data sets cannot be opened:\n{listed}{optional}")
    return sets, missing


def _load(
    protocol: BenchmarkProtocol, device: str | None, dtype: Dtype, compile: bool | str
) -> tuple[Classifier, AnyPreprocessing, tuple[str, ...] | None]:
    said = protocol.classifier
    if is_features(said.model):
        features, _ = open_feature_classifier(said.model, protocol.fit.data, weights=said.weights, head_name=said.head)
        return features, Preprocessing(), None
    try:
        kind = None if said.rows is None else kind_of(said.rows)
        loaded = load_model(said.model, said.weights, preprocessing=said.preprocessing, rows=kind)
    except OodlineError as error:
        raise type(error)(f"{error} Get it: {said.source}" if said.source else str(error)) from error
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = move(loaded.model, device)
    classifier: Classifier
    if said.rows is None:
        classifier = Classifier(model, said.head, feature_map=said.feature_map, dtype=dtype, compile=compile)
    else:
        classifier = open_rows(model, said.rows, said.head, dtype=dtype)
    preprocessing = loaded.preprocessing
    if preprocessing is None:
        preprocessing = Preprocessing()
        if not all(is_tensors(part.data) for _, _, part in protocol.sets()):
            warn(
                f"{said.model} does not say how images are prepared for it: they are scaled to [0, 1] and nothing "
                "else. Give [classifier] a `preprocessing`.",
            )
    return classifier, preprocessing, loaded.class_names


def _describe_set(this: BenchmarkSet, outcome: Outcome, *, known: bool) -> SetRecord:
    seconds, cached = outcome.passes[this.name]
    scores = outcome.scores.get(this.name)
    return SetRecord(
        name=this.name,
        role=this.role,
        group=getattr(this.section, "group", None),
        spec=this.section.data,
        samples=this.samples if scores is None else len(scores.index),  # fewer where some are a detector's reference
        skipped=len(this.loader.skipped),
        source=this.section.source,
        label_offset=this.section.label_offset,
        preprocessing=this.section.preprocessing,
        seconds=seconds,
        cached=cached,
        data_sha256=this.loader.identity()["data"] if known else None,  # a cache has read all bytes for it already
    )


def _describe_detector(label: str, outcome: Outcome) -> DetectorEntry:
    detector = outcome.detectors[label]
    images = sum(len(found.index) for found in outcome.scores.values())
    spent = sum(found.seconds[label] for found in outcome.scores.values())
    calibration = outcome.calibrations.get(label)
    return DetectorEntry(
        **describe(detector).model_dump(exclude_defaults=True),
        threshold=None if calibration is None else calibration.threshold,
        fit_seconds=outcome.fit_seconds.get(label) if detector.has_state else None,
        milliseconds=1000 * spent / images,
        state_bytes=sum(t.numel() * t.element_size() for t in detector.state_dict().values()),
    )


def _peak_memory() -> int | None:
    try:
        import resource
    except ImportError:
        return None  # Windows has no such count
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
