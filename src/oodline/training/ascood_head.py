"""The head of ASCOOD: features standardised by sample, then a linear layer (Regmi, CVPR 2026)."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from jaxtyping import Float
from torch import Tensor, nn

from oodline._util.checked import checked
from oodline._util.ranges import Count, Positive
from oodline.detectors.paper import Paper

EPSILON = 1e-6
"""Added to the deviation, as in the authors' code."""


class ASCOODHead(nn.Module):
    """`z = W (sigma (f - mean f) / std f) + b`, where mean and deviation are over the D features of each sample.

    All samples then have features of one length, as a cap on how confident the head can be. What post-hoc methods read
    as features are the standardised ones, which are signed, and whose length tells nothing; the length of f itself is
    lost to them. Trained with `KLUniform` and synthesised outliers.

    Parameters
    ----------
    num_features, num_classes : int
        D and C.
    sigma : float
        Deviation that the features get, above 0.

    Examples
    --------
    >>> import torch
    >>> head = ASCOODHead(8, 3)
    >>> head.standardised(torch.tensor([[1.0, 2.0, 3.0], [0.0, 9.0, 18.0]]))
    tensor([[-0.5000,  0.0000,  0.5000],
            [-0.5000,  0.0000,  0.5000]])
    """

    paper: ClassVar = Paper("Image-based Outlier Synthesis With Training Data", "CVPR 2026", "2411.10794")

    @checked
    def __init__(self, num_features: Count, num_classes: Count, *, sigma: Positive = 0.5) -> None:
        super().__init__()
        self.sigma = sigma
        self.linear = nn.Linear(num_features, num_classes)

    @classmethod
    def of(cls, linear: nn.Linear, **settings: Any) -> Self:
        """A head around a trained layer, whose weight and bias it takes over."""
        made = cls(linear.in_features, linear.out_features, **settings)
        made.linear.load_state_dict({"bias": made.linear.bias * 0, **linear.state_dict()})
        return made

    def standardised(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Features of mean 0 and deviation sigma in each sample."""
        mean, deviation = features.mean(1, keepdim=True), features.std(1, keepdim=True)
        return (features - mean) / (deviation + EPSILON) * self.sigma

    def forward(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """Logits (N, C)."""
        logits: Tensor = self.linear(self.standardised(features))
        return logits
