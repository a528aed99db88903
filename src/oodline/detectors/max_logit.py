"""Maximum logit (Hendrycks et al., ICML 2022, Sec. 3)."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from oodline.detectors.base import Detector
from oodline.detectors.paper import Paper
from oodline.model.activations import Activations, Needs


class MaxLogit(Detector):
    """The largest logit: `max_c z_c`. Higher = more in-distribution; any real number, in the units of the logits.

    Examples
    --------
    >>> import torch
    >>> from oodline.testing import activations_of
    >>> MaxLogit()(activations_of(torch.tensor([[1.0, 2.0], [7.0, 0.0]])))
    tensor([2., 7.])
    """

    name: ClassVar = "max-logit"
    needs: ClassVar = Needs.LOGITS
    paper: ClassVar = Paper("Scaling Out-of-Distribution Detection for Real-World Settings", "ICML 2022", "1911.11132")

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Largest logit (N,)."""
        return activations.logits.amax(1)
