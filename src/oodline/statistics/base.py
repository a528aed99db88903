"""The interface of a statistic: update with batches, merge with another, at a size that is independent of the data.

Any way of cutting the data into batches, orders and workers gives the same statistic, up to float64 rounding. All of
them accumulate on the CPU, in float64 or in integers, whatever device and dtype the classifier uses.
"""

from __future__ import annotations

import abc
import copy
from collections.abc import Mapping
from typing import ClassVar, Self

from torch import Tensor

from oodline.errors import StatisticsError
from oodline.model.activations import Activations


class Statistic(abc.ABC):
    """One mergeable sufficient statistic.

    A subclass names its tensors in `tensors`, describes itself by `key`, and writes `update` and `_absorb`.
    Statistics with equal keys are the same statistic, so detectors that need it share it.
    """

    tensors: ClassVar[tuple[str, ...]]
    """Names of the attributes that are the state; None until the first update."""

    rows_may_differ: ClassVar[bool] = False
    """Whether two states of one kind may differ in their first dimension, as samples do and classes do not."""

    @property
    @abc.abstractmethod
    def key(self) -> tuple[object, ...]:
        """What makes two statistics the same one: the class and its settings."""

    @abc.abstractmethod
    def update(self, activations: Activations, labels: Tensor | None) -> None:
        """Take in one batch.

        Parameters
        ----------
        activations : Activations
            Of N samples.
        labels : Tensor (N,) or None
            Integer class labels; a statistic that does not use them accepts None.

        Raises
        ------
        LabelError
            Labels are needed and missing, not integers, of the wrong length, or out of range.
        """

    @abc.abstractmethod
    def _absorb(self, other: Self) -> None:
        """Add the non-empty `other` to this non-empty statistic."""

    @property
    def empty(self) -> bool:
        """Whether nothing was taken in yet."""
        return getattr(self, self.tensors[0]) is None

    def fresh(self) -> Self:
        """Return an empty statistic of the same kind."""
        other = copy.deepcopy(self)
        other.load_state_dict({})
        return other

    def merge(self, other: Self) -> Self:
        """Take in everything that `other`, filled from other samples, has seen; `other` is left as it is.

        Raises
        ------
        StatisticsError
            The two are not the same kind of statistic, or of data of different sizes.
        """
        if self.key != other.key:
            raise StatisticsError(f"cannot merge {other.key} into {self.key}: they are different statistics.")
        if other.empty:
            return self
        if self.empty:
            self.load_state_dict(other.state_dict())
            return self
        for name in self.tensors:
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine.shape[self.rows_may_differ :] != theirs.shape[self.rows_may_differ :]:
                raise StatisticsError(
                    f"cannot merge: {name} has shape {tuple(mine.shape)} here and {tuple(theirs.shape)} there; the two "
                    "come from different classifiers."
                )
        self._absorb(other)
        return self

    def state_dict(self) -> dict[str, Tensor]:
        """Return copies of the tensors, by name: what to save or to send; an empty dict when nothing was taken in."""
        return {} if self.empty else {name: getattr(self, name).clone() for name in self.tensors}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore from `state_dict()`.

        Raises
        ------
        StatisticsError
            A tensor is missing, or there is one too many.
        """
        self._check_names(state)
        for name in self.tensors:
            setattr(self, name, state[name].clone() if state else None)

    def _check_names(self, state: Mapping[str, Tensor]) -> None:
        if state and set(state) != set(self.tensors):
            raise StatisticsError(f"a state of {type(self).__name__} holds {self.tensors}, not {tuple(state)}.")
