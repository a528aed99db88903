"""`Guard`: classifier, detector and threshold together, which accepts or flags each input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from PIL import Image

from oodline._util.checked import checked
from oodline._util.ranges import Count, LeftToIt, Range, Rate
from oodline._util.warning import warn
from oodline.data import names_of_logits
from oodline.data.batch import Batch, Inputs, Loader
from oodline.data.stated import stated_by
from oodline.detectors.base import Detector
from oodline.detectors.evidence import require_linear
from oodline.errors import ArtifactError, InputError, NotFittedError, SettingError, unknown_name
from oodline.guard.answer_stream import AnswerStream
from oodline.guard.artifact import Artifact, read_artifact, write_artifact
from oodline.guard.calibrate_detectors import calibrate_detectors
from oodline.guard.calibrated_state import CalibratedState
from oodline.guard.explainer import explainer_of, members_of, name_of, require_explainer
from oodline.guard.explaining import explanations, with_maps, with_pixels
from oodline.guard.explanation import Explanation
from oodline.guard.neurons import Neurons
from oodline.guard.probe import Probe
from oodline.guard.row_explaining import rows_to_explain, verdicts_of_rows
from oodline.guard.row_verdict import RowVerdict
from oodline.guard.sharing import Sharing
from oodline.guard.verdict import Verdict
from oodline.model.activations import Activations
from oodline.model.changes import Snapshot
from oodline.model.classifier import Classifier
from oodline.model.head import LinearHead
from oodline.model.libraries import names_in_config
from oodline.model.zoo import move
from oodline.passes.fit import check_served, reads
from oodline.preprocessing.kinds import AnyPreprocessing, preprocessing_of
from oodline.preprocessing.preprocessing import Preprocessing, pictures_in
from oodline.preprocessing.text import Text, TextPreprocessing, are_texts
from oodline.scoring.calibration import check_false_alarm, false_alarm_of
from oodline.scoring.class_calibration import AnyCalibration
from oodline.scoring.score import check_fitted_on

__all__ = ["Guard", "Verdict"]

GuardInputs = Inputs | Batch | Sequence[Text] | Image.Image | Sequence[Image.Image]
"""What a guard judges: what its classifier takes, a batch of a loader, texts, or pictures."""


class Guard(Sharing):
    """A classifier with a fitted detector and, once calibrated, a threshold.

    Parameters
    ----------
    classifier : Classifier
        The frozen classifier.
    detector : Detector
        Fitted on it, where it needs fitting.
    calibration : Calibration or ClassCalibration, optional
        Set by `calibrate`.
    class_names : sequence of str, optional
        In the order of the logits; carried along for people and files. If omitted, those that the classifier, its model
        or the data set of `calibrate` states.
    preprocessing : Preprocessing, TextPreprocessing or callable, optional
        From image, or texts, to inputs; carried along in the saved file. A transform of torchvision or timm, an image
        processor and a tokenizer of transformers are taken too, see `Preprocessing.of` and `TextPreprocessing.of`. If
        omitted, that of the classifier or of the loader of `calibrate`.
    neurons : Neurons, optional
        Fitted in the same pass, for explanations with training images and z-scores.

    Raises
    ------
    NotFittedError, MismatchError
        The detector, or what is known of the neurons, is not fitted, or on another classifier.
    SettingError
        There are fewer or more class names than classes, or the preprocessing cannot be expressed.

    Examples
    --------
    >>> import oodline as ol
    >>> from oodline.testing import toy_loader, toy_problem
    >>> classifier, loader = toy_problem()
    >>> detector = ol.LINe(p_a=0.5, p_w=0.5, clip=5.0).fit(classifier, loader)
    >>> guard = ol.Guard(classifier, detector).calibrate(toy_loader(seed=1), false_alarm=0.05)
    >>> verdict = guard(torch.zeros(2, 4))
    >>> verdict.is_ood
    tensor([True, True])
    """

    @checked
    def __init__(
        self,
        classifier: Classifier,
        detector: Detector,
        calibration: AnyCalibration | None = None,
        *,
        class_names: Iterable[str] | None = None,
        preprocessing: Annotated[AnyPreprocessing | Callable[..., Any] | None, LeftToIt()] = None,
        neurons: Neurons | None = None,
    ) -> None:
        if not detector.fitted:
            name = type(detector).__name__
            raise NotFittedError(f"{name} is not fitted. Call {name}.fit(classifier, train_loader) before guarding.")
        check_served([detector], classifier)
        check_fitted_on({detector.name: detector}, classifier)
        if neurons is not None:
            neurons.state_dict()  # raises where it was not fitted
            check_fitted_on({neurons.name: neurons}, classifier)
        self.classifier = classifier
        self.detector = detector
        self.calibration = calibration
        self.class_names = None if class_names is None else tuple(class_names)
        if self.class_names is not None and (classes := classifier.head.num_classes) != len(self.class_names):
            raise SettingError(
                f"the guard has {len(self.class_names)} class names for {classes} classes. Give one each, or none."
            )
        if self.class_names is None:
            names = classifier.class_names or names_in_config(classifier.model)
            self.class_names = names_of_logits(names, 0, classifier.head.num_classes)
        self.preprocessing = classifier.preprocessing if preprocessing is None else preprocessing_of(preprocessing)
        if isinstance(self.preprocessing, TextPreprocessing):  # a file holds no tokenizer, only which it was
            self.preprocessing = self.preprocessing.with_tokenizer_of(classifier.preprocessing)
        self.neurons = neurons
        self.probe: Probe | None = None
        self.other_weights: str | None = None
        if calibration is not None:
            self._state = CalibratedState(classifier, detector)

    def __repr__(self) -> str:
        """Detector, classifier and what is promised."""
        promise = "no threshold yet" if self.calibration is None else f"false_alarm={self.calibration.false_alarm:g}"
        return f"Guard({self.detector!r}, {self.classifier!r}, {promise})"

    @property
    def device(self) -> torch.device:
        """Where the classifier lives, and where inputs are moved to."""
        return self.classifier.device

    @checked
    def to(self, device: str | torch.device) -> Self:
        """Move classifier and detector to a device, in place; their numbers and the threshold stay as they are.

        Raises
        ------
        SettingError
            There is no such device here.
        MismatchError
            Classifier or detector changed since the guard was calibrated.

        Examples
        --------
        >>> import oodline as ol
        >>> from oodline.testing import toy_loader, toy_problem
        >>> guard = ol.Guard(toy_problem()[0], ol.Energy()).calibrate(toy_loader(seed=1))
        >>> guard.to("cpu").device
        device(type='cpu')
        """
        if self.calibration is not None:
            self._state.check(self.classifier, self.detector, self.probe)
        move(self.classifier.model, str(device))
        self.detector.to(device)
        return self

    @checked
    def calibrate(
        self,
        loader: Loader,
        false_alarm: Rate | None = None,
        *,
        tpr: Rate | None = None,
        by: Literal["all", "predicted"] = "all",
        keep_inputs: Annotated[int, Range(0)] = 0,
        progress: bool = False,
    ) -> Self:
        """Choose the threshold that flags at most a fraction `false_alarm` of ID inputs.

        The promise, for an ID input that is exchangeable with those of the loader: `P(flagged) <= false_alarm`, for any
        classifier, detector and number of samples; see `Calibration`. It is silent on OOD inputs, and void where the
        data in use has drifted away from the held-out data.

        A detector that compares with held-out data, as the default does, gets a fifth of the samples as its reference,
        where there are at least 100 and the others can promise the rate; unless `set_reference` gave it one. That
        changes the detector that was passed in, and so its scores in a later `evaluate`: for a table without
        calibration, evaluate first, or fit another detector.

        Parameters
        ----------
        loader : iterable
            Batches of ID data that neither the classifier nor the detector was fitted on; labels are not used.
        false_alarm : float, optional
            In (0, 1); 0.05 if omitted. n samples can promise rates from 1 / (n + 1).
        tpr : float, optional
            The same promise in the papers' words: `tpr=0.95` is `false_alarm=0.05`.
        by : {"all", "predicted"}
            Promise the rate on average, or for each predicted class; see `ClassCalibration` for small classes.
        keep_inputs : int
            Held-out inputs that `save` writes to the file, at most 8, to prove a classifier by when it is loaded. A
            pattern in their shape is used if omitted, which shows nothing of the data.
        progress : bool
            Show a progress bar on standard error.

        Raises
        ------
        SettingError
            The rate is outside (0, 1) or given twice, or there are too few samples for it.
        InputError
            As `oodline.score`.

        Warns
        -----
        SeenDataWarning
            The loader seems to hold the data that the detector was fitted on.
        UnsteadyClassifierWarning
            The classifier is random, or its answer for one input depends on the others in the batch.
        """
        rate = false_alarm_of(false_alarm, tpr)
        check_false_alarm(rate)
        stated = stated_by(loader)
        if self.preprocessing is None:
            self.preprocessing = stated.preprocessing
        if self.preprocessing is not None:
            self.detector.use_preprocessing(self.preprocessing)
        name = self.detector.name
        before = Snapshot(self.classifier.model)
        calibrated = calibrate_detectors(
            {name: self.detector}, self.classifier, loader, rate, by, keep_inputs=keep_inputs, progress=progress
        )
        self.calibration, self.probe, self.other_weights = calibrated.calibrations[name], calibrated.probe, None
        self._state = CalibratedState(self.classifier, self.detector, before.touched())
        if self.class_names is None:
            self.class_names = stated.names_of(self.classifier.head.num_classes)
        return self

    def __call__(self, inputs: GuardInputs) -> Verdict:
        """Score a batch of N inputs in one forward pass.

        Parameters
        ----------
        inputs : Tensor, NumPy array, mapping, Batch, PIL image or list
            As the classifier takes them. One PIL image, or a list of them, where the preprocessing is a
            `Preprocessing`; a list of texts, or of pairs of texts, where it is a `TextPreprocessing`.

        Raises
        ------
        NotFittedError
            The guard is not calibrated.
        MismatchError
            Classifier or detector changed since.
        InputError
            The batch has the wrong shape, or gives NaN or infinite activations or scores.
        """
        calibration = self._calibrated()
        return self._judge(self.classifier(self._prepared(inputs), **reads([self.detector])), calibration)

    @checked
    def stream(self, *, end: Iterable[int] = ()) -> AnswerStream:
        """Score the tokens of a language model while it writes them, and stop an answer that would be flagged.

        At most a fraction `false_alarm` of ID answers is ever stopped, where answers are exchangeable with those of
        `calibrate`: answers of the same model to prompts of the same kind, of which only the answer has rows
        (`Tokens(after=...)`).

        Parameters
        ----------
        end : iterable of int
            Tokens that end an answer; those of the model's configuration if omitted.

        Raises
        ------
        NotFittedError
            The guard is not calibrated.
        SettingError
            Its rows are not tokens of a language model, judged while they come: `Tokens(judged="running")`.

        Examples
        --------
        See `AnswerStream`.
        """
        return AnswerStream(self.classifier, self.detector, self._calibrated(), frozenset(end))

    @checked
    def explain(
        self, inputs: GuardInputs, *, top: Count = 8, place: Annotated[int, Range(0)] | None = None
    ) -> list[Explanation]:
        """Say of each of N inputs which neurons its class misses, which it does not expect, and where they look.

        Of a detector made of detectors, such as `Fuse`, it also gives the p-value of each member, and the
        neurons are those of the first member that keeps contributions by class. Of images it gives maps: two forward
        passes in all, three where no layer has 4 places. Of a classifier with several rows per input, such as one per
        pixel, one row of each input is explained: its verdict has the `place`, and there are no maps.

        Parameters
        ----------
        inputs : Tensor, mapping, Batch, PIL image or list
            As for a verdict.
        top : int
            Neurons of each kind to list, at most.
        place : int, optional
            Which row: position in the flattened map, in the text, or in the list of boxes. If omitted, the row of the
            lowest score.

        Raises
        ------
        SettingError
            `place` is given for one row per input; or the detector keeps no contributions by class, and the guard has
            no `Neurons`; names those that do.
        HeadError
            The head has several layers.
        NotFittedError, InputError
            As for a verdict; or an input has no row at the place.
        """
        calibration = self._calibrated()
        if place is not None and self.classifier.rows is None:
            raise SettingError(
                "`place` is for a classifier with several rows per input; this one has one. Leave it out."
            )
        explainer = require_explainer(self.detector, self.neurons)
        prepared = self._prepared(inputs)
        activations = self.classifier(prepared, **reads([self.detector]))
        require_linear(activations.head)
        verdict = self._judge(activations, calibration)
        judged = verdict.rows()
        if isinstance(verdict, RowVerdict):
            chosen = rows_to_explain(verdict, place)
            judged, activations = verdicts_of_rows(verdict, chosen), activations.take(chosen)
        made_of = members_of(self.detector)
        with torch.no_grad():
            evidence = explainer.evidence(activations)
            members = None if made_of is None else made_of.p_values(activations)
        explained = explanations(
            judged,
            evidence,
            activations,
            self.neurons,
            self.class_names,
            top,
            members,
            model=f"{type(self.classifier.model).__name__}, head '{self.classifier.head_name}'",
            detector=self.detector.name,
            explained_by=name_of(explainer, self.detector),
            held_out=calibration.scores,
        )
        shown = self.preprocessing if isinstance(self.preprocessing, Preprocessing) else None
        if self.classifier.rows is not None:
            return with_pixels(explained, prepared, shown)
        return with_maps(explained, self.classifier, prepared, activations, shown)

    @property
    def explains(self) -> bool:
        """Whether `explain` has what it needs: contributions by class, and one linear layer as head."""
        return explainer_of(self.detector, self.neurons) is not None and isinstance(self.classifier.head, LinearHead)

    def _prepared(self, inputs: Any) -> Inputs:
        """Inputs of the model, from texts, pictures or a batch of a loader, where they are."""
        if isinstance(inputs, Batch):
            return inputs.inputs
        if pictures := pictures_in(inputs):
            if not isinstance(self.preprocessing, Preprocessing):
                raise InputError(
                    "the guard has no preprocessing for pictures. Pass Guard(..., preprocessing=transform)."
                )
            return self.preprocessing.batch(pictures)
        if not isinstance(inputs, str) and not are_texts(inputs):
            found: Inputs = inputs
            return found
        if isinstance(self.preprocessing, Preprocessing):
            raise InputError("this guard takes images, and was given text. Open a file first: guard(Image.open(path)).")
        if not isinstance(self.preprocessing, TextPreprocessing):
            raise InputError("the guard has no tokenizer for texts. Pass preprocessing=tokenizer.")
        return self.preprocessing(inputs)

    def _calibrated(self) -> AnyCalibration:
        if self.calibration is None:
            raise NotFittedError("the guard has no threshold yet. Call guard.calibrate(held_out_loader) first.")
        self._state.check(self.classifier, self.detector, self.probe)
        return self.calibration

    def _judge(self, activations: Activations, calibration: AnyCalibration) -> Verdict:
        with torch.no_grad():
            scores, predicted = self.detector.score_rows(activations).cpu(), activations.predicted.cpu()
        if activations.places is not None:
            return RowVerdict.of_rows(scores, predicted, activations.places, calibration, self.class_names)
        labels = activations.labels
        return Verdict.of(scores, predicted, calibration, self.class_names, None if labels is None else labels.cpu())

    @checked
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
        if self.calibration is not None:
            self._state.check(self.classifier, self.detector, self.probe)
        artifact = Artifact.of(
            self.classifier,
            {name: self.detector},
            weights=None if self.calibration is None else self._state.classifier.fingerprint,
            calibrations={} if self.calibration is None else {name: self.calibration},
            class_names=self.class_names,
            preprocessing=self.preprocessing,
            neurons=self.neurons,
            probe=self.probe,
            other_weights=self.other_weights,
        )
        return write_artifact(artifact, path)

    @classmethod
    @checked
    def load(
        cls,
        path: str | Path,
        classifier: Classifier,
        detector: str | None = None,
        *,
        class_names: Iterable[str] | None = None,
        allow_other_weights: str | None = None,
    ) -> Guard:
        """Read a guard, or one of the detectors that `oodline fit` wrote, for the classifier it was fitted on.

        Parameters
        ----------
        path : str or Path
            A file by `Guard.save` or `oodline fit`.
        classifier : Classifier
            The same classifier.
        detector : str, optional
            Which of several detectors. If omitted, the first.
        class_names : sequence of str, optional
            For a file that holds none. Names that are not one per class are left out, with a warning.
        allow_other_weights : str, optional
            Why a classifier of the same sizes with other weights will do; an `OtherWeightsWarning` shows it.

        Raises
        ------
        ArtifactError
            The file is missing, truncated, changed, of a newer format or no such file.
        MismatchError
            The classifier has another head or other weights, or computes other numbers from the stored inputs.
        UnknownNameError
            There is no such detector in the file.
        """
        artifact = read_artifact(path)
        reason = artifact.check(classifier, allow_other_weights=allow_other_weights)
        return cls.of(artifact, classifier, detector, class_names=class_names, where=str(path), reason=reason)

    @classmethod
    def of(
        cls,
        artifact: Artifact,
        classifier: Classifier,
        detector: str | None = None,
        *,
        class_names: Iterable[str] | None = None,
        where: str = "what was fitted",
        reason: str = "",
    ) -> Guard:
        """The guard of one of the detectors of an artifact that was checked, or made, for this classifier."""
        if not artifact.detectors:
            raise ArtifactError(f"{where} holds no detector.")
        name = detector if detector is not None else next(iter(artifact.detectors))
        if name not in artifact.detectors:
            raise unknown_name(f"detector in {where}", name, artifact.detectors)
        names = artifact.class_names or (None if class_names is None else tuple(class_names))
        if names is not None and (classes := classifier.head.num_classes) != len(names):
            warn(f"{len(names)} class names for {classes} classes are not shown.")
            names = None
        guard = cls(
            classifier,
            artifact.detectors[name].to(classifier.device),
            class_names=names,
            preprocessing=artifact.preprocessing,
            neurons=artifact.neurons,
        )
        guard.probe, guard.other_weights = artifact.probe, reason or artifact.other_weights
        guard.calibration = artifact.calibrations.get(name)
        if guard.calibration is not None:
            volatile = frozenset() if artifact.weights is None else artifact.weights.volatile
            guard._state = CalibratedState(classifier, guard.detector, volatile)
        return guard
