"""`Gradients`: derivatives of one number per sample by the inputs and by the outputs of layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Gradients:
    """Gradients of one number per sample with respect to what it was computed of.

    Parameters
    ----------
    inputs : Tensor (N, ...)
        With respect to the input.
    layers : mapping of str to Tensor
        The output of each named module, and the gradient with respect to it.

    Examples
    --------
    >>> import torch
    >>> from oodline import Classifier
    >>> classifier = Classifier(torch.nn.Linear(2, 3))
    >>> classifier.gradients(torch.ones(4, 2), lambda logits: logits.amax(1)).inputs.shape
    torch.Size([4, 2])
    """

    inputs: Tensor
    layers: Mapping[str, tuple[Tensor, Tensor]]
