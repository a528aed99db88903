"""NECO: the fraction of the features that lies in the principal space (Ben Ammar et al., ICLR 2024, Eq. 6)."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from oodline._util.ranges import Count
from oodline.detectors.assumptions import MoreThanDimensions, TellsApart
from oodline.detectors.base import Detector
from oodline.detectors.fitted import Fitted
from oodline.detectors.paper import Paper, Preset
from oodline.errors import InputError, SettingError
from oodline.model.activations import Activations, Needs
from oodline.model.head import Head
from oodline.statistics import Covariance, Statistic

EXPLAINED = 0.9
"""Share of the variance that the default dimension explains, the paper's rule of thumb."""


class NECO(Detector):
    """Share of the standardised features in the principal space: `|P' x| / |x|`, `x = (f - mean) / deviation`.

    Higher = more in-distribution. Range: [0, 1], no unit; with `times_max_logit` any real number.

    Parameters
    ----------
    dimension : int, optional
        Of the principal space; the authors' code takes 100. If omitted, the fewest that explain 90 % of the variance.
    times_max_logit : bool
        Multiply by the largest logit, as the paper does for transformers and not for convolutional networks.

    Raises
    ------
    SettingError
        The dimension is below 1 or above D.
    InputError
        The training features do not vary.

    Notes
    -----
    For DeiT and Swin the authors' code divides by the length of the features as they are; here it is always that of the
    standardised ones.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> scores = NECO(dimension=2).fit(classifier, loader)(classifier(loader[0][0]))
    >>> bool((scores >= 0).all() and (scores <= 1).all())
    True
    """

    name: ClassVar = "neco"
    needs: ClassVar = Needs.FEATURES | Needs.LOGITS
    assumes: ClassVar = (MoreThanDimensions(), TellsApart())
    paper: ClassVar = Paper("NECO: NEural Collapse Based Out-of-distribution detection", "ICLR 2024", "2310.06823")
    presets: ClassVar = {
        "imagenet-vit": Preset({"dimension": 100, "times_max_logit": True}, "the authors' code, which fixes 100"),
        "cifar10-resnet18": Preset({"dimension": 100}, "the authors' code, which fixes 100"),
    }
    mean: Fitted[Float[Tensor, " D"]]
    deviation: Fitted[Float[Tensor, " D"]]
    principal: Fitted[Float[Tensor, "D R"]]

    def __init__(self, *, dimension: Count | None = None, times_max_logit: bool = False) -> None:
        super().__init__()
        self.dimension = dimension
        self.times_max_logit = times_max_logit

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """Mean and covariance of all features as one group."""
        return {"covariance": Covariance(by="all")}

    def estimate(self, head: Head, covariance: Covariance) -> None:
        """Find the principal directions of the standardised features."""
        pooled, mean = covariance.pooled(), covariance.mean[0]
        deviation = pooled.diagonal().sqrt()
        # a feature without variance stays as it is, as in scikit-learn's StandardScaler
        constant = deviation <= 1e-12 * mean.abs().clamp(min=1e-30)
        if bool(constant.all()):
            raise InputError("NECO needs features that vary; all seen samples have the same ones.")
        deviation = torch.where(constant, 1.0, deviation)
        values, vectors = torch.linalg.eigh(pooled / torch.outer(deviation, deviation))
        width = len(values)
        if self.dimension is not None and self.dimension > width:
            raise SettingError(f"NECO(dimension={self.dimension}) is more than the {width} features there are.")
        fraction = values.clamp(min=0).flip(0).cumsum(0) / values.clamp(min=0).sum()
        dimension = self.dimension or min(width, int(torch.searchsorted(fraction, EXPLAINED)) + 1)
        self.mean, self.deviation = mean.float(), deviation.float()
        self.principal = vectors[:, width - dimension :].float()

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Share in the principal space (N,)."""
        x = torch.nn.functional.normalize((activations.features - self.mean) / self.deviation)
        fraction: Tensor = torch.linalg.vector_norm(x @ self.principal, dim=1)
        return fraction * activations.logits.amax(1) if self.times_max_logit else fraction
