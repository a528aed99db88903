"""The loss of ASCOOD: Kullback-Leibler divergence to uniform for synthesised outliers (Regmi, CVPR 2026)."""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor

from oodline._util.checked import checked
from oodline._util.ranges import NonNegative
from oodline.detectors.paper import Paper, Preset
from oodline.training.loss import TrainingLoss, WithoutOutliers
from oodline.training.outlier_exposure import OutlierExposure

SOURCE = "the authors' code, commit f351789"


class KLUniform(OutlierExposure):
    """Loss of the ID samples + `weight` times the mean of `KL(u || softmax(z))` over the outliers.

    u is the uniform distribution, so the divergence is `LSE(z) - mean_c z_c - log C`, at least 0. ASCOOD is this loss
    on an `ASCOODHead` with outliers of `Shuffle`, `Gradient` or `Gaussian`, ID samples and outliers in one batch.
    The released code has no other loss of the outliers, such as a logistic one.

    Parameters
    ----------
    weight, base, without_outliers
        As `OutlierExposure`.

    Raises
    ------
    InputError
        A batch without outliers, unless they may be missing.

    Examples
    --------
    >>> import torch
    >>> from oodline.testing import activations_of
    >>> flat = activations_of(torch.tensor([[9.0, 0.0], [3.0, 3.0]]))
    >>> round(float(KLUniform()(flat, torch.tensor([0, -1]))), 4)
    0.0001
    """

    name: ClassVar = "kl-uniform"
    paper: ClassVar = Paper("Image-based Outlier Synthesis With Training Data", "CVPR 2026", "2411.10794")
    presets: ClassVar = {
        "cifar10": Preset({"weight": 1.0}, SOURCE),
        "cifar100": Preset({"weight": 5.0}, SOURCE),
        "waterbirds": Preset({"weight": 0.1}, SOURCE),
    }

    @checked
    def __init__(
        self,
        *,
        weight: NonNegative = 1.0,
        base: TrainingLoss | None = None,
        without_outliers: WithoutOutliers = "error",
    ) -> None:
        super().__init__(weight=weight, base=base, without_outliers=without_outliers)

    def of_outliers(self, logits: Tensor) -> Tensor:
        """Mean divergence of the outliers."""
        return super().of_outliers(logits) - math.log(logits.shape[1])
