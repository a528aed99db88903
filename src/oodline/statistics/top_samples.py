"""The samples that activate each neuron most: their indices and values, per component of a source."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from oodline.errors import SettingError, StatisticsError
from oodline.model.activations import Activations
from oodline.statistics.base import Statistic
from oodline.statistics.sources import Features, Source, group


class TopSamples(Statistic):
    """For each of K components the `size` largest values (S, K), float32, largest first, and whose they are (S, K).

    Of equal values the sample with the lower index comes first, so that any order and any workers keep the same ones.
    S is `size`, or the number of samples where there were fewer.

    Parameters
    ----------
    size : int
        How many samples to keep for each component.
    of : Source
        Whose components; features by default, one component per neuron.

    Examples
    --------
    >>> from oodline.testing import activations_of
    >>> top = TopSamples(2)
    >>> top.update(activations_of(torch.tensor([[1.0, 0.0], [3.0, 5.0], [2.0, 5.0]])), None)
    >>> top.index
    tensor([[1, 1],
            [2, 2]])
    """

    tensors: ClassVar = ("values", "index")
    rows_may_differ: ClassVar = True

    def __init__(self, size: int = 5, of: Source | None = None) -> None:
        if size < 1:
            raise SettingError(f"at least one sample is kept for each component; size={size} is none.")
        self.size = size
        self.of = of if of is not None else Features()
        self.values: Float[Tensor, "s k"] = None  # type: ignore[assignment]
        self.index: Int[Tensor, "s k"] = None  # type: ignore[assignment]

    @property
    def key(self) -> tuple[object, ...]:
        """The class, source and size."""
        return (type(self).__name__, self.of, self.size)

    def update(self, activations: Activations, labels: Tensor | None) -> None:
        """Take in one batch; labels are not used."""
        values = self.of(activations, group(activations, labels, "all")[0]).to("cpu", torch.float32)
        index = activations.index.cpu().long().unsqueeze(1).expand(values.shape)
        if self.values is not None:
            if len(self.values) == self.size:
                # most samples of a large data set end here: they come before the last that is kept in no component
                ties = (values == self.values[-1]) & (index < self.index[-1])
                before = ((values > self.values[-1]) | ties).any(1)
                if not bool(before.any()):
                    return
                values, index = values[before], index[before]
            values, index = torch.cat([self.values, values]), torch.cat([self.index, index])
        self._keep(values, index)

    def _absorb(self, other: Self) -> None:
        both = torch.isin(other.index[:, 0], self.index[:, 0])
        if bool(both.any()):
            raise StatisticsError(
                f"cannot merge: sample {int(other.index[both, 0][0])} is in both, so a shard was counted twice."
            )
        self._keep(torch.cat([self.values, other.values]), torch.cat([self.index, other.index]))

    def _keep(self, values: Tensor, index: Tensor) -> None:
        by_index = index.argsort(0)
        values, index = values.gather(0, by_index), index.gather(0, by_index)
        order = values.argsort(dim=0, descending=True, stable=True)[: self.size]
        self.values, self.index = values.gather(0, order), index.gather(0, order)
