"""What speaks for the class that an input is judged as, neuron by neuron."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from oodline.errors import HeadError
from oodline.model.activations import Activations
from oodline.model.head import Head, LinearHead


@dataclass(frozen=True, eq=False)
class Evidence:
    """Contributions of D neurons to one logit for each of N inputs, that of the class it is judged as.

    Parameters
    ----------
    predicted_class : Tensor (N,), int64
        The class c of each input.
    expected : Tensor (N, D)
        S: the mean contribution `W[c, d] mean_c(f_d)` over training data of class c.
    found : Tensor (N, D)
        `W[c, d] f_d`: what the neurons contribute to this input.
    counted : Tensor (N, D)
        `W[c, d] h_d`: the part of it that the detector reads, where it clips; else the same.
    important : Tensor (N, D), bool
        Neurons that matter for class c.

    Examples
    --------
    >>> from oodline import LINe
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> evidence = LINe(p_a=0.5, clip=5.0).fit(classifier, loader).evidence(classifier(loader[0][0]))
    >>> evidence.predicted_class.shape, evidence.found.shape
    (torch.Size([60]), torch.Size([60, 16]))
    """

    predicted_class: Int[Tensor, " n"]
    expected: Float[Tensor, "n d"]
    found: Float[Tensor, "n d"]
    counted: Float[Tensor, "n d"]
    important: Bool[Tensor, "n d"]


IMPORTANT_SHARE = 0.8
"""Share of what speaks for a class on average that its important neurons make together."""


def few_important(evidence: Evidence, share: float = IMPORTANT_SHARE) -> Bool[Tensor, "n d"]:
    """The fewest of the important neurons of each row that make a share of all that they contribute on average.

    A detector may keep nearly all neurons as important, LINe 9 of 10. What a person can look at is fewer: neurons in
    the order of their expected contribution, until their sum is `share` of the sum of all that speak for the class.

    Examples
    --------
    >>> expected = torch.tensor([[6.0, 3.0, 1.0, -4.0]])
    >>> evidence = Evidence(torch.tensor([0]), expected, expected, expected, expected > -9)
    >>> few_important(evidence)
    tensor([[ True,  True, False, False]])
    """
    positive = torch.where(evidence.important, evidence.expected, 0).clamp(min=0)
    ordered, order = positive.sort(dim=1, descending=True, stable=True)
    before = ordered.cumsum(1) - ordered
    needed = (before < share * positive.sum(1, keepdim=True)) & (ordered > 0)
    return torch.zeros_like(evidence.important).scatter(1, order, needed)


@runtime_checkable
class Explains(Protocol):
    """A detector that can say what speaks for the class of an input."""

    def evidence(self, activations: Activations) -> Evidence:
        """Evidence of N inputs."""
        ...


@runtime_checkable
class HasMemberPValues(Protocol):
    """A detector made of detectors that can give a p-value for each of them."""

    def p_values(self, activations: Activations) -> dict[str, Float[Tensor, " n"]]:
        """P-values (N,) by member; a small p-value means likely OOD."""
        ...


def require_linear(head: Head) -> LinearHead:
    """The head, where contributions are weight times feature.

    Raises
    ------
    HeadError
        It has several layers.
    """
    if not isinstance(head, LinearHead):
        raise HeadError(
            "an explanation needs one linear layer as head, so that logits are sums over neurons, but this one has "
            "several. Name the last one: Classifier(model, head='NAME'), or --head NAME."
        )
    return head
