"""Energy: log-sum-exp of the logits (Liu et al., NeurIPS 2020, Eq. 4)."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from oodline._util.ranges import Positive
from oodline.detectors.assumptions import SOFTMAX
from oodline.detectors.base import Detector
from oodline.detectors.paper import Paper
from oodline.model.activations import Activations, Needs


class Energy(Detector):
    """Negative free energy: `T * logsumexp(z / T)`. Higher = more in-distribution.

    Any real number, in the units of the logits.

    Parameters
    ----------
    temperature : float
        T > 0; the paper's choice is 1.

    Raises
    ------
    SettingError
        The temperature is not positive.

    Examples
    --------
    >>> import torch
    >>> from oodline.testing import activations_of
    >>> Energy()(activations_of(torch.tensor([[0.0, 0.0], [0.0, 9.0]])))
    tensor([0.6931, 9.0001])
    """

    name: ClassVar = "energy"
    needs: ClassVar = Needs.LOGITS
    assumes: ClassVar = (SOFTMAX,)
    paper: ClassVar = Paper("Energy-based Out-of-distribution Detection", "NeurIPS 2020", "2010.03759")

    def __init__(self, *, temperature: Positive = 1.0) -> None:
        super().__init__()
        self.temperature = temperature

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Negative free energy (N,)."""
        return self.temperature * (activations.logits / self.temperature).logsumexp(1)
