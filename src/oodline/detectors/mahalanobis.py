"""Mahalanobis distance to the nearest class mean (Lee et al., NeurIPS 2018, Eq. 2), on the penultimate features."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from oodline.detectors.assumptions import MoreThanDimensions, TellsApart
from oodline.detectors.base import Detector
from oodline.detectors.fitted import Fitted
from oodline.detectors.paper import Paper
from oodline.errors import LabelError
from oodline.model.activations import Activations, Needs
from oodline.model.head import Head
from oodline.statistics import Covariance, Statistic

SMALLEST_SPREAD = 1e-12
"""Standard deviation, relative to the largest mean, below which copies of one sample differ by rounding alone."""


def whitening(covariance: Float[Tensor, "d d"]) -> Float[Tensor, "d r"]:
    """Matrix L with `L L' = pinv(covariance)`; directions without variance are left out, so r <= D."""
    values, vectors = torch.linalg.eigh(covariance)
    # the cut-off of numpy.linalg.pinv(hermitian=True) with its rounding error, D times the machine epsilon
    solid = values > values.amax() * len(values) * torch.finfo(values.dtype).eps
    found: Tensor = vectors[:, solid] / values[solid].sqrt()
    return found


class Mahalanobis(Detector):
    """Negative squared distance to the nearest class: `-min_c (f - mu_c)' P (f - mu_c)`. Higher = more in-distribution.

    `mu_c` are the means of the features by label and `P` is the (pseudo-)inverse of the covariance around them, pooled
    over the classes. Range: (-inf, 0], no unit.

    Raises
    ------
    LabelError
        A class has no sample, or no class has two different ones, so that there is no covariance.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> detector = Mahalanobis().fit(classifier, loader)
    >>> near, far = loader[0][0], 100 * loader[0][0]
    >>> bool(detector(classifier(near)).mean() > detector(classifier(far)).mean())
    True
    """

    name: ClassVar = "mahalanobis"
    needs: ClassVar = Needs.FEATURES
    assumes: ClassVar = (MoreThanDimensions(), TellsApart())
    paper: ClassVar = Paper(
        "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks",
        "NeurIPS 2018",
        "1807.03888",
    )
    centre: Fitted[Float[Tensor, " D"]]
    whiten: Fitted[Float[Tensor, "D R"]]
    means: Fitted[Float[Tensor, "C R"]]

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """Class means and pooled covariance of the features."""
        return {"covariance": Covariance()}

    def estimate(self, head: Head, covariance: Covariance) -> None:
        """Whiten the class means."""
        covariance.moments.check_every_class()
        pooled = covariance.pooled()
        spread, size = pooled.diagonal().amax().sqrt(), covariance.mean.abs().amax()
        if spread <= SMALLEST_SPREAD * size:
            raise LabelError(
                f"the covariance within classes is zero: the {covariance.moments.total} samples of "
                f"{len(covariance.count)} classes do not vary within a class. Fit on at least two images per class."
            )
        whiten = whitening(pooled)
        # distances are taken between whitened points near the origin, where single precision loses least
        centre = covariance.moments.overall_mean
        self.centre = centre.float()
        self.whiten = whiten.float()
        self.means = ((covariance.mean - centre) @ whiten).float()

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Negative squared distance to the nearest class mean (N,)."""
        # directions of little variance weigh most, and in single precision they would drown in the others' rounding
        points = (activations.features.double() - self.centre) @ self.whiten.double()
        means = self.means.double()
        # |p|^2 is the same for all means; the distance itself is taken without the cancellation of |p|^2 - 2pm + |m|^2
        nearest = (means.square().sum(1) - 2 * points @ means.T).argmin(1)
        return -(points - means[nearest]).square().sum(1)
