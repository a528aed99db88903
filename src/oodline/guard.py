"""A guard: classifier, detector and threshold together, which says of each input whether to believe the classifier."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from oodline.artifact import Artifact, read_artifact, write_artifact
from oodline.batch import Inputs
from oodline.calibration import Calibration, calibrate
from oodline.classifier import Classifier
from oodline.detectors.base import Detector
from oodline.errors import ArtifactError, InputError, NotFittedError, unknown_name
from oodline.export import Export, export_onnx
from oodline.fitting import reads
from oodline.head import HeadInfo
from oodline.preprocessing import Preprocessing
from oodline.scoring import check_fitted_on, score


@dataclass(frozen=True, eq=False)
class Verdict:
    """What a guard says of a batch of N inputs.

    Parameters
    ----------
    label : Tensor (N,), int64
        Class with the largest logit, whether or not it is to be believed.
    score : Tensor (N,)
        The detector's score, higher = more in-distribution.
    is_ood : Tensor (N,), bool
        Whether the score is below the threshold.
    p_value : Tensor (N,), float64
        In (0, 1]: how usual the score is among held-out ID inputs; see `Calibration.p_value`.
    threshold : float
        What the scores were compared with.
    class_names : tuple of str, optional
        In the order of the logits.

    Examples
    --------
    >>> one = torch.ones(1)
    >>> Verdict(one.long(), one, one < 2, one.double(), 2.0, ("cat", "dog")).rows()[0]["class_name"]
    'dog'
    """

    label: Int[Tensor, " n"]
    score: Float[Tensor, " n"]
    is_ood: Bool[Tensor, " n"]
    p_value: Float[Tensor, " n"]
    threshold: float
    class_names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.label)

    def rows(self) -> list[dict[str, Any]]:
        """One plain dict an input, ready for JSON."""
        columns = zip(
            self.label.tolist(), self.score.tolist(), self.is_ood.tolist(), self.p_value.tolist(), strict=True
        )
        return [
            {
                "label": label,
                "class_name": self.class_names[label] if self.class_names else None,
                "score": value,
                "threshold": self.threshold,
                "is_ood": is_ood,
                "p_value": p,
            }
            for label, value, is_ood, p in columns
        ]


class Guard:
    """A classifier with a fitted detector and, once calibrated, a threshold.

    Parameters
    ----------
    classifier : Classifier
        The frozen classifier.
    detector : Detector
        Fitted on it, where it needs fitting.
    calibration : Calibration, optional
        Set by `calibrate`.
    class_names : sequence of str, optional
        In the order of the logits; carried along for people and files.
    preprocessing : Preprocessing, optional
        From image to input; carried along in the saved file.

    Raises
    ------
    NotFittedError, MismatchError
        The detector is not fitted, or on another classifier.

    Examples
    --------
    >>> import oodline as ol
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> detector = ol.LINe(p_a=0.5, p_w=0.5, clip=5.0).fit(classifier, loader)
    >>> guard = ol.Guard(classifier, detector).calibrate(loader, tpr=0.95)
    >>> verdict = guard(torch.zeros(2, 4))
    >>> verdict.is_ood
    tensor([True, True])
    """

    def __init__(
        self,
        classifier: Classifier,
        detector: Detector,
        calibration: Calibration | None = None,
        *,
        class_names: Iterable[str] | None = None,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        if not detector.fitted:
            name = type(detector).__name__
            raise NotFittedError(f"{name} is not fitted. Call {name}.fit(classifier, train_loader) before guarding.")
        check_fitted_on({detector.name: detector}, classifier)
        self.classifier = classifier
        self.detector = detector
        self.calibration = calibration
        self.class_names = None if class_names is None else tuple(class_names)
        self.preprocessing = preprocessing

    def calibrate(self, loader: Iterable[Any], *, tpr: float = 0.95, progress: bool = False) -> Self:
        """Choose the threshold at which a fraction `tpr` of held-out ID data is accepted.

        Parameters
        ----------
        loader : iterable
            Batches of ID data that neither the classifier nor the detector was fitted on; labels are not used.
        tpr : float
            In (0, 1]; about `1 - tpr` of ID inputs will be flagged.
        progress : bool
            Show a progress bar on standard error.

        Raises
        ------
        SettingError, InputError
            As `oodline.calibration.calibrate`.
        """
        scores = score({"this": self.detector}, self.classifier, loader, progress=progress)["this"]
        self.calibration = calibrate(scores, tpr)
        return self

    def __call__(self, inputs: Inputs) -> Verdict:
        """Judge a batch of N inputs in one forward pass.

        Raises
        ------
        NotFittedError
            The guard is not calibrated.
        InputError
            The batch has the wrong shape, or gives NaN or infinite activations or scores.
        """
        if self.calibration is None:
            raise NotFittedError("the guard has no threshold yet. Call guard.calibrate(held_out_loader) first.")
        activations = self.classifier(inputs, **reads([self.detector]))
        with torch.no_grad():
            scores = self.detector(activations).cpu()
        if not bool(torch.isfinite(scores).all()):
            raise InputError(f"{int((~torch.isfinite(scores)).sum())} of {len(scores)} scores are NaN or infinite.")
        return Verdict(
            label=activations.logits.argmax(1).cpu(),
            score=scores,
            # compared in float64, as calibrated: a held-out input is judged the same again
            is_ood=self.calibration.is_ood(scores.double()),
            p_value=self.calibration.p_value(scores),
            threshold=self.calibration.threshold,
            class_names=self.class_names,
        )

    def save(self, path: str | Path) -> Path:
        """Write detector, calibration and head fingerprint to one safetensors file; the classifier stays where it is.

        Raises
        ------
        ArtifactError
            The detector is not one of oodline's, so that a file could not say how to build it.
        DataError
            The file cannot be written; nothing is left half-written.
        """
        name = self.detector.name
        artifact = Artifact(
            detectors={name: self.detector},
            head=HeadInfo.of(self.classifier.head),
            calibrations={} if self.calibration is None else {name: self.calibration},
            class_names=self.class_names,
            preprocessing=self.preprocessing,
        )
        return write_artifact(artifact, path)

    def export_onnx(
        self,
        path: str | Path,
        example: Inputs,
        *,
        preprocessing: Preprocessing | None = None,
        progress: bool = False,
    ) -> Export:
        """Write one ONNX graph from inputs to the verdict and what leads to it; see `oodline.export.export_onnx`."""
        return export_onnx(self, path, example, preprocessing=preprocessing, progress=progress)

    @classmethod
    def load(cls, path: str | Path, classifier: Classifier, detector: str | None = None) -> Guard:
        """Read a guard, or one of the detectors that `oodline fit` wrote, for the classifier it was fitted on.

        Parameters
        ----------
        path : str or Path
            A file by `Guard.save` or `oodline fit`.
        classifier : Classifier
            The same classifier.
        detector : str, optional
            Which of several detectors; the first without it.

        Raises
        ------
        ArtifactError
            The file is missing, truncated, changed, of a newer format or no such file.
        MismatchError
            The classifier has another head.
        UnknownNameError
            There is no such detector in the file.
        """
        artifact = read_artifact(path)
        artifact.check(classifier)
        if not artifact.detectors:
            raise ArtifactError(f"{path} holds no detector.")
        name = detector if detector is not None else next(iter(artifact.detectors))
        if name not in artifact.detectors:
            raise unknown_name(f"detector in {path}", name, artifact.detectors)
        return cls(
            classifier,
            artifact.detectors[name].to(classifier.device),
            artifact.calibrations.get(name),
            class_names=artifact.class_names,
            preprocessing=artifact.preprocessing,
        )
