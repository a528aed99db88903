"""`Gradients`: derivatives of one number per sample by the inputs and by the outputs of layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from oodline.errors import InputError
from oodline.model.reading import at_least_float32


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

    @classmethod
    def of(cls, values: Tensor, inputs: Tensor, layers: Mapping[str, Tensor]) -> Gradients:
        """Differentiate values (N,) by the inputs and the outputs of layers that they were computed of.

        Raises
        ------
        InputError
            They do not depend on them by differentiable operations.
        """
        try:
            first, *others = torch.autograd.grad(values.sum(), [inputs, *layers.values()])
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            where = f" or the outputs of {', '.join(layers)}" if layers else ""
            raise InputError(f"the logits cannot be differentiated by the inputs{where}: {error}") from error
        pairs = zip(layers.items(), others, strict=True)
        return cls(
            at_least_float32(first),
            {name: (at_least_float32(out.detach()), at_least_float32(slope)) for (name, out), slope in pairs},
        )
