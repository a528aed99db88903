"""Rows of a head that is applied at many places: a 1x1 convolution on a map, a linear layer on tokens."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from oodline.data.batch import Inputs
from oodline.errors import ExportError, HeadError
from oodline.model.linear_modules import Affine, affine_of
from oodline.model.rows.per_input import PerInput


@dataclass(frozen=True, eq=False)
class Returned:
    """What a model returned for N inputs, as rows.

    Parameters
    ----------
    logits : Tensor (N, P, C)
        Of the P places of each input.
    grid : tuple of int
        Shape of the places; its product is P.
    kept : Tensor (N, P), bool, optional
        Which places are rows; all if omitted.
    known : mapping of str to Tensor (N, P, ...)
        What else is known of each place.
    after : nn.Module, optional
        What the model applied to these logits to make those it returned, such as a soft cap.
    """

    logits: Tensor
    grid: tuple[int, ...]
    kept: Bool[Tensor, "n p"] | None = None
    known: Mapping[str, Tensor] = field(default_factory=dict)
    after: nn.Module | None = None

    @property
    def is_empty(self) -> bool:
        """Whether no place is a row."""
        return self.kept is not None and not bool(self.kept.any())

    @property
    def shown(self) -> Returned:
        """What shows which layer is the head: the rows, or all places where none is a row, such as of padding alone."""
        return replace(self, kept=None) if self.is_empty else self

    def rows(self, values: Tensor) -> Tensor:
        """Values (N, P, ...) of the rows (M, ...)."""
        return values.flatten(0, 1) if self.kept is None else values[self.kept.to(values.device)]


class PlacedRows(abc.ABC):
    """How the rows of one kind of model are laid out. Subclasses: `Pixels`, `Tokens`."""

    name: ClassVar[str]
    """How it is called on the command line and in files."""

    unit: ClassVar[str]
    """What one row is of, in a word."""

    fit_share: float
    """Share of the rows that statistics see, chosen by a hash of their positions."""

    per_input: PerInput
    """How an input is judged by its rows."""

    scaled: ClassVar[bool] = False
    """Whether a head times a number is found without being named: language models have such numbers by design."""

    @abc.abstractmethod
    def returned(self, model: nn.Module, output: Any, inputs: Inputs, heads: Mapping[str, Tensor]) -> Returned:
        """The rows of what a model returned.

        Parameters
        ----------
        model : nn.Module
            For messages.
        output : object
            What it returned.
        inputs : Tensor or mapping
            What it was given.
        heads : mapping of str to Tensor
            What modules returned that may be its head, by name: where it was brought to another resolution afterwards,
            their places are the rows.

        Raises
        ------
        HeadError
            They cannot be laid out so.
        """

    def everywhere(self) -> Self:
        """The same rows, without what an input must hold to have any: for patterns and examples, which are no data."""
        return self

    def observes(self, model: nn.Module) -> bool:
        """Whether what a row predicts is known, as the next token of a text is."""
        return False

    def after_head(self, model: nn.Module) -> nn.Module | None:
        """What follows the head before any pass has shown it, as `Returned.after`; nothing, unless a kind knows more.

        Parameters
        ----------
        model : nn.Module
            The model.
        """
        return None

    def of_rows(self, labels: Int[Tensor, "n p *k"], model: nn.Module) -> Int[Tensor, "n p *k"]:
        """Labels of what the row at each place predicts, of those of the places; the same, unless a kind shifts them.

        Parameters
        ----------
        labels : Tensor (N, P)
            As `labels` returned them.
        model : nn.Module
            The model.
        """
        return labels

    def grid_of(self, output: Tensor, inputs: Inputs) -> tuple[int, ...]:
        """Shape of the places of what the head returned, (N, C, H, W) or (N, P, C), by shapes alone: for a graph.

        Raises
        ------
        ExportError
            Shapes do not tell.
        """
        raise ExportError(f"a classifier of {self.name} cannot become a graph.")

    @abc.abstractmethod
    def labels(self, labels: Tensor, grid: tuple[int, ...], inputs: int) -> Int[Tensor, "n p"]:
        """Labels of all places (N, P), on the CPU; -1 for what is to be left out.

        Raises
        ------
        LabelError
            They are of another shape.
        """

    def marks(self, labels: Tensor, grid: tuple[int, ...], inputs: int) -> Int[Tensor, "n p 2"]:
        """How many labels of each place are 0 and how many are 1 (N, P, 2), on the CPU.

        Raises
        ------
        LabelError
            As `labels`.
        """
        found = self.labels(labels, grid, inputs)
        return torch.stack([found == 0, found == 1], 2).long()


def laid_out(
    model: nn.Module, inside: Mapping[str, str], outside: Mapping[str, str], seen: Mapping[str, Any], logits: Tensor
) -> dict[str, Tensor]:
    """What modules read and returned, as (N, P, D), by key; without what cannot be laid out so.

    Parameters
    ----------
    model : nn.Module
        Their model.
    inside, outside : mapping of str to str
        From keys of `seen` to names of modules, whose input or output it is.
    seen : mapping
        What was heard.
    logits : Tensor (N, P, C)
        What the model returned.
    """
    found = {}
    for key, name in {**inside, **outside}.items():
        affine, value = affine_of(model.get_submodule(name)), seen.get(key)
        if affine is None or not isinstance(value, Tensor):
            continue
        if affine.window is not None and key in inside:
            if len(affine.weight) != logits.shape[2] or value.shape[0] != logits.shape[0]:
                continue  # it is not the head, and windows are large
            value = affine.windows(value)
        placed = _places(affine, value, logits.shape[0], logits.shape[1])  # len() would fix the size of a graph's batch
        if placed is not None:
            found[key] = placed
    return found


def _places(affine: Affine, value: Tensor, inputs: int, places: int) -> Tensor | None:
    if value.shape[0] == inputs:
        return affine.places(value, inputs)
    if value.shape[:-1] == (inputs * places,):  # flattened before the head
        return value.reshape(inputs, places, -1)
    return value.transpose(0, 1) if value.shape[:-1] == (places, inputs) else None  # the sequence comes first


def check_single(model: nn.Module, name: str) -> None:
    """Raise `HeadError` where a head of rows is not one layer at each place."""
    if affine_of(model.get_submodule(name)) is None:
        kind = type(model.get_submodule(name)).__name__
        raise HeadError(
            f"the head '{name}' is a {kind}; rows need one linear layer or convolution, applied at every place. "
            "Name the last one: head='NAME'."
        )


def numbered(kept: Tensor | None, inputs: int, places: int) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"]]:
    """Input and place of each row (M,), on the CPU.

    Examples
    --------
    >>> numbered(torch.tensor([[True, False], [True, True]]), 2, 2)
    (tensor([0, 1, 1]), tensor([0, 0, 1]))
    """
    if kept is None:
        return torch.arange(inputs).repeat_interleave(places), torch.arange(places).repeat(inputs)
    group, place = torch.nonzero(kept.cpu(), as_tuple=True)
    return group, place
