"""`OutlierMaker`: outliers for a batch of ID samples, synthesised of them or drawn from elsewhere; saliency."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor

from oodline.errors import InputError
from oodline.training.forward import Forward


class OutlierMaker(ABC):
    """Makes outliers for each batch, in training; `mix` puts both into one batch.

    Random numbers are torch's own, by `torch.manual_seed`. `progress` is how much of the training is done, which the
    loop sets before each epoch, for makers that have a schedule.
    """

    progress: float = 0.0
    """From 0 to 1."""

    def restart(self) -> None:  # noqa: B027  # most have nothing to begin anew
        """Begin anew with what the maker reads, as each epoch does; a maker that reads nothing has nothing to do."""

    @abstractmethod
    def __call__(self, forward: Forward, inputs: Tensor, labels: Tensor) -> Tensor:
        """Outliers for a batch.

        Parameters
        ----------
        forward : Forward
            Of the network in training; it is used in evaluation mode, and gathers no gradient.
        inputs : Tensor (N, ...)
            ID samples, prepared.
        labels : Tensor (N,)
            Their classes.

        Returns
        -------
        Tensor (M, ...)
            Prepared in the same way, without gradient, on the same device.
        """


def saliency(forward: Forward, inputs: Tensor, labels: Int[Tensor, " n"]) -> Tensor:
    """Gradient of the logit of each sample's label by the sample, in evaluation mode (N, ...).

    Examples
    --------
    >>> import torch
    >>> head = torch.nn.Linear(2, 2)
    >>> bool(saliency(Forward(head), torch.ones(1, 2), torch.tensor([1])).allclose(head.weight[1]))
    True
    """

    def labelled(logits: Tensor) -> Tensor:
        return logits.gather(1, labels.to(logits.device).unsqueeze(1)).squeeze(1)

    forward.find_head(inputs)
    return forward.classifier.gradients(inputs, labelled).inputs.to(inputs)


def check_images(inputs: Tensor, who: object) -> Float[Tensor, "n c h w"]:
    """The inputs, where they are images (N, C, H, W).

    Raises
    ------
    InputError
        They are not.
    """
    if inputs.ndim != 4:
        raise InputError(f"{type(who).__name__} needs images (N, C, H, W); got shape {tuple(inputs.shape)}.")
    return inputs


def top(values: Float[Tensor, "n p"], count: int) -> Int[Tensor, "n k"]:
    """Positions of the largest values of each row (N, count)."""
    return torch.topk(values, count, dim=1).indices
