"""`TrainingHead`: what a head of a training recipe has, and how it takes the place of a classifier's own."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol, Self, runtime_checkable

from torch import Tensor, nn

from oodline.detectors.paper import Paper
from oodline.errors import HeadError
from oodline.model.head import find_head
from oodline.model.wrappers import unwrapped


@runtime_checkable
class TrainingHead(Protocol):
    """A module from features (N, D) to logits (N, C) that ends in a plain linear layer.

    What that last layer reads are then the features, and the layer the head, of which `oodline.Classifier` finds
    `W f + b == logits`: so every post-hoc method reads it.
    """

    paper: ClassVar[Paper]
    linear: nn.Linear
    """The last layer."""

    @classmethod
    def of(cls, linear: nn.Linear, **settings: Any) -> Self:
        """A head of the same size in place of a trained linear one, whose weights it takes over where it can."""
        ...

    def __call__(self, features: Tensor) -> Tensor:
        """Logits (N, C)."""
        ...


def replace_head(model: nn.Module, kind: type[Any], head: str | None = None, **settings: Any) -> Any:
    """Put another head into a network, in place of its own linear one; returns it.

    Parameters
    ----------
    model : nn.Module
        A classifier, which is changed.
    kind : type
        A `TrainingHead`, such as `AbeTHead`.
    head : str, optional
        Name of the module to replace; the last linear layer if omitted.
    **settings
        Of the head.

    Raises
    ------
    HeadError
        There is no such module, or it is not an `nn.Linear`.

    Examples
    --------
    >>> import oodline as ol
    >>> from oodline.testing import toy_problem
    >>> from oodline.training import ASCOODHead
    >>> classifier, loader = toy_problem()
    >>> _ = replace_head(classifier.model, ASCOODHead)
    >>> changed = ol.Classifier(classifier.model)
    >>> changed(loader[0][0]).features.mean().abs() < 1e-6, changed.head_name
    (tensor(True), '2.linear')
    """
    inner = unwrapped(model)
    name = find_head(inner, head)
    parent, _, last = name.rpartition(".")
    linear = inner.get_submodule(name) if name in dict(inner.named_modules()) else None
    if not isinstance(linear, nn.Linear):
        raise HeadError(
            f"'{name}' must be an nn.Linear to be replaced by {kind.__name__}; it is "
            f"{'a sum of several' if linear is None else f'a {type(linear).__name__}'}. Pass head='NAME'."
        )
    made = kind.of(linear, **settings).to(linear.weight)
    made.train(linear.training)
    setattr(inner.get_submodule(parent), last, made)
    return made
