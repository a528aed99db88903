"""A plain function as a detector."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from oodline.detectors.base import Detector
from oodline.detectors.plain_name import check_name
from oodline.errors import DetectorError
from oodline.model.activations import Activations, Needs


def from_function(fn: Callable[[Activations], Tensor], *, name: str, needs: Needs) -> Detector:
    """Make a detector of a function that scores a batch; it needs no fitting and has no settings.

    It works wherever a detector does. To save it in a file, and to load that file, register it in both processes:
    `oodline.register(detector)`, or `--detectors-from FILE.py` where the file assigns it to a name.

    Parameters
    ----------
    fn : callable
        Takes `Activations` of N samples and returns their scores as a tensor (N,), higher = more in-distribution; one
        sample's score must not depend on the others.
    name : str
        Lowercase letters, digits and hyphens.
    needs : Needs
        What the function reads, such as `Needs.LOGITS` or `Needs.FEATURES | Needs.HEAD`.

    Returns
    -------
    Detector
        Of a class of its own.

    Raises
    ------
    DetectorError
        `fn` is not a function, `name` is not plain, or `needs` is not `Needs`; and later from scoring, where the
        function does not return one number per sample.

    Examples
    --------
    >>> import oodline as ol
    >>> from oodline.testing import toy_problem
    >>> def margin(activations):
    ...     best, second = activations.logits.topk(2).values.T
    ...     return best - second
    >>> detector = ol.from_function(margin, name="margin", needs=ol.Needs.LOGITS)
    >>> classifier, loader = toy_problem()
    >>> ol.score(detector, classifier, loader)["margin"].shape
    torch.Size([60])
    """
    if not callable(fn) or isinstance(fn, type):
        raise DetectorError(f"`fn` must be a function from Activations to scores (N,); got {fn!r}.")
    check_name(name)

    def score(self: Detector, activations: Activations) -> Tensor:
        return fn(activations)

    body = {
        "__doc__": fn.__doc__,
        "__module__": getattr(fn, "__module__", None) or __name__,
        "name": name,
        "needs": needs,
        "score": score,
    }
    made: Detector = type("".join(part.capitalize() for part in name.split("-")), (Detector,), body)()
    return made
