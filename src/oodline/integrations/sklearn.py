"""`OODDetector`: a detector of feature arrays as an outlier detector of scikit-learn, calibrated by `fit`."""

from __future__ import annotations

import copy
import math
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from oodline.detectors.base import Detector
from oodline.detectors.catalog import CATALOG, create_detector, detector_class
from oodline.detectors.default import default_detector
from oodline.errors import HeadError, InputError, SettingError, missing_extra
from oodline.guard.guard import Guard
from oodline.model.activations import Needs
from oodline.model.features import FeatureClassifier
from oodline.model.from_features import from_features
from oodline.scoring.score import score

try:
    from sklearn.base import BaseEstimator, OutlierMixin
    from sklearn.model_selection import train_test_split
    from sklearn.utils.multiclass import type_of_target
    from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d, validate_data
except ImportError as error:
    raise missing_extra("scikit-learn", "sklearn", "estimators of scikit-learn") from error

__all__ = ["OODDetector"]

WITHOUT_HEAD = "mahalanobis,by=all,shrinkage=ledoit-wolf"
"""The default where no head is given: one Gaussian, which needs no labels, and few samples for each feature."""


class OODDetector(OutlierMixin, BaseEstimator):  # type: ignore[misc]  # mypy does not follow scikit-learn
    """A detector over feature arrays, with scikit-learn's methods and a promised false-alarm rate.

    `fit` holds a random part of the samples back, fits the detector on the others and calibrates on that part: an ID
    sample is flagged with probability at most `false_alarm` (see `Calibration`). The samples must be ID, and not those
    that the network behind the features was trained on, else more are flagged; the detector trains no classifier.
    Higher = more in-distribution everywhere, and 0 is the threshold of `decision_function`, as in scikit-learn.

    Parameters
    ----------
    detector : str or Detector
        A name such as "knn" or "knn,k=10". "default" is `oodline.default` where a head is given, and otherwise one
        Gaussian of all samples. Without a head, only detectors that read features alone can be fitted.
    false_alarm : float
        Promised probability that an ID sample is flagged, in (0, 1).
    calibration_size : float or int
        Fraction or number of samples to hold back. At least `1 / false_alarm - 1` samples are needed.
    head : (W, b), nn.Linear, state_dict, str or Path, optional
        Last layer of the classifier whose features these are, as `oodline.from_features` takes it.
    random_state : int, RandomState or None
        How the samples to hold back are chosen.

    Attributes
    ----------
    guard_ : Guard
        The fitted and calibrated detector, of a classifier of precomputed features.
    offset_ : float
        The threshold: `decision_function(X) = score_samples(X) - offset_`.
    n_features_in_ : int
        Number of features.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(300, 4))
    >>> detector = OODDetector(false_alarm=0.05).fit(X)
    >>> detector.predict([[0.0, 0.0, 0.0, 0.0], [9.0, 9.0, 9.0, 9.0]])
    array([ 1, -1])
    """

    def __init__(
        self,
        detector: str | Detector = "default",
        *,
        false_alarm: float = 0.05,
        calibration_size: float = 0.2,
        head: Any = None,
        random_state: Any = 0,
    ) -> None:
        self.detector = detector
        self.false_alarm = false_alarm
        self.calibration_size = calibration_size
        self.head = head
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike | None = None) -> Self:
        """Fit the detector on ID features and calibrate it on those that are held back.

        Parameters
        ----------
        X : array (N, D)
            Features of ID samples.
        y : array (N,), optional
            Classes, for detectors that read them: any labels, or with a head integers in the order of its logits.
            Targets of regression are ignored.

        Raises
        ------
        HeadError
            The detector needs a head, and none is given; names those that do without.
        SettingError
            Too few samples are held back for the false-alarm rate, or all of them.
        InputError
            A value is beyond float32.
        """
        samples = self._samples(X, ensure_min_samples=2)
        labels = self._labels(samples, y)
        self._check_size(len(samples))
        split = train_test_split(
            np.arange(len(samples)), test_size=self.calibration_size, random_state=self.random_state, shuffle=True
        )
        rows, held_out = (np.sort(part) for part in split)
        classes = None if labels is None else labels[rows]
        if classes is not None and self.head is None:
            _, classes = np.unique(classes, return_inverse=True)
        classifier, loader = from_features(samples[rows], classes, head=self.head)
        detector = self._detector(classifier)
        with torch.random.fork_rng(devices=[]):
            detector.fit(classifier, loader)
            guard = Guard(classifier, detector)
            self.guard_ = guard.calibrate(classifier.loader(samples[held_out]), false_alarm=self.false_alarm)
        self.offset_ = float(guard.calibration.threshold)  # type: ignore[union-attr]  # one threshold, and it is set
        return self

    def score_samples(self, X: ArrayLike) -> NDArray[np.float64]:
        """The detector's score of each sample (N,), higher = more in-distribution."""
        check_is_fitted(self, "guard_")
        samples, guard = self._samples(X, reset=False), self.guard_
        assert isinstance(guard.classifier, FeatureClassifier)
        found = score(guard.detector, guard.classifier, guard.classifier.loader(samples))
        scores: NDArray[np.float64] = found[guard.detector.name].numpy()
        return scores

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """The score above the threshold (N,): negative where a sample is flagged."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """-1 for each sample that is flagged as OOD, 1 for all others (N,)."""
        return np.where(self.decision_function(X) >= 0, 1, -1)

    def set_params(self, **params: Any) -> Self:
        """Set parameters by name, as scikit-learn does; those of a detector are part of its name.

        Raises
        ------
        SettingError
            A name such as `detector__k`.
        """
        if nested := [name for name in params if "__" in name]:
            raise SettingError(
                f"`detector` must be set as a whole; got {nested[0]!r}. Pass detector='knn,k=7', or an object such as "
                "detector=KNN(k=7)."
            )
        made: Self = super().set_params(**params)
        return made

    def _samples(self, X: ArrayLike, **how: Any) -> NDArray[Any]:
        samples: NDArray[Any] = validate_data(self, X, dtype=(np.float64, np.float32), **how)
        if (largest := np.abs(samples).max(initial=0)) > np.finfo(np.float32).max:
            raise InputError(f"the features must be within float32; got {largest:g}. Scale them first.")
        return samples

    def _check_size(self, samples: int) -> None:
        size = self.calibration_size
        number = isinstance(size, Real) and not isinstance(size, bool)
        if not number or not (0 < size < 1 or (isinstance(size, Integral) and size >= 1)):
            raise SettingError(
                f"`calibration_size` must be a fraction between 0 and 1, or a number of samples; got {size!r}."
            )
        if (held_back := size if isinstance(size, Integral) else math.ceil(size * samples)) >= samples:
            raise SettingError(
                f"`calibration_size` must leave samples to fit on; got {size!r}, which are {held_back} of {samples}."
            )

    def _labels(self, samples: NDArray[Any], y: ArrayLike | None) -> NDArray[Any] | None:
        if y is None:
            return None
        labels = column_or_1d(y, warn=True)
        check_consistent_length(samples, labels)
        if type_of_target(labels) in ("binary", "multiclass"):
            return np.asarray(labels)
        return None

    def _detector(self, classifier: FeatureClassifier) -> Detector:
        if isinstance(self.detector, Detector):
            found = copy.deepcopy(self.detector)  # scikit-learn's contract: `fit` changes no parameter
        elif isinstance(self.detector, str):
            name = self.detector
            if name == "default" and self.head is not None:
                return default_detector(classifier)
            found = create_detector(WITHOUT_HEAD if name == "default" else name)
        else:
            raise SettingError(f"`detector` must be a name or a Detector; got {self.detector!r}.")
        if self.head is None and (lacking := classifier.lacking(found.all_needs, found.all_layers)):
            able = [name for name in CATALOG if detector_class(name).needs == Needs.FEATURES]
            raise HeadError(f"'{found.name}' {lacking} Detectors that need features alone: {', '.join(sorted(able))}.")
        return found
