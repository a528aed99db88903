"""What a loader of ours yields."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Batch:
    """Inputs, labels, and which samples of the data set they are.

    The index keeps the identity of a sample when others were skipped, shuffled or read by another worker.
    """

    inputs: Tensor
    """(N, ...), as the model takes them."""
    labels: Tensor | None
    """(N,), int64, where the data set has labels."""
    index: Tensor
    """(N,), int64: position of each sample in its data set."""
