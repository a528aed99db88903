"""CoP and CoRP: reconstruction error of kernel PCA, cosine and Gaussian (Fang et al., NeurIPS 2024, Sec. 3)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from oodline._util.ranges import Positive, Range, Rate, Seed
from oodline.detectors.assumptions import Assumption, FewDirections, MoreThanDimensions, TellsApart
from oodline.detectors.base import Detector
from oodline.detectors.fitted import Fitted
from oodline.detectors.paper import Paper, Preset
from oodline.errors import InputError, SettingError
from oodline.model.activations import Activations, Needs
from oodline.model.head import Head
from oodline.statistics import Covariance, Source, Statistic

PAPER = Paper("Kernel PCA for Out-of-Distribution Detection", "NeurIPS 2024", "2402.02949")
SOURCE = "the authors' code, commit 56d348e"

ROUNDING = 1e-10
"""A variance as small as this is what single precision makes of equal directions."""


@dataclass(frozen=True)
class Directions:
    """The features at length 1, (N, D)."""

    def __call__(self, activations: Activations, groups: Int[Tensor, " n"]) -> Float[Tensor, "n d"]:
        """The directions."""
        return normalize(activations.features)


@dataclass(frozen=True)
class RandomFourier:
    """Random features whose inner product approximates a Gaussian kernel of directions, (N, M)."""

    size: int
    gamma: float
    seed: int

    def __call__(self, activations: Activations, groups: Int[Tensor, " n"]) -> Float[Tensor, "n m"]:
        """The random features."""
        omega, phase = draw(self.size, activations.features.shape[1], self.gamma, self.seed)
        return random_fourier(activations.features, omega.to(activations.features), phase.to(activations.features))


@lru_cache(maxsize=2)
def draw(size: int, width: int, gamma: float, seed: int) -> tuple[Float[Tensor, "m d"], Float[Tensor, " m"]]:
    """Frequencies, normal with variance `2 gamma`, and phases, uniform on a circle."""
    generator = torch.Generator().manual_seed(seed)
    omega = math.sqrt(2 * gamma) * torch.randn(size, width, generator=generator)
    return omega, 2 * math.pi * torch.rand(size, generator=generator)


def random_fourier(
    features: Float[Tensor, "n d"], omega: Float[Tensor, "m d"], phase: Float[Tensor, " m"]
) -> Float[Tensor, "n m"]:
    """`sqrt(2 / M) cos(Omega f / |f| + u)`."""
    found: Tensor = math.sqrt(2 / len(phase)) * torch.cos(normalize(features) @ omega.T + phase)
    return found


class CoP(Detector):
    """Kernel PCA with a cosine kernel: `-|x - U U' x|`, x being the direction of the features less the mean direction.

    U spans the fewest principal directions that explain the fraction `explained` of the variance. Higher = more
    in-distribution. Range: [-2, 0], no unit.

    Parameters
    ----------
    explained : float
        In (0, 1).

    Raises
    ------
    SettingError
        A setting is out of range, or the space leaves nothing out.
    InputError
        The training data does not vary.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> CoP().fit(classifier, loader)(classifier(loader[0][0])).shape
    torch.Size([60])
    """

    name: ClassVar = "cop"
    needs: ClassVar = Needs.FEATURES
    assumes: ClassVar[tuple[Assumption, ...]] = (MoreThanDimensions(), TellsApart())
    paper: ClassVar = PAPER
    presets: ClassVar[Mapping[str, Preset]] = {
        "cifar10-resnet18": Preset({"explained": 0.85}, SOURCE),
        "imagenet-resnet50": Preset({"explained": 0.99}, SOURCE),
    }
    tunable: ClassVar[Mapping[str, Sequence[Any]]] = {"explained": (0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99)}
    centre: Fitted[Float[Tensor, " K"]]
    left_out: Fitted[Float[Tensor, "K R"]]

    def __init__(self, *, explained: Rate = 0.9) -> None:
        super().__init__()
        self.explained = explained

    def source(self) -> Source:
        """What the principal components are of."""
        return Directions()

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """Mean and covariance of what the kernel maps to."""
        return {"mapped": Covariance(self.source(), by="all")}

    def estimate(self, head: Head, mapped: Covariance) -> None:
        """Find the directions that are left out of the principal space."""
        values, vectors = torch.linalg.eigh(mapped.pooled())
        values = values.clamp(min=0)
        # mapped features have length 1 or so, and one image at two brightnesses differs from itself by rounding alone
        if not float(values.sum()) > ROUNDING:
            raise InputError(f"{type(self).__name__} needs features that vary; all seen ones have the same direction.")
        fraction = values.flip(0).cumsum(0) / values.sum()
        dimension = int(torch.searchsorted(fraction, self.explained)) + 1
        if dimension >= len(values):
            raise SettingError(
                f"{type(self).__name__}(explained={self.explained}) takes all {len(values)} dimensions and leaves no "
                "error to measure. Take a smaller fraction."
            )
        self.centre = mapped.mean[0].float()
        self.left_out = vectors[:, : len(values) - dimension].float()

    def mapped(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n m"]:
        """Where the kernel maps the features."""
        return normalize(features)

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Negative length of what the principal space leaves (N,)."""
        rest = (self.mapped(activations.features) - self.centre) @ self.left_out
        length: Tensor = torch.linalg.vector_norm(rest, dim=1)
        return -length


class CoRP(CoP):
    """Kernel PCA with a Gaussian kernel on directions, by random features: `x = sqrt(2/M) cos(Omega f/|f| + u)`.

    Score as `CoP`. The draw of Omega and u is part of the state. Higher = more in-distribution. Range: [-2.83, 0]
    (-2 sqrt(2)), no unit.

    Parameters
    ----------
    explained : float
        In (0, 1).
    gamma : float
        Of the kernel `exp(-gamma |a - b|^2)`, above 0.
    size : int
        M, how many random features.
    seed : int
        Of the draw.

    Raises
    ------
    SettingError, InputError
        As `CoP`.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> CoRP(size=64).fit(classifier, loader).omega.shape
    torch.Size([64, 16])
    """

    name: ClassVar = "corp"
    assumes: ClassVar[tuple[Assumption, ...]] = (MoreThanDimensions(), FewDirections(), TellsApart(below=0.08))
    presets: ClassVar = {
        "cifar10-resnet18": Preset({"explained": 0.8, "gamma": 2.0, "size": 2048}, SOURCE),
        "imagenet-resnet50": Preset({"explained": 0.5, "gamma": 3.0, "size": 4096}, SOURCE),
    }
    omega: Fitted[Float[Tensor, "K D"]]
    phase: Fitted[Float[Tensor, " K"]]

    def __init__(
        self, *, explained: Rate = 0.8, gamma: Positive = 2.0, size: Annotated[int, Range(2)] = 2048, seed: Seed = 0
    ) -> None:
        super().__init__(explained=explained)
        self.gamma = gamma
        self.size = size
        self.seed = seed

    def source(self) -> Source:
        """Random features."""
        return RandomFourier(self.size, self.gamma, self.seed)

    def estimate(self, head: Head, mapped: Covariance) -> None:
        """Keep the draw and find the directions that are left out."""
        super().estimate(head, mapped)
        self.omega, self.phase = draw(self.size, head.num_features, self.gamma, self.seed)

    def mapped(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n m"]:
        """Random features of the kernel."""
        return random_fourier(features, self.omega, self.phase)
