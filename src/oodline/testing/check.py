"""`check_detector`: one's own detector is held to the rules that every detector of oodline keeps."""

from __future__ import annotations

import inspect
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oodline.detectors.base import Detector


def check_detector(detector: type[Detector] | Detector | str) -> None:
    """Check that a detector keeps the contract, on a toy problem: in seconds, and without pytest.

    It gives one finite score per sample, which depends on that sample alone; a fit depends neither on the order of the
    data nor on its cuts, and parts can be merged; state and settings make it again, also from a guard's file; scoring
    changes nothing; another head is refused; ID data scores higher than other data; and it becomes a graph, or says
    why not.

    Parameters
    ----------
    detector : type of Detector, Detector, or str
        A class, checked with its defaults; a detector, checked with its settings, fitted or not; or a reference such as
        "mine,k=3" to one that is registered.

    Raises
    ------
    AssertionError
        A rule is broken; the message says which, what was found, and what to do.
    DetectorError
        It is not a detector, or its name stands for another one.
    UnknownNameError, SettingError
        A reference is wrong.

    Examples
    --------
    >>> import oodline as ol
    >>> class Opposite(ol.Detector):
    ...     name = "opposite"
    ...     needs = ol.Needs.LOGITS
    ...
    ...     def score(self, activations):
    ...         return -activations.logits.logsumexp(1)
    >>> check_detector(Opposite)
    Traceback (most recent call last):
    AssertionError: Opposite breaks a rule: Samples like the training data score higher than others. Here the AUROC on
    the toy problem is 0.0..., and 0.8 is asked for. A higher score must mean more in-distribution: return the negative.
    """
    import torch

    from oodline.detectors.base import Detector
    from oodline.detectors.catalog import create_detector
    from oodline.detectors.registry import as_class, registered_for_now
    from oodline.errors import AssumptionWarning
    from oodline.guard.records import describe, rebuild
    from oodline.testing.case import Case
    from oodline.testing.rules import RULES  # what they need takes a second to import, and toys need none of it

    example = create_detector(detector) if isinstance(detector, str) else detector
    cls = as_class(example)
    with registered_for_now(cls), warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore", AssumptionWarning)  # the toy problem is not what a method was made for
        if isinstance(example, Detector):
            record = describe(example)
            case = Case(lambda: rebuild(record))
        else:
            case = Case(cls)
        for rule in RULES:
            torch.manual_seed(0)
            stated = inspect.cleandoc(rule.__doc__ or "").partition("\n")[0]
            try:
                rule(case)
            except Exception as error:
                failure = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
                raise AssertionError(f"{cls.__name__} breaks a rule: {stated} Here {failure}") from error
