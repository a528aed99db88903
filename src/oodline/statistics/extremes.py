"""The two smallest and two largest values of each entry of a source, for each class."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor

from oodline.model.activations import Activations
from oodline.statistics.base import Statistic
from oodline.statistics.sources import Grouping, Source, group


class Extremes(Statistic):
    """Two lowest and two highest values (2, C, K), outermost first, float32; infinite where there is no such sample.

    With the second of them it is known what the range of the other samples is, for each sample that is in it.

    Parameters
    ----------
    of : Source
        What the extremes are of.
    by : {"label", "predicted", "all"}
        Which class a sample counts for.

    Examples
    --------
    >>> from oodline.statistics.sources import Features
    >>> from oodline.testing import activations_of
    >>> extremes = Extremes(Features(), by="all")
    >>> extremes.update(activations_of(torch.tensor([[1.0], [5.0], [3.0]])), None)
    >>> extremes.low.flatten(), extremes.high.flatten()
    (tensor([1., 3.]), tensor([5., 3.]))
    """

    tensors: ClassVar = ("low", "high")

    def __init__(self, of: Source, by: Grouping = "label") -> None:
        self.of = of
        self.by = by
        self.low: Float[Tensor, "2 c k"] = None  # type: ignore[assignment]
        self.high: Float[Tensor, "2 c k"] = None  # type: ignore[assignment]

    @property
    def key(self) -> tuple[object, ...]:
        """The class, source and grouping."""
        return (type(self).__name__, self.of, self.by)

    def update(self, activations: Activations, labels: Tensor | None) -> None:
        """Take in one batch; see `Statistic.update`."""
        groups, classes = group(activations, labels, self.by)
        values = self.of(activations, groups).to("cpu", torch.float32)
        if self.empty:
            self.low = torch.full((2, classes, values.shape[1]), torch.inf)
            self.high = -self.low
        for c in torch.unique(groups).tolist():
            own = values[groups == c]
            self.low[:, c] = torch.cat([self.low[:, c], own]).topk(2, dim=0, largest=False).values
            self.high[:, c] = torch.cat([self.high[:, c], own]).topk(2, dim=0).values

    def _absorb(self, other: Self) -> None:
        self.low = torch.cat([self.low, other.low]).topk(2, dim=0, largest=False).values
        self.high = torch.cat([self.high, other.high]).topk(2, dim=0).values
