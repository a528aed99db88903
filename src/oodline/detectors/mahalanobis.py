"""Mahalanobis distance to the nearest class mean (Lee et al., NeurIPS 2018, Eq. 2), on the penultimate features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from oodline._util.ranges import Share
from oodline.detectors.assumptions import MoreThanDimensions, TellsApart
from oodline.detectors.base import Detector
from oodline.detectors.fitted import Fitted
from oodline.detectors.paper import Paper, Preset
from oodline.detectors.parts.shrinkage import SAMPLE, ledoit_wolf
from oodline.errors import LabelError
from oodline.model.activations import Activations, Needs
from oodline.model.head import Head
from oodline.statistics import Covariance, Reservoir, Statistic, features_scaled_by, scaled

SMALLEST_SPREAD = 1e-12
"""Standard deviation, relative to the largest mean, below which copies of one sample differ by rounding alone."""


Shrinkage = Literal["none", "ledoit-wolf"]
"""How a covariance is made definite where samples are few."""

PLUS_PLUS: Mapping[str, Preset] = {
    "mahalanobis++": Preset(
        {"normalise": 1.0},
        "Mahalanobis++: Improving OOD Detection via Feature Normalization, ICML 2025, arXiv 2505.18032",
    )
}
"""Features of length 1."""

POWERS: Mapping[str, Sequence[Any]] = {"normalise": (0.0, 0.5, 1.0)}
"""How much of the length of the features `tune` takes away."""


@dataclass(frozen=True)
class MoreThanDimensionsUnlessShrunk(MoreThanDimensions):
    """There are more samples than features, or the covariance is shrunk, as is done where there are not."""

    @property
    def words(self) -> str:
        """The number, and what does without."""
        return f"{super().words}, or shrinkage"

    def broken(self, detector: Any, measured: Any) -> str:
        """Compare N with D where nothing is shrunk."""
        return super().broken(detector, measured) if detector.shrinkage == "none" else ""


def whitening(covariance: Float[Tensor, "d d"]) -> Float[Tensor, "d r"]:
    """Matrix L with `L L' = pinv(covariance)`; directions without variance are left out, so r <= D."""
    # the cut-off of numpy.linalg.pinv(hermitian=True) with its rounding error, D times the machine epsilon
    smallest = len(covariance) * torch.finfo(covariance.dtype).eps
    lower, failed = torch.linalg.cholesky_ex(covariance)
    if not failed:
        inverse: Tensor = torch.linalg.solve_triangular(lower, torch.eye(len(lower), dtype=lower.dtype), upper=False).T
        # traces bound the largest eigenvalue and one over the smallest: all directions are above the cut-off
        if covariance.trace() * inverse.square().sum() * smallest < 1:
            return inverse
    values, vectors = torch.linalg.eigh(covariance)
    solid = values > values.amax() * smallest
    found: Tensor = vectors[:, solid] / values[solid].sqrt()
    return found


def regularised(covariance: Covariance, sample: Reservoir | None) -> Float[Tensor, "d d"]:
    """The pooled covariance, shrunk where a sample, grouped as it is, is given."""
    pooled = covariance.pooled()
    if sample is None:
        return pooled
    deviations = sample.rows.double() - covariance.mean[sample.groups]
    return ledoit_wolf(pooled, deviations, covariance.moments.total)


class Mahalanobis(Detector):
    """Negative squared distance to the nearest class: `-min_c (f - mu_c)' P (f - mu_c)`. Higher = more in-distribution.

    `mu_c` are the means of the features by label and `P` is the (pseudo-)inverse of the covariance around them, pooled
    over the classes. Range: (-inf, 0], no unit.

    Parameters
    ----------
    normalise : float
        In [0, 1]: `f / |f|^normalise` is read in place of f. 1 is Mahalanobis++ (Mueller and Hein, ICML 2025),
        which helps where the length of the features varies much.
    shrinkage : {"none", "ledoit-wolf"}
        Shrink the covariance towards a multiple of the identity, for fewer samples than about twice the features; see
        the notes.
    by : {"label", "all"}
        One mean per label, or one Gaussian for all training data, which needs no labels, as for a frozen backbone.
    unseen : {"error", "skip"}
        What becomes of a class without training samples: an error, or it is left out of the minimum.

    Raises
    ------
    SettingError
        A setting is out of range.
    LabelError
        A class has no sample, or no class has two different ones, so that there is no covariance.

    Notes
    -----
    Ledoit and Wolf's share is computed from the covariance and the mean of `|f - mu_c|^4`. No statistic of fixed size
    can hold the latter exactly, as the means are known only after the pass: it is taken over a uniform sample of at
    most 10,000 (`oodline.detectors.parts.shrinkage.SAMPLE`), so up to there the covariance is that of
    `sklearn.covariance.LedoitWolf` on the centred features.

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
    assumes: ClassVar = (MoreThanDimensionsUnlessShrunk(), TellsApart())
    paper: ClassVar = Paper(
        "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks",
        "NeurIPS 2018",
        "1807.03888",
    )
    presets: ClassVar = PLUS_PLUS
    tunable: ClassVar = POWERS
    centre: Fitted[Float[Tensor, " D"]]
    whiten: Fitted[Float[Tensor, "D R"]]
    means: Fitted[Float[Tensor, "G R"]]

    def __init__(
        self,
        *,
        normalise: Share = 0.0,
        shrinkage: Shrinkage = "none",
        by: Literal["label", "all"] = "label",
        unseen: Literal["error", "skip"] = "error",
    ) -> None:
        super().__init__()
        self.normalise = normalise
        self.shrinkage = shrinkage
        self.by = by
        self.unseen = unseen

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """Class means and pooled covariance of the features, and a sample of them where it is shrunk."""
        source = features_scaled_by(self.normalise)
        found: dict[str, Statistic] = {"covariance": Covariance(source, self.by)}
        if self.shrinkage != "none":
            found["sample"] = Reservoir(SAMPLE, source, self.by)
        return found

    def estimate(self, head: Head, covariance: Covariance, sample: Reservoir | None = None) -> None:
        """Whiten the class means."""
        moments, shown = covariance.moments, covariance.count > 0
        if self.unseen == "error":
            moments.check_every_class(otherwise=", or leave out those that it does not show: unseen=skip")
        pooled = covariance.pooled()
        spread, size = pooled.diagonal().amax().sqrt(), covariance.mean.abs().amax()
        if spread <= SMALLEST_SPREAD * size:
            if self.by == "all":
                raise LabelError(
                    f"the covariance is zero: the {moments.total} samples do not vary. Fit on more images."
                )
            raise LabelError(
                f"the covariance within classes is zero: the {moments.total} samples of "
                f"{len(covariance.count)} classes do not vary within a class. Fit on at least two images per class."
            )
        whiten = whitening(regularised(covariance, sample))
        # distances are taken between whitened points near the origin, where single precision loses least
        centre = moments.overall_mean
        self.centre = centre.float()
        self.whiten = whiten.float()
        self.means = ((covariance.mean[shown] - centre) @ whiten).float()

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Negative squared distance to the nearest class mean (N,)."""
        # directions of little variance weigh most, and in single precision they would drown in the others' rounding
        points = (scaled(activations.features, self.normalise).double() - self.centre) @ self.whiten.double()
        means = self.means.double()
        # |p|^2 is the same for all means; the distance itself is taken without the cancellation of |p|^2 - 2pm + |m|^2
        nearest = (means.square().sum(1) - 2 * points @ means.T).argmin(1)
        return -(points - means[nearest]).square().sum(1)
