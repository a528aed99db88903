"""`NoHead`: in place of the head, if only precomputed features or logits are available."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

import torch
from jaxtyping import Float
from torch import Tensor

from oodline._util.digests import digest
from oodline.errors import HeadError
from oodline.model.head_name import Task, task_of


@dataclass(frozen=True)
class NoHead:
    """In place of a head where none is known: sizes, and no weights.

    Parameters
    ----------
    num_classes : int
        Number of classes C.
    num_features : int
        Number of features D; of logits, where there are no features.
    logits : bool
        Whether logits are given.
    features : bool
        Whether features are given.
    name : str
        Empty, or "multilabel()" for labels of which a sample has any number.

    Examples
    --------
    >>> head = NoHead(num_classes=3, num_features=8, logits=False)
    >>> head(torch.ones(5, 8)).shape
    torch.Size([5, 0])
    """

    num_classes: int
    num_features: int
    logits: bool
    features: bool = True
    name: str = ""

    def __call__(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """Logits of changed features: none where none are given; the same where logits are all that is given.

        Raises
        ------
        HeadError
            Both features and logits are given, and only a head could say what changed features would give.
        """
        if not self.logits:
            return features.new_zeros(features.shape[0], 0)
        if not self.features:
            return features
        raise self._missing()

    @property
    def task(self) -> Task:
        """What the logits are of: classes of which each sample has one, or labels of which it has any number."""
        return task_of(self.name)

    @property
    def linear(self) -> NoReturn:
        """There is no layer that reads the features."""
        raise self._missing()

    def finish(self, hidden: Tensor) -> NoReturn:
        """There is no layer."""
        raise self._missing()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the sizes: there are no weights to tell one classifier from another."""
        return digest(f"no head of {self.num_classes} and {self.num_features}")

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    def to(self, like: Tensor) -> NoHead:
        """Return itself."""
        return self

    def _missing(self) -> HeadError:
        return HeadError(
            "the head of the classifier is needed, and none was given. Pass head=(W, b), or --model features:HEAD_FILE."
        )
