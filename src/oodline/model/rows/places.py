"""`Places`: which input each row of activations came from, and where in it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from oodline.errors import InputError

if TYPE_CHECKING:
    from oodline.model.rows.per_input import PerInput

MOST_PLACES = 2**24
"""Rows of one input at most, so that input and place make one number."""

OBSERVED = "token"
"""Key of `Places.known`: the token that came next, of a model that predicts it."""


@dataclass(frozen=True, eq=False)
class Places:
    """Where M rows of activations are in their G inputs.

    The rows of one input are in one batch and one after the other, in the order of their places.

    Parameters
    ----------
    group : Tensor (M,), int64
        Which input of the batch each row came from, 0..G-1, in ascending order; on the CPU.
    place : Tensor (M,), int64
        Which place of that input: position in its flattened map, in its text, or in its list of boxes; on the CPU.
    samples : Tensor (G,), int64
        Position of each input in its data set, on the CPU. An input may have no row.
    grid : tuple of int
        Shape of the places of one input: (H, W) of a map, (T,) of a text; () where inputs have lists of their own.
    per_input : PerInput
        How an input is judged by its rows.
    means : Tensor (G, D)
        Mean features of each input, by which it is recognised; zeros where it has no row.
    known : mapping of str to Tensor (M, ...)
        What else is known of each row, such as its box.

    Examples
    --------
    >>> from oodline.model.rows.per_input import Lowest
    >>> group, place, samples = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 3]), torch.tensor([7, 8])
    >>> places = Places(group, place, samples, (2, 2), Lowest(), torch.ones(2, 3))
    >>> places.maps(torch.tensor([0.1, 0.2, 0.3]))
    tensor([[[0.1000, 0.2000],
             [   nan,    nan]],
    <BLANKLINE>
            [[   nan,    nan],
             [   nan, 0.3000]]])
    >>> places.judged(torch.tensor([0.2, 0.1, 0.3]))
    tensor([0.1000, 0.3000])
    """

    group: Int[Tensor, " m"]
    place: Int[Tensor, " m"]
    samples: Int[Tensor, " g"]
    grid: tuple[int, ...]
    per_input: PerInput
    means: Float[Tensor, "g d"]
    known: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.group)

    @property
    def inputs(self) -> int:
        """Number of inputs, G."""
        return len(self.samples)

    @property
    def size(self) -> int:
        """Number of places of one input, where they are a map or a text."""
        return math.prod(self.grid)

    @property
    def index(self) -> Int[Tensor, " m"]:
        """One number per row (M,), the same wherever and however the data set is read."""
        return self.samples[self.group] * MOST_PLACES + self.place

    def judged(self, scores: Float[Tensor, " m"]) -> Float[Tensor, " g"]:
        """The score of each input (G,) by those of its rows (M,); infinite for an input without a row."""
        return self.per_input(scores, self.group.to(scores.device), self.samples)

    def maps(self, values: Tensor, missing: float = float("nan")) -> Tensor:
        """Values (M, ...) over the places of each input, `(G, *grid, ...)`; `missing` where there is no row."""
        if values.dtype == torch.bool:
            missing = bool(missing) if missing == missing else False
        elif not values.is_floating_point() and missing != missing:
            missing = -1
        size = self.size
        laid = values.new_full((self.inputs * size, *values.shape[1:]), missing)
        laid[(self.group * size + self.place).to(values.device)] = values
        return laid.reshape(self.inputs, *self.grid, *values.shape[1:])

    def lists(self, values: Tensor) -> Sequence[Tensor]:
        """Values (M, ...) cut into one tensor per input."""
        return torch.split(values, torch.bincount(self.group, minlength=self.inputs).tolist())

    def take(self, rows: Int[Tensor, " k"] | Bool[Tensor, " m"] | slice) -> Places:
        """The places of some rows, in ascending order; all inputs stay."""
        known = {
            name: value[rows if isinstance(rows, slice) else rows.to(value.device)]
            for name, value in self.known.items()
        }
        return replace(self, group=self.group[rows], place=self.place[rows], known=known)


def positions(index: Tensor | None, count: int) -> Int[Tensor, " g"]:
    """Positions of `count` inputs in their data set: as given, or 0..G-1.

    Raises
    ------
    InputError
        There is not one for each.

    Examples
    --------
    >>> positions(None, 2), positions(torch.tensor([7, 9]), 2)
    (tensor([0, 1]), tensor([7, 9]))
    """
    if index is None:
        return torch.arange(count)
    if index.shape != (count,):
        raise InputError(f"`index` must have one position per input, ({count},); got shape {tuple(index.shape)}.")
    return index.cpu().long()


def mean_by(values: Float[Tensor, "m d"], group: Int[Tensor, " m"], inputs: int) -> Float[Tensor, "g d"]:
    """Mean of the rows of each input (G, D); zeros where it has none.

    Examples
    --------
    >>> mean_by(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 2]), 3).flatten()
    tensor([2., 0., 5.])
    """
    rows = torch.bincount(group, minlength=inputs).clamp(min=1).to(values)
    total = values.new_zeros(inputs, values.shape[1]).index_add_(0, group.to(values.device), values)
    return total / rows.unsqueeze(1)
