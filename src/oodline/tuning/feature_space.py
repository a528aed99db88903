"""Pseudo-outliers in feature space: for inputs that are not images, and without another pass.

Logits are those that the head gives for the changed features; whatever else the activations hold is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from oodline.errors import InputError
from oodline.model.activations import Activations
from oodline.model.no_head import NoHead


def mix(activations: Activations, generator: Generator) -> Activations:
    """Mean of the features of each sample and of one that the classifier takes for another class.

    Raises
    ------
    InputError
        The classifier takes all samples for one class.

    Examples
    --------
    >>> from oodline.testing import activations_of
    >>> mix(activations_of(torch.eye(2)), Generator()).features
    tensor([[0.5000, 0.5000],
            [0.5000, 0.5000]])
    """
    partners = strangers(activations, generator).to(activations.features.device)
    return with_features(activations, (activations.features + activations.features[partners]) / 2)


def uncouple(activations: Activations, generator: Generator) -> Activations:
    """Each feature from a sample of its own choice: every value has been seen, and none together.

    Examples
    --------
    >>> from oodline.testing import activations_of
    >>> made = uncouple(activations_of(torch.arange(10.0).reshape(5, 2)), Generator().manual_seed(0))
    >>> made.features.sort(0).values.flatten()
    tensor([0., 1., 2., 3., 4., 5., 6., 7., 8., 9.])
    """
    features = activations.features
    order = torch.rand(features.shape, generator=generator).argsort(0).to(features.device)
    return with_features(activations, features.gather(0, order))


MADE_UP: Mapping[str, Callable[[Activations, Generator], Activations]] = MappingProxyType(
    {"mixed features": mix, "uncoupled features": uncouple}
)
"""Every one, by the name that tables print."""


def strangers(activations: Activations, generator: Generator) -> Tensor:
    """For each sample the position (N,) of a random one that the classifier takes for another class.

    Raises
    ------
    InputError
        The classifier takes all samples for one class.
    """
    predicted = activations.predicted.cpu()
    if not activations.logits.shape[1]:  # features alone: any other sample will do
        predicted = torch.arange(len(activations))
    partners = torch.empty(len(predicted), dtype=torch.int64)
    for c in sorted(set(predicted.tolist())):
        others, rows = (torch.nonzero(found).flatten() for found in (predicted != c, predicted == c))
        if len(others) == 0:
            raise InputError(
                f"the classifier takes all {len(predicted)} held-out samples for class {c}, so there is no other to "
                "mix them with. Shuffle the held-out data, or raise the limit."
            )
        partners[rows] = others[torch.randint(len(others), (len(rows),), generator=generator)]
    return partners


def with_features(activations: Activations, features: Float[Tensor, "n d"]) -> Activations:
    """A record of these features and of the logits that the head gives for them; none where there is no head."""
    head = activations.head
    unknown = isinstance(head, NoHead) and head.logits and head.features
    logits = features.new_zeros(len(features), 0) if unknown else head(features)
    return Activations(features, logits, head, activations.index)
