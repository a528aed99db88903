"""Cosines of image features with the classes of a linear head, such as a `TextHead`."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from oodline.model.activations import Activations
from oodline.statistics.sources import scaled


def class_directions(weight: Float[Tensor, "c d"]) -> Float[Tensor, "c d"]:
    """Rows of the head at unit length, float64: of a `TextHead` the text features, whatever its scale."""
    return scaled(weight, 1.0)


def class_cosines(activations: Activations) -> Float[Tensor, "n c"]:
    """Cosine of each sample's features with each class (N, C), float64; 0 where the features are.

    Examples
    --------
    >>> import torch
    >>> from oodline.model.head import LinearHead
    >>> head = LinearHead(torch.tensor([[5.0, 0.0], [1.0, 1.0]]), torch.zeros(2))
    >>> f = torch.tensor([[0.0, 2.0]])
    >>> class_cosines(Activations(f, head(f), head, torch.arange(1)))
    tensor([[0.0000, 0.7071]], dtype=torch.float64)
    """
    return scaled(activations.features, 1.0) @ class_directions(activations.head.linear.weight).T
