"""Log density of a Gaussian mixture with one component per class (Mukhoti et al., CVPR 2023, Sec. 3)."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from oodline._util.ranges import Positive, Share
from oodline.detectors.assumptions import MoreThanDimensions, TellsApart
from oodline.detectors.base import Detector
from oodline.detectors.fitted import Fitted
from oodline.detectors.paper import Paper
from oodline.model.activations import Activations, Needs
from oodline.model.head import Head
from oodline.statistics import ClassMoments, Covariance, Statistic, features_scaled_by, scaled


class GMM(Detector):
    """Log density of the features: `log sum_c pi_c N(f; mu_c, Sigma_c)`. Higher = more in-distribution.

    `pi_c`, `mu_c` and `Sigma_c` are fraction, mean and covariance of the training samples labelled c. Any real number.

    Parameters
    ----------
    covariance : {"diagonal", "full"}
        A full matrix per class is what the paper takes; it needs many more samples per class than features, and C D^2
        numbers: 33 GB for C=1000, D=2048.
    ridge : float
        Added to the diagonal of each covariance, in squared units of the features, above 0.
    normalise : float
        In [0, 1]: `f / |f|^normalise` is read in place of f. Features of length 1 have variances of about 1 / D, beside
        which the ridge must stay small.

    Raises
    ------
    SettingError
        A setting is out of range.
    LabelError
        A class has no sample.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> GMM().fit(classifier, loader)(classifier(loader[0][0])).shape
    torch.Size([60])
    """

    name: ClassVar = "gmm"
    needs: ClassVar = Needs.FEATURES
    assumes: ClassVar = (MoreThanDimensions(), TellsApart(below=0.08))
    paper: ClassVar = Paper("Deep Deterministic Uncertainty: A New Simple Baseline", "CVPR 2023", "2102.11582")
    tunable: ClassVar = {"normalise": (0.0, 0.5, 1.0)}
    is_log: bool = True
    means: Fitted[Float[Tensor, "C D"]]
    whiten: Fitted[Float[Tensor, "C D ..."]]
    offset: Fitted[Float[Tensor, " C"]]

    def __init__(
        self,
        *,
        covariance: Literal["diagonal", "full"] = "diagonal",
        ridge: Positive = 1e-3,
        normalise: Share = 0.0,
    ) -> None:
        super().__init__()
        self.covariance = covariance
        self.ridge = ridge
        self.normalise = normalise

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """Class means with variances, or with one covariance per class."""
        source, full = features_scaled_by(self.normalise), self.covariance == "full"
        return {"spread": Covariance(source, per_class=True) if full else ClassMoments(source, variance=True)}

    def estimate(self, head: Head, spread: Covariance | ClassMoments) -> None:
        """Whiten each class."""
        moments = spread.moments if isinstance(spread, Covariance) else spread
        moments.check_every_class()
        if isinstance(spread, Covariance):
            ridge = self.ridge * torch.eye(moments.mean.shape[1], dtype=torch.float64)
            factors = [torch.linalg.cholesky(spread.of_class(c) + ridge) for c in range(len(moments.count))]
            # |x - mu|^2 in the metric of the inverse covariance is |(x - mu) L^-T|^2
            whiten = torch.stack([torch.linalg.inv(factor).T for factor in factors])
            half_log_det = torch.stack([factor.diagonal().log().sum() for factor in factors])
        else:
            deviation = (moments.standard_deviation(unbiased=False).square() + self.ridge).sqrt()
            whiten, half_log_det = 1 / deviation, deviation.log().sum(1)
        width = moments.mean.shape[1]
        fraction = (moments.count / moments.total).log()
        self.means = moments.mean.float()
        self.whiten = whiten.float()
        self.offset = (fraction - half_log_det - 0.5 * width * math.log(2 * math.pi)).float()

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Log density (N,)."""
        # squares of far features are beyond single precision
        features = scaled(activations.features, self.normalise).double()
        distances = [self._distance(features, c) for c in range(len(self.means))]
        return (self.offset - 0.5 * torch.stack(distances, dim=1)).logsumexp(1)

    def _distance(self, features: Tensor, c: int) -> Tensor:
        centred, whiten = features - self.means[c], self.whiten[c].to(features)
        white = centred @ whiten if self.covariance == "full" else centred * whiten
        found: Tensor = white.square().sum(1)
        return found
