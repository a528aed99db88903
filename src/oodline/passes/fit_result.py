"""What a fit of several detectors gave, and the error where some failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from oodline.errors import OodlineError
from oodline.statistics import Backbone


@dataclass(frozen=True, eq=False)
class FitResult:
    """What `oodline.fit` gave.

    Parameters
    ----------
    detectors : dict of str to Detector
        Those that are fitted, by name; the objects that were passed in.
    failures : dict of str to OodlineError
        Why the others are not, by name. Empty unless `on_failure="skip"`.
    seconds : dict of str to float
        Wall time of each one's own estimate, after the pass that all share.
    backbone : Backbone, optional
        What the features were like; None where no pass was made.

    Examples
    --------
    >>> import oodline as ol
    >>> from oodline.testing import toy_problem
    >>> result = ol.fit([ol.LINe(), ol.KNN(k=500)], *toy_problem(), on_failure="skip")
    >>> list(result.detectors), list(result.seconds)
    (['line'], ['line'])
    >>> print(result.failures["knn"])
    KNN(k=500) needs at least 500 training samples; 60 were seen.
    """

    detectors: dict[str, Any]
    failures: dict[str, OodlineError]
    seconds: dict[str, float]
    backbone: Backbone | None = None


class FitError(OodlineError, ValueError):
    """Some of several detectors, or all, could not be fitted; the others are and can be used.

    Attributes
    ----------
    failures : dict of str to OodlineError
        Why, by the detector's name.
    fitted : tuple of str
        Names of the others.
    """

    def __init__(self, failures: Mapping[str, OodlineError], fitted: Sequence[str] = ()) -> None:
        reasons = "\n".join(f"  {name}: {error}" for name, error in failures.items())
        total = len(failures) + len(fitted)
        if fitted:
            what, rest = f"{len(failures)} of {total} detectors", f"\nThe others are fitted: {', '.join(fitted)}."
        else:
            what, rest = f"all {total} detectors", ""
        super().__init__(f"fitting failed for {what}:\n{reasons}{rest}")
        self.failures = dict(failures)
        self.fitted = tuple(fitted)


def fit_error(failures: Mapping[str, OodlineError], fitted: Sequence[str] = ()) -> OodlineError:
    """What to raise for failures: a single detector's own error, otherwise a `FitError`."""
    return FitError(failures, fitted) if len(failures) + len(fitted) > 1 else next(iter(failures.values()))
