"""States of neurons: activation times gradient of the divergence of the softmax from uniform, through a sigmoid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from oodline.errors import HeadError
from oodline.model.activations import Activations


@dataclass(frozen=True)
class NeuronStates:
    """`sigmoid(alpha f g)`, g being the gradient of KL(uniform, softmax) with respect to the features: (N, D)."""

    alpha: float

    def __call__(self, activations: Activations, groups: Int[Tensor, " n"]) -> Float[Tensor, "n d"]:
        """The states."""
        return neuron_states(activations, self.alpha)


def neuron_states(activations: Activations, alpha: float) -> Float[Tensor, "n d"]:
    """State of each penultimate neuron in (0, 1); on a linear head the gradient is `(softmax(z) - 1/C) W`."""
    head = activations.head.linear
    pull = torch.softmax(activations.logits, dim=1) - 1 / activations.logits.shape[1]
    return torch.sigmoid(alpha * activations.features * (pull @ head.weight))


def divergence_from_uniform(logits: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
    """KL(uniform, softmax) but for a constant (N,)."""
    return -torch.log_softmax(logits, dim=1).mean(1)


def layer_states(activations: Activations, layers: Mapping[str, float]) -> list[Float[Tensor, "n k"]]:
    """State of each channel of the named layers, given with their alpha: one more forward and backward pass for all.

    Raises
    ------
    HeadError
        The output of a layer is not a map (N, K, H, W), no tokens (N, T, K) and no row (N, K) per sample.
    """
    classifier, inputs = activations.second_pass()
    found = classifier.gradients(inputs, divergence_from_uniform, layers=list(layers)).layers
    states = []
    for name, alpha in layers.items():
        output, gradient = (_summed(name, values).to(activations.features) for values in found[name])
        states.append(torch.sigmoid(alpha * output * gradient))
    return states


def _summed(name: str, values: Tensor) -> Float[Tensor, "n k"]:
    # the authors sum where one would average: alpha absorbs the difference
    if values.ndim == 4:
        return values.sum((2, 3))
    if values.ndim == 3:
        return values.sum(1)
    if values.ndim == 2:
        return values
    raise HeadError(
        f"neuron states are those of maps (N, K, H, W), tokens (N, T, K) or rows (N, K); the output of '{name}' has "
        f"shape {tuple(values.shape)}. Name another layer."
    )
