"""Small inputs on which a detector can be tried in a line: for examples, and for the tests of new detectors."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from oodline.activations import Activations
from oodline.classifier import Classifier
from oodline.head import LinearHead


def activations_of(features: Float[Tensor, "n d"], head: LinearHead | None = None) -> Activations:
    """Activations with these features; without a head, the logits are the features themselves.

    Examples
    --------
    >>> activations_of(torch.tensor([[1.0, 2.0]])).logits
    tensor([[1., 2.]])
    """
    if head is None:
        width = features.shape[1]
        head = LinearHead(torch.eye(width, dtype=features.dtype), features.new_zeros(width))
    return Activations(features=features, logits=head(features), head=head, index=torch.arange(len(features)))


def toy_problem(seed: int = 0) -> tuple[Classifier, list[tuple[Tensor, Tensor]]]:
    """A small random classifier of 3 classes and one batch of 60 labelled ID samples that it classifies well.

    Examples
    --------
    >>> classifier, loader = toy_problem()
    >>> images, labels = loader[0]
    >>> bool((classifier(images).logits.argmax(1) == labels).float().mean() > 0.9)
    True
    """
    generator = torch.Generator().manual_seed(seed)
    inputs, labels = _toy_batch(generator)
    body, head = nn.Linear(4, 16), nn.Linear(16, 3)
    with torch.no_grad():
        body.weight.copy_(torch.randn(16, 4, generator=generator))
        body.bias.zero_()
        features = torch.relu(body(inputs))
        means = torch.stack([features[labels == c].mean(0) for c in range(3)])
        # the best linear classifier for classes of equal spread points from the overall mean to each class mean
        head.weight.copy_(means - means.mean(0))
        head.bias.copy_(-0.5 * (means.square().sum(1) - means.mean(0).square().sum()))
    return Classifier(nn.Sequential(body, nn.ReLU(), head)), [(inputs, labels)]


def toy_loader(seed: int) -> list[tuple[Tensor, Tensor]]:
    """Another batch of 60 samples like those of `toy_problem`, whose seed it must not share: held-out ID data.

    Examples
    --------
    >>> torch.equal(toy_loader(seed=1)[0][0], toy_problem()[1][0][0])
    False
    """
    return [_toy_batch(torch.Generator().manual_seed(seed))]


def _toy_batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    labels = torch.arange(60) % 3
    return torch.randn(60, 4, generator=generator) + 4 * torch.eye(3, 4)[labels], labels
