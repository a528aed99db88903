"""Leave-classes-out: samples of classes that the head is made to forget stand in for OOD data.

The columns of some classes are cut out of a linear head, which needs no pass: detectors are fitted on the classes that
are left, and held-out samples of the others are what to find. The features still know the forgotten classes, so this
tells less than real OOD data does; see `docs/results/tune.md`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from oodline.model.activations import Activations
from oodline.model.head import LinearHead


@dataclass(frozen=True, eq=False)
class Fold:
    """Which classes the head still knows.

    Parameters
    ----------
    kept : Tensor (C,), bool
        False for the classes that are left out.

    Examples
    --------
    >>> from oodline.testing import activations_of
    >>> fold = Fold(torch.tensor([True, False, True]))
    >>> activations, labels = fold.inside(activations_of(torch.eye(3)), torch.arange(3))
    >>> activations.logits, labels
    (tensor([[1., 0.],
            [0., 1.]]), tensor([0, 1]))
    >>> fold.outside(activations_of(torch.eye(3)), torch.arange(3)).logits
    tensor([[0., 0.]])
    """

    kept: Bool[Tensor, " c"]

    def head(self, head: LinearHead) -> LinearHead:
        """The head without the columns of the classes that are left out."""
        kept = self.kept.to(head.weight.device)
        return LinearHead(head.weight[kept], head.bias[kept])

    def inside(self, activations: Activations, labels: Int[Tensor, " n"]) -> tuple[Activations, Int[Tensor, " m"]]:
        """Samples of the kept classes, and their labels in the order of the restricted logits."""
        rows = self.kept[labels.cpu().long()]
        renumbered = self.kept.cumsum(0) - 1
        return self._restrict(activations, rows), renumbered[labels.cpu().long()[rows]]

    def outside(self, activations: Activations, labels: Int[Tensor, " n"]) -> Activations:
        """Samples of the classes that are left out, seen by the restricted head."""
        return self._restrict(activations, ~self.kept[labels.cpu().long()])

    def _restrict(self, activations: Activations, rows: Bool[Tensor, " n"]) -> Activations:
        head = activations.head
        assert isinstance(head, LinearHead)
        here, kept = rows.to(activations.features.device), self.kept.to(activations.features.device)
        return Activations(
            activations.features[here], activations.logits[here][:, kept], self.head(head), activations.index[rows]
        )


def folds(classes: int, seed: int, most: int = 5) -> list[Fold]:
    """A random partition of the classes into at most `most` parts, each left out once; none below three classes.

    Examples
    --------
    >>> torch.stack([~fold.kept for fold in folds(10, seed=0)]).sum(0)
    tensor([1, 1, 1, 1, 1, 1, 1, 1, 1, 1])
    >>> folds(2, seed=0)
    []
    """
    if classes < 3:
        return []
    order = torch.randperm(classes, generator=torch.Generator().manual_seed(seed))
    parts = min(most, classes)
    left_out = [torch.isin(torch.arange(classes), order[start::parts]) for start in range(parts)]
    return [Fold(~part) for part in left_out]
