"""Read and write a guard file: fitted detectors, their calibration and all that is needed to use them again.

Tensors are the detectors' buffers and calibration scores; everything else is one JSON document in the file's metadata.
Nothing in it is code. A digest over manifest and tensors finds damage and careless edits; it is not a signature.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import ValidationError
from safetensors.torch import save
from torch import Tensor

from oodline._util.digests import Digest
from oodline._util.files import write_atomically
from oodline._util.json_text import parse_json
from oodline._util.tensor_file import read_tensor_file
from oodline._util.validation import problem
from oodline._util.warning import warn
from oodline._version import __version__
from oodline.detectors.base import Detector
from oodline.errors import ArtifactError, MismatchError, OodlineError, SettingError
from oodline.guard.manifest import (
    FORMAT_VERSION,
    MAX_SIZE,
    BackboneRecord,
    CalibrationRecord,
    FitInfo,
    HeadRecord,
    Manifest,
    ModelSource,
    WeightsRecord,
)
from oodline.guard.neurons import Neurons
from oodline.guard.probe import Probe
from oodline.guard.records import UnregisteredError, describe, rebuild
from oodline.guard.state_checks import backbone_of, check_tensors, state_fits, try_out
from oodline.model.activations import Needs
from oodline.model.classifier import Classifier
from oodline.model.fingerprint import Fingerprint, OtherWeightsWarning
from oodline.model.head import HeadInfo
from oodline.model.precision import Dtype
from oodline.model.rows.named import reference_of
from oodline.preprocessing.kinds import AnyPreprocessing
from oodline.scoring.calibration import Calibration
from oodline.scoring.class_calibration import AnyCalibration, ClassCalibration, split_by_class
from oodline.statistics import Backbone

__all__ = [
    "FORMAT_VERSION",
    "MAX_SIZE",
    "Artifact",
    "FitInfo",
    "ModelSource",
    "describe",
    "read_artifact",
    "write_artifact",
]


@dataclass(frozen=True)
class Artifact:
    """Fitted detectors of one classifier, with what is known of it.

    Parameters
    ----------
    detectors : dict of str to Detector
        By name; the first is the one that decides.
    head : HeadInfo
        The head they were fitted on.
    calibrations : dict of str to Calibration or ClassCalibration
        By the detector's name, for those that were calibrated.
    class_names : tuple of str, optional
        In the order of the logits.
    preprocessing : Preprocessing or TextPreprocessing, optional
        From image, or texts, to inputs.
    rows : str, optional
        How an input has several rows, such as "pixels,region=0.01".
    dtype : str, optional
        What the network computed in: "float32", "bfloat16" or "float16".
    model : ModelSource, optional
        How the command line named the classifier.
    fit : FitInfo, optional
        What it was fitted on.
    neurons : Neurons, optional
        What the neurons did on the training data, for explanations.
    weights : Fingerprint, optional
        All weights and buffers of the classifier.
    probe : Probe, optional
        What classifier and detectors made of a few stored inputs.
    other_weights : str, optional
        Why the file was used with a classifier of other weights, where somebody asked for that.
    """

    detectors: dict[str, Detector]
    head: HeadInfo
    calibrations: dict[str, AnyCalibration] = field(default_factory=dict)
    class_names: tuple[str, ...] | None = None
    preprocessing: AnyPreprocessing | None = None
    rows: str | None = None
    model: ModelSource | None = None
    fit: FitInfo | None = None
    neurons: Neurons | None = None
    weights: Fingerprint | None = None
    probe: Probe | None = None
    other_weights: str | None = None
    dtype: Dtype | None = None

    @classmethod
    def of(
        cls, classifier: Classifier, detectors: dict[str, Detector], *, weights: Fingerprint | None = None, **known: Any
    ) -> Self:
        """That of detectors fitted on `classifier`, whose head and weights are read where `weights` does not say them.

        Examples
        --------
        >>> from oodline import LINe
        >>> from oodline.testing import toy_problem
        >>> classifier, loader = toy_problem()
        >>> artifact = Artifact.of(classifier, {"line": LINe().fit(classifier, loader)})
        >>> artifact.head.num_classes, artifact.check(classifier)
        (3, '')
        """
        dtype: Dtype | None = classifier.dtype
        if classifier.lacking(Needs.INPUTS):
            weights = dtype = None  # features that were computed before: the model behind them is not known
        elif weights is None:
            weights = Fingerprint.of(classifier.model)
        rows = None if classifier.rows is None else reference_of(classifier.rows)
        return cls(detectors, HeadInfo.of(classifier.head), weights=weights, rows=rows, dtype=dtype, **known)

    @property
    def backbone(self) -> Backbone | None:
        """What the features were like that detectors were fitted on, where one was."""
        return next((each.backbone for each in self.detectors.values() if each.backbone is not None), None)

    def check(self, classifier: Classifier, *, allow_other_weights: str | None = None) -> str:
        """Find out whether this is the classifier that the detectors were fitted on: by its weights, and by a trial.

        Parameters
        ----------
        classifier : Classifier
            To be used with the file.
        allow_other_weights : str, optional
            Why one of the same sizes with other weights will do; it is shown in a warning in place of an error.

        Returns
        -------
        str
            The reason, where it was needed; else "".

        Raises
        ------
        MismatchError
            The classifier has another head, other weights, or gives other numbers; says what differs.
        ArtifactError
            The state of a detector is not of the sizes and kinds of numbers that its score needs.

        Warns
        -----
        UserWarning
            The classifier computes in another `dtype`.
        """
        own = None if classifier.rows is None else reference_of(classifier.rows)
        if own != self.rows:
            said = ["one row per input" if rows is None else f"rows '{rows}'" for rows in (self.rows, own)]
            raise MismatchError(
                f"this file was fitted on {said[0]}, and the classifier has {said[1]}. Load it with the rows it was "
                "fitted on, or fit again."
            )
        classifier.expect(self.head)
        now = HeadInfo.of(classifier.head)
        if now.num_features != self.head.num_features or now.num_classes not in (0, self.head.num_classes):
            raise MismatchError(
                f"this file was fitted on a head of {self.head.num_classes} classes and {self.head.num_features} "
                f"features; the classifier's head '{classifier.head_name}' has {now.num_classes} and "
                f"{now.num_features}. Load the classifier it was fitted on, or fit again."
            )
        if now.task != self.head.task:
            raise MismatchError(
                f"this file was fitted on a {self.head.task} classifier, and the one given is {now.task}. Load it as "
                f"it was: Classifier(model, task='{self.head.task}'), or --task {self.head.task}."
            )
        if self.dtype not in (None, classifier.dtype) and not classifier.lacking(Needs.INPUTS):
            warn(
                f"this file was fitted with the network in {self.dtype}, and the classifier computes in "
                f"{classifier.dtype}: scores differ a little, and with them the false-alarm rate. Take "
                f"dtype='{self.dtype}', or --dtype {self.dtype}; or fit again."
            )
        difference = self._other_weights(classifier, now)
        if difference and allow_other_weights is None:
            raise _mismatch(difference)
        for name, detector in self.detectors.items():
            try_out(name, detector, classifier.head)
        if not difference and self.probe is not None and not classifier.lacking(Needs.INPUTS):
            spread = {name: float(c.scores[-1] - c.scores[0]) for name, c in self.calibrations.items()}
            with state_fits(", ".join(f"'{name}'" for name in self.detectors)):
                difference = self.probe.difference(classifier, self.detectors, spread)
            if difference:
                difference = f"the classifier has the weights that this file was made with, but {difference}"
        if not difference:
            return ""
        if allow_other_weights is None:
            raise _mismatch(difference)
        if not allow_other_weights.strip():
            raise SettingError("allow_other_weights must be a reason; got an empty text.")
        for detector in self.detectors.values():
            detector.mark_fitted(now)
        if self.neurons is not None:
            self.neurons.mark_fitted(now)
        warn(
            f"{difference}. It is used all the same, and no false-alarm rate is promised: {allow_other_weights}",
            OtherWeightsWarning,
        )
        return allow_other_weights

    def _other_weights(self, classifier: Classifier, now: HeadInfo) -> str:
        if now.fingerprint != self.head.fingerprint:
            return (
                f"this file was fitted on a head of the same size but other weights (fingerprint "
                f"{self.head.fingerprint[:12]}, the classifier's is {now.fingerprint[:12]})"
            )
        if self.weights is None or classifier.lacking(Needs.INPUTS):
            return ""  # features that were computed before: the head is all that can be compared
        found = self.weights.difference(Fingerprint.of(classifier.model))
        return found and f"this file was made with the same head but other weights before it: {found}"


def _mismatch(difference: str) -> MismatchError:
    return MismatchError(
        f"{difference}. Load the weights it was fitted with, in the same precision, or fit again. Where the difference "
        "is meant, say why: allow_other_weights='...', or --allow-other-weights '...'."
    )


def write_artifact(artifact: Artifact, path: str | Path) -> Path:
    """Write the file, whole or not at all.

    Raises
    ------
    ArtifactError
        A detector is neither in the catalog nor registered, or a setting is not plain data.
    DataError
        The file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    for name, detector in artifact.detectors.items():
        tensors |= {f"detector/{name}/{key}": value for key, value in detector.state_dict().items()}
    for name, calibration in artifact.calibrations.items():
        tensors[f"calibration/{name}"] = calibration.scores
        if isinstance(calibration, ClassCalibration):
            tensors[f"predicted/{name}"] = calibration.predicted
    if artifact.neurons is not None:
        tensors |= {f"neurons/{key}": value for key, value in artifact.neurons.state_dict().items()}
    if artifact.probe is not None:
        tensors |= artifact.probe.state_dict()
    tensors = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    manifest = Manifest(
        oodline_version=__version__,
        torch_version=torch.__version__,
        detectors={name: describe(detector) for name, detector in artifact.detectors.items()},
        calibrations={
            name: CalibrationRecord(
                false_alarm=c.false_alarm,
                threshold=c.threshold,
                by="predicted" if isinstance(c, ClassCalibration) else "all",
            )
            for name, c in artifact.calibrations.items()
        },
        head=HeadRecord(**vars(artifact.head)),
        class_names=artifact.class_names,
        preprocessing=artifact.preprocessing,
        rows=artifact.rows,
        dtype=artifact.dtype,
        model=artifact.model,
        fit=artifact.fit,
        neurons=artifact.neurons is not None,
        backbone=None if artifact.backbone is None else BackboneRecord(**asdict(artifact.backbone)),
        weights=None
        if artifact.weights is None
        else WeightsRecord(**vars(artifact.weights), used_with_others=artifact.other_weights),
        probe=None if artifact.probe is None else dict(artifact.probe.fields),
    ).model_dump(mode="json")
    manifest["sha256"] = _digest(manifest, tensors)
    content = save(tensors, {"oodline": json.dumps(manifest)})
    return write_atomically(path, lambda file: file.write(content))


def read_artifact(path: str | Path) -> Artifact:
    """Read and check a file that `write_artifact` wrote; nothing in it is run.

    Raises
    ------
    ArtifactError
        Missing, truncated, not an oodline file, of a newer format, changed after it was written, or holding a
        detector that is neither oodline's nor registered; the message says which.
    """
    path = Path(path)
    if not path.is_file():
        raise ArtifactError(f"there is no file {path}.")
    metadata, tensors = read_tensor_file(path)
    if "oodline" not in metadata:
        raise ArtifactError(f"{path} is a safetensors file, but not one that oodline wrote: it has no manifest.")
    document = _document(path, metadata["oodline"])
    version = document["format_version"]
    if version > FORMAT_VERSION:
        raise ArtifactError(
            f"{path} has format {version}; this oodline {__version__} reads up to {FORMAT_VERSION}. Upgrade oodline."
        )
    if document.get("sha256") != _digest(document, tensors):
        raise ArtifactError(
            f"{path} was changed after it was written: manifest and tensors do not match its digest. Fit it again, or "
            "restore the original."
        )
    try:
        manifest = Manifest.model_validate(_modernise(document))
        _check_names(manifest, tensors)
        head = HeadInfo(**manifest.head.model_dump())
        detectors = {name: rebuild(record) for name, record in manifest.detectors.items()}
        for name, detector in detectors.items():
            detector.load_state_dict(_below(f"detector/{name}/", tensors))
            check_tensors(name, detector, head)
            detector.mark_fitted(head)
            if detector.has_state and manifest.backbone is not None:
                detector.backbone = backbone_of(manifest.backbone, head)
        calibrations = {
            name: _calibration(name, record, tensors, head) for name, record in manifest.calibrations.items()
        }
        neurons = Neurons.from_state_dict(_below("neurons/", tensors), head) if manifest.neurons else None
        probe = (
            None if manifest.probe is None else Probe.from_state_dict(manifest.probe, _below("probe/", tensors), head)
        )
    except UnregisteredError as error:
        raise ArtifactError(f"{path} {error}") from error
    except (ValidationError, OodlineError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"the manifest of {path} does not describe a guard: {_words(error)}") from error
    return Artifact(
        detectors=detectors,
        head=head,
        calibrations=calibrations,
        class_names=manifest.class_names,
        preprocessing=manifest.preprocessing,
        rows=manifest.rows,
        dtype=manifest.dtype,
        model=manifest.model,
        fit=manifest.fit,
        neurons=neurons,
        weights=None if manifest.weights is None else _fingerprint(manifest.weights),
        probe=probe,
        other_weights=None if manifest.weights is None else manifest.weights.used_with_others,
    )


def _fingerprint(record: WeightsRecord) -> Fingerprint:
    return Fingerprint(record.tensors, record.unsaved, record.precision)


def _document(path: Path, text: str) -> dict[str, Any]:
    try:
        found = parse_json(text)
    except ValueError as error:
        raise ArtifactError(
            f"the manifest of {path} is not a valid JSON document: {error}. Copy or fit the file again."
        ) from error
    version = found.get("format_version") if isinstance(found, dict) else None
    if not isinstance(version, int) or version < 1:
        raise ArtifactError(
            f"the manifest of {path} is not valid: it has no format version. Copy or fit the file again."
        )
    known: dict[str, Any] = found
    return known


def _check_names(manifest: Manifest, tensors: Iterable[str]) -> None:
    known = tuple(f"detector/{name}/" for name in manifest.detectors)
    known += ("neurons/",) * manifest.neurons + ("probe/",) * (manifest.probe is not None)
    exact = {f"{part}/{name}" for name in manifest.calibrations for part in ("calibration", "predicted")}
    if strange := [key for key in tensors if key not in exact and not key.startswith(known)]:
        raise ArtifactError(f"the tensor {strange[0][:80]!r} belongs to no detector or calibration of the manifest.")


def _below(start: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}


def _modernise(document: dict[str, Any]) -> dict[str, Any]:
    if document["format_version"] > 1:
        return document
    # its thresholds, chosen by a rule that differs by at most one held-out sample, stay as they are
    old = document["calibrations"]
    new = {k: {"false_alarm": round(1 - v["tpr"], 12), "threshold": v["threshold"]} for k, v in old.items()}
    return {**document, "calibrations": new}


def _ascends(scores: Tensor) -> bool:
    return len(scores) > 0 and bool(torch.isfinite(scores).all()) and bool((scores[1:] >= scores[:-1]).all())


def _calibration(name: str, record: CalibrationRecord, tensors: dict[str, Tensor], head: HeadInfo) -> AnyCalibration:
    scores = tensors[f"calibration/{name}"]
    if scores.ndim != 1 or scores.dtype != torch.float64 or not _ascends(scores):
        raise ArtifactError(f"the calibration of '{name}' is not one row of float64 in ascending order.")
    overall = Calibration(scores, record.false_alarm, record.threshold)
    if record.by == "all":
        return overall
    predicted = tensors[f"predicted/{name}"]
    known = predicted.dtype == torch.int64 and predicted.shape == scores.shape
    if not known or not bool(((predicted >= 0) & (predicted < head.num_classes)).all()):
        raise ArtifactError(f"the calibration of '{name}' does not hold one predicted class per score.")
    return split_by_class(overall, predicted, head.num_classes)


def _digest(manifest: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    signed = {key: value for key, value in manifest.items() if key != "sha256"}
    whole = Digest(json.dumps(signed, sort_keys=True))
    for key in sorted(tensors):
        whole.add(f"{key} {tensors[key].dtype} {tuple(tensors[key].shape)}", tensors[key])
    return whole.hex()


def _words(error: Exception) -> str:
    if isinstance(error, ValidationError):
        words = problem(error)
    elif type(error) is KeyError:
        words = f"there is no {error}"
    else:
        words = " ".join(str(error).split()) or type(error).__name__
    return words.rstrip(".") + "."
