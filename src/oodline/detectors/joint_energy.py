"""JointEnergy: the energies of independent labels, summed (Wang et al., NeurIPS 2021, Eq. 6)."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from oodline._util.ranges import Count
from oodline.detectors.base import Detector
from oodline.detectors.paper import Paper
from oodline.model.activations import Activations, Needs


class JointEnergy(Detector):
    """Label-wise free energies of a multi-label classifier, summed: `sum_i log(1 + exp(z_i))`.

    Each label is a choice of its own, between z_i and 0, and `log(1 + exp(z_i))` is the free energy of that choice.
    Labels that apply add their logit, all others almost nothing. So an input with no known label in it scores low,
    and one with several scores higher than one with a single label. Higher = more in-distribution. Range: (0, inf), in
    the units of the logits.

    Parameters
    ----------
    top : int, optional
        Add up this many of the labels, those with the largest logits; all if omitted, or if there are fewer. 1 is the
        maximum, which ranks inputs as the largest logit does (`max-logit`).

    Raises
    ------
    SettingError
        `top` is below 1.

    Examples
    --------
    >>> import torch
    >>> from oodline.testing import activations_of
    >>> logits = torch.tensor([[3.0, 3.0, -2.0], [-2.0, -2.0, -2.0]])
    >>> JointEnergy()(activations_of(logits))
    tensor([6.2241, 0.3808])
    >>> JointEnergy(top=1)(activations_of(logits))
    tensor([3.0486, 0.1269])
    """

    name: ClassVar = "joint-energy"
    needs: ClassVar = Needs.LOGITS
    paper: ClassVar = Paper(
        "Can multi-label classification networks know what they don't know?", "NeurIPS 2021", "2109.14162"
    )

    def __init__(self, *, top: Count | None = None) -> None:
        super().__init__()
        self.top = top

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Sum of the label-wise energies (N,)."""
        energies = softplus(activations.logits)
        if self.top is not None and self.top < energies.shape[1]:
            energies = energies.topk(self.top, dim=1).values
        return energies.sum(1)
