"""`Gaussian`: outliers of pure noise (ASCOOD; Regmi, CVPR 2026)."""

from __future__ import annotations

import torch
from torch import Tensor

from oodline._util.checked import checked
from oodline._util.ranges import NonNegative
from oodline.training.forward import Forward
from oodline.training.gradient import scheduled
from oodline.training.outlier_maker import OutlierMaker


class Gaussian(OutlierMaker):
    """One outlier per sample: `alpha` times standard normal noise; nothing of the sample is left in it.

    The paper speaks of noise in place of salient pixels; the released code, which gave its numbers, replaces all of
    them, and so does this.

    Parameters
    ----------
    alpha : float
        At the start of the training, at least 0; inputs of mean 0 and deviation 1 suit 1.
    alpha_end : float, optional
        At its end; `alpha` if omitted.

    Examples
    --------
    >>> noise = Gaussian()(Forward(torch.nn.Linear(2, 2)), torch.zeros(4, 2), torch.zeros(4))
    >>> noise.shape
    torch.Size([4, 2])
    """

    @checked
    def __init__(self, *, alpha: NonNegative = 1.0, alpha_end: NonNegative | None = None) -> None:
        self.alpha = alpha
        self.alpha_end = alpha if alpha_end is None else alpha_end

    def __call__(self, forward: Forward, inputs: Tensor, labels: Tensor) -> Tensor:
        """Outliers, of the shape of the inputs."""
        return scheduled(self.alpha, self.alpha_end, self.progress) * torch.randn_like(inputs)
