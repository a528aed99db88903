"""`Gradients`: derivatives of one number per sample by the inputs and by the outputs of layers, once for a batch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from oodline.errors import InputError
from oodline.model.activations import Activations, SecondPass
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


class SharedGradients:
    """The classifier of one batch's activations: gradients that several detectors ask for are computed once.

    The same are asked for where the scalars are equal, as functions of a module and frozen records are, and the layers.
    Kept as long as the activations are.

    Parameters
    ----------
    classifier : SecondPass
        Which computes.
    inputs : Tensor or mapping
        The batch, as the activations hold it; gradients by other inputs, such as changed ones, are not kept.

    Examples
    --------
    >>> import torch
    >>> from oodline import Classifier
    >>> x = torch.ones(4, 2)
    >>> shared = SharedGradients(Classifier(torch.nn.Linear(2, 3)), x)
    >>> shared.gradients(x, largest_logit) is shared.gradients(x, largest_logit)
    True
    """

    def __init__(self, classifier: SecondPass, inputs: Any) -> None:
        self._classifier, self._inputs = classifier, inputs
        self._found: dict[Hashable, Any] = {}

    def __call__(self, inputs: Any, **reads: Any) -> Activations:
        """As the classifier."""
        return self._classifier(inputs, **reads)

    def gradients(self, inputs: Any, scalar: Callable[[Tensor], Tensor], *, layers: Sequence[str] = ()) -> Any:
        """As the classifier's, or what was found before."""
        if inputs is not self._inputs:
            return self._classifier.gradients(inputs, scalar, layers=layers)
        asked = scalar, tuple(layers)
        if asked not in self._found:
            self._found[asked] = self._classifier.gradients(inputs, scalar, layers=layers)
        return self._found[asked]


def largest_logit(logits: Tensor) -> Tensor:
    """The largest logit of each sample (N,)."""
    return logits.amax(1)
