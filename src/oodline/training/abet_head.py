"""AbeT: a cosine head with a temperature that each input sets itself (arXiv 2024)."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from oodline._util.checked import checked
from oodline._util.ranges import Count
from oodline.detectors.paper import Paper

EPSILON = 1e-4
"""Added to lengths, as in the authors' code."""
COLDEST = 1e-12
"""Added to the temperature."""


class AbeTHead(nn.Module):
    """`z_c = cos(f, w_c) / T(f)`, with `T(f) = sigmoid(BN(a f + b))`, trained by plain cross-entropy.

    The score of the paper is `LSE(z)`, which is `oodline.Energy` on these logits: the T before the log-sum-exp of an
    energy with temperature is left out ("ablated"), and keeping it is far worse. What post-hoc methods read as features
    is `f / (|f| T)`, and as head the rows of W of unit length, without bias.

    The temperature learns from errors: samples that are misclassified in training raise it. So AbeT fails where the
    training error reaches 0; watch the training accuracy, and augment (the authors use TrivialAugmentWide). Batches of
    one sample cannot be trained on, because of the batch norm. Computed in the dtype of the features; the authors'
    cosines are float64.

    Parameters
    ----------
    num_features, num_classes : int
        D and C.

    Examples
    --------
    >>> import oodline as ol
    >>> head = AbeTHead(8, 3).eval()
    >>> activations = ol.Classifier(nn.Sequential(nn.Linear(4, 8), head))(torch.ones(2, 4))
    >>> activations.head.name, activations.head.weight.norm(dim=1)
    ('1.linear', tensor([0.9999, 0.9999, 0.9999]))
    """

    paper: ClassVar = Paper(
        "Out-of-Distribution Detection & Applications With Ablated Learned Temperature Energy",
        "arXiv 2024",
        "2401.12129",
    )

    @checked
    def __init__(self, num_features: Count, num_classes: Count) -> None:
        super().__init__()
        self.temperature = nn.Sequential(nn.Linear(num_features, 1), nn.BatchNorm1d(1), nn.Sigmoid())
        self.linear = nn.Linear(num_features, num_classes, bias=False)
        nn.init.kaiming_normal_(self.linear.weight, nonlinearity="relu")
        parametrize.register_parametrization(self.linear, "weight", UnitRows())

    @classmethod
    def of(cls, linear: nn.Linear, **settings: Any) -> Self:
        """A head that begins with the directions of a trained layer's weight; its bias is dropped."""
        made = cls(linear.in_features, linear.out_features, **settings)
        with torch.no_grad():
            made.directions.copy_(linear.weight)
        return made

    def forward(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """Logits (N, C)."""
        temperature = self.temperature(features) + COLDEST
        logits: Tensor = self.linear(unit_rows(features) / temperature)
        return logits

    @property
    def directions(self) -> Tensor:
        """The weight before its rows are made of unit length (C, D): the parameter that is trained."""
        original: Tensor = self.linear.get_parameter("parametrizations.weight.original")
        return original


class UnitRows(nn.Module):
    """The weight with rows of unit length; a parametrisation."""

    def forward(self, weight: Tensor) -> Tensor:
        """(C, D) to (C, D)."""
        return unit_rows(weight)


def unit_rows(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Rows of unit length, or a little less: `x / (|x| + 1e-4)`."""
    length: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / (length + EPSILON)
