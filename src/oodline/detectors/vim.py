"""ViM: the part of the features that the training data does not use, as a logit (Wang et al., CVPR 2022, Eq. 5-8)."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from oodline._util.ranges import Count, Range, Share
from oodline._util.warning import warn
from oodline.detectors.assumptions import Assumption, MoreThanDimensions, TellsApart
from oodline.detectors.base import Detector
from oodline.detectors.fitted import Fitted
from oodline.detectors.paper import Paper
from oodline.errors import FewSamplesWarning, SettingError
from oodline.model.activations import Activations, Needs
from oodline.model.head import Head
from oodline.statistics import Covariance, Reservoir, Statistic, features_scaled_by, scaled

PAPER = Paper("ViM: Out-Of-Distribution with Virtual-logit Matching", "CVPR 2022", "2203.10807")


def origin_of(head: Head) -> Float[Tensor, " d"]:
    """The features at which all logits are as near to zero as they get: `-pinv(W) b`, in float64."""
    weight, bias = head.linear.weight.cpu().double(), head.linear.bias.cpu().double()
    found: Tensor = -torch.linalg.pinv(weight) @ bias
    return found


BLOCK = 2**24
"""Logits of the sample that are in memory at a time: 67 MB."""

SAMPLES_PER_DIMENSION = 4
"""Training samples per dimension of the principal space at least, where the data decides: with fewer, directions that
the data uses are taken for ones that it does not."""


def default_dimension(width: int) -> int:
    """The paper's dimension of the principal space: 1000 for D >= 2048, 512 for D >= 768, else half of D."""
    return 1000 if width >= 2048 else 512 if width >= 768 else width // 2


def fitting_dimension(width: int, samples: int) -> int:
    """The paper's dimension, or a smaller one that this number of samples can support; at least 1.

    Examples
    --------
    >>> fitting_dimension(342, 5000), fitting_dimension(342, 200), fitting_dimension(342, 2)
    (171, 50, 1)
    """
    return min(default_dimension(width), max(1, samples // SAMPLES_PER_DIMENSION))


class Residual(Detector):
    """Negative length of the features outside the principal space: `-|R' (f - o)|`. Higher = more in-distribution.

    R spans the directions in which training features, seen from the origin `o = -pinv(W) b`, vary least. Range:
    (-inf, 0], in the units of the features.

    Parameters
    ----------
    dimension : int, optional
        Of the principal space, below D. If omitted, the paper's (1000 for D >= 2048, 512 for D >= 768, else D / 2), but
        at most one for every four training samples.
    normalise : float
        In [0, 1]: `f / |f|^normalise` is read in place of f. Above 0 the origin is zero, since logits are no function
        of scaled features that could vanish at one point; this is not in the paper.

    Raises
    ------
    SettingError
        The dimension is negative, or leaves no residual.

    Warns
    -----
    FewSamplesWarning
        There are no more samples than dimensions of the principal space, or, where the data decides these, fewer than
        two for each of the paper's.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> Residual(dimension=3).fit(classifier, loader).directions.shape
    torch.Size([16, 13])
    """

    name: ClassVar = "residual"
    needs: ClassVar = Needs.FEATURES | Needs.LINEAR_HEAD
    assumes: ClassVar[tuple[Assumption, ...]] = (MoreThanDimensions(), TellsApart())
    paper: ClassVar = PAPER
    origin: Fitted[Float[Tensor, " D"]]
    directions: Fitted[Float[Tensor, "D R"]]

    def __init__(self, *, dimension: Annotated[int, Range(0)] | None = None, normalise: Share = 0.0) -> None:
        super().__init__()
        self.dimension = dimension
        self.normalise = normalise

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """Mean and covariance of all features as one group."""
        return {"covariance": Covariance(features_scaled_by(self.normalise), by="all")}

    def estimate(self, head: Head, covariance: Covariance) -> None:
        """Find the directions of least second moment around the origin."""
        width = head.num_features
        samples = int(covariance.count.sum())
        dimension = fitting_dimension(width, samples) if self.dimension is None else self.dimension
        if dimension >= width:
            raise SettingError(
                f"{type(self).__name__}(dimension={dimension}) leaves no residual: the features have {width} "
                "dimensions."
            )
        if self.dimension is None and samples < 2 * (paper := default_dimension(width)):
            warn(
                f"{samples} samples are too few for the {paper} dimensions of the principal space that the paper of "
                f"{type(self).__name__} takes for {width} features: {dimension} are used. Fit on at least "
                f"{SAMPLES_PER_DIMENSION * paper} samples for all of them.",
                FewSamplesWarning,
            )
        needed = min(head.num_classes - 1, default_dimension(width))
        self.unreliable = ""
        if self.dimension is None and dimension < needed:
            self.unreliable = (
                f"{samples} samples support {dimension} dimensions of its principal space, and the means of "
                f"{head.num_classes} classes alone span {needed}. Fit on at least {SAMPLES_PER_DIMENSION * needed} "
                "samples."
            )
        if self.dimension is not None and samples <= dimension:
            warn(
                f"{samples} samples span no more than the principal space of {dimension} dimensions, so they have no "
                f"residual that new ones could be compared with: {type(self).__name__} says nothing here, nor does a "
                f"Fuse that has it. Fit on more than {dimension} images, better on many more.",
                FewSamplesWarning,
            )
        origin = origin_of(head) if self.normalise == 0 else torch.zeros(width, dtype=torch.float64)
        offset = covariance.mean[0] - origin
        moment = covariance.pooled() + torch.outer(offset, offset)
        directions = torch.linalg.eigh(moment).eigenvectors[:, : width - dimension]
        # the rest of the origin has no part in residuals, and drowns them in rounding where rows of W all but depend
        self.origin = (directions @ (directions.T @ origin)).float()
        self.directions = directions.float()

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Negative length of the residual (N,)."""
        return -self.length(activations.features)

    def length(self, features: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Length of the residual (N,)."""
        points = scaled(features, self.normalise).to(self.directions)
        found: Tensor = torch.linalg.vector_norm((points - self.origin) @ self.directions, dim=1)
        return found


class ViM(Residual):
    """Energy less the virtual logit: `logsumexp(z) - alpha |R' (f - o)|`. Higher = more in-distribution.

    `alpha` is the mean of the largest logit over the mean residual of training samples. Units of the logits.

    Parameters
    ----------
    dimension, normalise
        As in `Residual`; the logits are those of the features as they are.
    samples : int
        Training samples from which alpha is estimated, chosen by a hash of their index.

    Raises
    ------
    SettingError
        As `Residual`.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> ViM().fit(classifier, loader)(classifier(loader[0][0])).shape
    torch.Size([60])
    """

    name: ClassVar = "vim"
    needs: ClassVar = Needs.FEATURES | Needs.LOGITS | Needs.LINEAR_HEAD
    assumes: ClassVar = (MoreThanDimensions(),)
    alpha: Fitted[Float[Tensor, ""]]

    def __init__(
        self,
        *,
        dimension: Annotated[int, Range(0)] | None = None,
        samples: Count = 10_000,
        normalise: Share = 0.0,
    ) -> None:
        super().__init__(dimension=dimension, normalise=normalise)
        self.samples = samples

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """As `Residual`, and a sample of the features."""
        return {**super().statistics(head), "sample": Reservoir(self.samples)}

    def estimate(self, head: Head, covariance: Covariance, sample: Reservoir) -> None:  # type: ignore[override]
        """Match the scale of residuals to that of logits."""
        super().estimate(head, covariance)
        features = sample.rows
        weight, bias = head.linear.weight.cpu().float(), head.linear.bias.cpu().float()
        parts = torch.split(features, max(1, BLOCK // len(weight)))
        largest = torch.cat([(part @ weight.T + bias).amax(1) for part in parts]).double().mean()
        residual = self.length(features).double().mean()
        # without any residual there is nothing to match, and nothing to subtract
        self.alpha = torch.where(residual > 0, largest / residual, 0.0).float()

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Energy less the virtual logit (N,)."""
        return activations.logits.logsumexp(1) - self.alpha * self.length(activations.features)
