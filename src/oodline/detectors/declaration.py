"""What a class of detectors must say, checked when the class is made, and what its scores must be."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import Any

from torch import Tensor

from oodline.detectors.plain_name import check_name
from oodline.errors import DetectorError
from oodline.model.activations import Needs


def check_declaration(cls: type) -> None:
    """Raise `DetectorError` where a class of detectors does not say its name, its needs, or what it has in their form.

    A class that leaves a method open, such as a common base of several detectors, may leave out the rest as well.
    """
    if inspect.isabstract(cls):
        return
    own = cls.__name__
    check_name(getattr(cls, "name", None), f"`{own}.name`")
    needs = getattr(cls, "needs", None)
    if not isinstance(needs, Needs) or not needs:
        raise DetectorError(
            f"`{own}.needs` must be what it reads, such as Needs.LOGITS or Needs.FEATURES | Needs.HEAD; got {needs!r}."
        )
    paper = getattr(cls, "paper", None)
    if paper is not None and not hasattr(paper, "venue"):
        raise DetectorError(f"`{own}.paper` must be Paper(title, venue), or left out; got {paper!r}.")
    if hasattr(cls, "fitted_buffers"):
        raise DetectorError(
            f"`{own}` must declare what is fitted by annotations, as `means: Fitted[Tensor]`; got `fitted_buffers`."
        )
    for parameter in list(inspect.signature(cls.__init__).parameters.values())[1:]:  # type: ignore[misc]
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise DetectorError(
                f"the settings of {own} must be named one by one in __init__, so that a file can hold them; got "
                f"{parameter}."
            )


def check_defaults(cls: type) -> None:
    """Raise `DetectorError` where a setting has no default, without which the bare name would not be a detector."""
    for parameter in list(inspect.signature(cls.__init__).parameters.values())[1:]:  # type: ignore[misc]
        if parameter.default is parameter.empty:
            raise DetectorError(
                f"every setting of {cls.__name__} must have a default, so that its name alone makes a detector; got "
                f"'{parameter.name}' without one."
            )


def check_estimate(detector: Any, head: Any, asked: Collection[str], *, written: bool) -> None:
    """Raise `DetectorError` where `estimate` does not take what `statistics` asks for by these names.

    `written` says whether the class, or one above it, has an `estimate` of its own.
    """
    own = type(detector).__name__
    if unusable := [name for name in asked if name == "seen" or not name.isidentifier()]:
        raise DetectorError(
            f"`{own}.statistics` must name what can be arguments of estimate, other than 'seen'; got {unusable[0]!r}."
        )
    signature = inspect.signature(detector.estimate)
    try:
        signature.bind(head, **dict.fromkeys(asked))
        fits = written or not asked
    except TypeError:
        fits = False
    if not fits:
        given = ", ".join(str(p.replace(annotation=p.empty)) for p in signature.parameters.values())
        raise DetectorError(
            f"`{own}.estimate` must take the head, then by name what `{own}.statistics` asks for: "
            f"estimate({', '.join(['self', 'head', *asked])}); got {f'estimate(self, {given})' if written else 'none'}."
        )


def check_scores(what: str, scores: Any, expected: int) -> None:
    """Raise `DetectorError` where scores are not one floating-point number for each of the expected samples."""
    if isinstance(scores, Tensor) and scores.shape == (expected,) and scores.is_floating_point():
        return
    got = f"{scores.dtype} {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
    raise DetectorError(
        f"{what} must return one floating-point number per sample, a tensor of shape ({expected},); got {got}."
    )
