"""Pseudo-outliers in feature space: for inputs that are no images, and at no cost of a pass."""

from __future__ import annotations

import torch
from torch import Generator

from oodline.activations import Activations
from oodline.errors import InputError


def cross(activations: Activations, generator: Generator) -> Activations:
    """Each feature of a sample from itself or, by a coin, from a sample that the classifier takes for another class.

    Every value has been seen, but not together. Logits are those that the head gives for the crossed features; whatever
    else the record holds is dropped.

    Raises
    ------
    InputError
        The classifier takes all samples for one class.

    Examples
    --------
    >>> from oodline.testing import activations_of
    >>> cross(activations_of(torch.eye(2)), Generator().manual_seed(0)).features
    tensor([[1., 0.],
            [0., 0.]])
    """
    predicted = activations.logits.argmax(1)
    features = activations.features
    partners = torch.empty(len(features), dtype=torch.int64)
    for c in sorted(set(predicted.tolist())):
        others = torch.nonzero(predicted != c).flatten().cpu()
        if len(others) == 0:
            raise InputError(
                f"the classifier takes all {len(features)} held-out samples for class {c}, so there is no other to "
                "cross them with. Shuffle the held-out data, or raise the limit."
            )
        rows = torch.nonzero(predicted == c).flatten().cpu()
        partners[rows] = others[torch.randint(len(others), (len(rows),), generator=generator)]
    own = torch.rand(features.shape, generator=generator).to(features.device) < 0.5
    crossed = torch.where(own, features, features[partners.to(features.device)])
    return Activations(crossed, activations.head(crossed), activations.head, activations.index)
