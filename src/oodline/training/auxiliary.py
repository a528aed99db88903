"""`Auxiliary`: outliers from a data set of their own, apart from every set that is tested on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from oodline._util.checked import checked
from oodline._util.ranges import Positive
from oodline.data.batch import Loader, unpack
from oodline.errors import InputError
from oodline.training.forward import Forward
from oodline.training.outlier_maker import OutlierMaker


class Auxiliary(OutlierMaker):
    """The next samples of a loader, which begins again at its end; its labels are not read.

    Shuffle the loader. Its images must be none of the OOD sets that are tested on, and best be of other sources:
    outliers that were trained on are known.

    Parameters
    ----------
    loader : iterable
        Batches of outliers, prepared as the ID samples are.
    per_inlier : float
        How many outliers for each ID sample, above 0.

    Raises
    ------
    InputError
        The loader yields no sample, or mappings.

    Examples
    --------
    >>> auxiliary = Auxiliary([torch.arange(6.0).view(3, 2)], per_inlier=2)
    >>> auxiliary(Forward(torch.nn.Linear(2, 2)), torch.zeros(2, 2), torch.zeros(2))[:, 0]
    tensor([0., 2., 4., 0.])
    """

    @checked
    def __init__(self, loader: Loader, *, per_inlier: Positive = 1.0) -> None:
        self.loader, self.per_inlier = loader, per_inlier
        self._batches: Iterator[Any] = iter(())
        self._left: Tensor | None = None

    def restart(self) -> None:
        """Begin at the loader's start."""
        self._batches, self._left = iter(()), None

    def __call__(self, forward: Forward, inputs: Tensor, labels: Tensor) -> Tensor:
        """Outliers (M, ...)."""
        return self.take(max(1, round(len(inputs) * self.per_inlier))).to(inputs)

    def take(self, count: int) -> Tensor:
        """The next `count` outliers (count, ...)."""
        parts, missing = [], count
        while missing:
            left = self._next() if self._left is None else self._left
            parts.append(left[:missing])
            missing -= len(parts[-1])
            self._left = left[len(parts[-1]) :] if len(left) > len(parts[-1]) else None
        return torch.cat(parts)

    def _next(self) -> Tensor:
        for again in (False, True):
            if again:
                self._batches = iter(self.loader)
            for batch in self._batches:
                inputs = unpack(batch, 0)[0]
                if not isinstance(inputs, Tensor):
                    raise InputError("outliers must be tensors, such as images; this loader yields mappings.")
                if len(inputs):
                    return inputs
        raise InputError(
            "the loader of outliers yielded no sample. Check its path, and that it is not a generator, which can be "
            "read only once."
        )
