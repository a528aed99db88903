"""Scatter matrix of a source around its class means, pooled or per class, in one pass."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor

from oodline.errors import SettingError
from oodline.model.activations import Activations
from oodline.statistics.base import Statistic
from oodline.statistics.class_moments import ClassMoments
from oodline.statistics.sources import Grouping, Source, group

BLOCK = 256
"""Columns of a pooled scatter matrix that are multiplied at a time, each with those that follow: it is symmetric."""


class Covariance(Statistic):
    """Class counts and means, and the scatter matrix around them, all float64.

    Parameters
    ----------
    of : Source
        What the covariance is of; features by default.
    by : {"label", "predicted", "all"}
        Whose means the scatter is taken around; "all" gives the plain covariance.
    per_class : bool
        Keep one matrix per class, (C, K, K), in place of the pooled one (1, K, K): 33 GB for C=1000, K=2048.

    Examples
    --------
    >>> from oodline.model.activations import Activations
    >>> from oodline.model.head import LinearHead
    >>> head = LinearHead(torch.eye(2), torch.zeros(2))
    >>> f = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0], [0.0, 9.0]])
    >>> covariance = Covariance()
    >>> covariance.update(Activations(f, head(f), head, torch.arange(4)), torch.tensor([0, 0, 1, 1]))
    >>> covariance.pooled()
    tensor([[0.5000, 0.0000],
            [0.0000, 2.0000]], dtype=torch.float64)
    """

    tensors: ClassVar = ("scatter", "count", "mean")

    def __init__(self, of: Source | None = None, by: Grouping = "label", *, per_class: bool = False) -> None:
        self.moments = ClassMoments(of, by)
        self.per_class = per_class
        self._scatter: Float[Tensor, "g k k"] = None  # type: ignore[assignment]

    @property
    def key(self) -> tuple[object, ...]:
        """The class, source, grouping, and whether there is a matrix for each class."""
        return (type(self).__name__, self.moments.of, self.moments.by, self.per_class)

    @property
    def empty(self) -> bool:
        """Whether nothing was taken in yet."""
        return self._scatter is None

    @property
    def scatter(self) -> Float[Tensor, "g k k"]:
        """Scatter matrix around the class means (1, K, K), or one of each class (C, K, K)."""
        if not self.per_class:
            for start in range(BLOCK, self._scatter.shape[1], BLOCK):
                rows = slice(start, start + BLOCK)  # `update` leaves what is below the diagonal to the first reading
                self._scatter[0, rows, :start] = self._scatter[0, :start, rows].T
        return self._scatter

    @scatter.setter
    def scatter(self, value: Tensor) -> None:
        self._scatter = value

    @property
    def count(self) -> Tensor:
        """Samples of each class (C,)."""
        return self.moments.count

    @count.setter
    def count(self, value: Tensor) -> None:
        self.moments.count = value

    @property
    def mean(self) -> Tensor:
        """Mean of each class (C, K)."""
        return self.moments.mean

    @mean.setter
    def mean(self, value: Tensor) -> None:
        self.moments.mean = value
        self.moments.deviations = None if value is None else value[:, :0].clone()

    def pooled(self) -> Float[Tensor, "k k"]:
        """Maximum-likelihood covariance around the class means (K, K): total scatter over the number of samples."""
        return self.scatter.sum(0) / self.moments.total

    def of_class(self, c: int) -> Float[Tensor, "k k"]:
        """Maximum-likelihood covariance of class `c` (K, K).

        Raises
        ------
        SettingError
            The statistic was not built with `per_class=True`.
        """
        if not self.per_class:
            raise SettingError("one matrix per class is kept only by Covariance(per_class=True).")
        return self.scatter[c] / self.count[c].clamp(min=1)

    def update(self, activations: Activations, labels: Tensor | None) -> None:
        """Take in one batch; see `Statistic.update`."""
        groups, classes = group(activations, labels, self.moments.by)
        values = self.moments.of(activations, groups).to("cpu", torch.float64)
        mean, inverse, step = self.moments.absorb_batch(values, groups, classes)
        centred, width = values - mean[inverse], values.shape[1]
        if self._scatter is None:
            self._scatter = torch.zeros(classes if self.per_class else 1, width, width, dtype=torch.float64)
        if self.per_class:
            for row, c in enumerate(sorted(set(groups.tolist()))):
                part = centred[inverse == row]
                self._scatter[c] += part.T @ part + torch.outer(step[row], step[row])
            return
        added = torch.cat([centred, step])
        for start in range(0, width, BLOCK):
            # in place: a product of its own would take as much memory as the matrix
            block = self._scatter[0, start : start + BLOCK, start:]
            block.addmm_(added[:, start : start + BLOCK].T, added[:, start:])

    def _absorb(self, other: Self) -> None:
        rows = torch.nonzero(other.count).flatten()
        before, added = self.count[rows].double(), other.count[rows].double()
        step = (other.mean[rows] - self.mean[rows]) * (before * added / (before + added)).sqrt().unsqueeze(1)
        self.moments.merge(other.moments)
        self._scatter += other._scatter
        if self.per_class:
            for row, c in enumerate(rows.tolist()):
                self._scatter[c] += torch.outer(step[row], step[row])
        else:
            self._scatter[0].addmm_(step.T, step)
