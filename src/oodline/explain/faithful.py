"""Is a map faithful? Deletion and insertion curves, randomised weights, agreement with parts."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor, nn

from oodline._util.checked import checked
from oodline._util.ranges import Count, LeftToIt
from oodline.errors import SettingError
from oodline.explain.baselines import Baseline, baseline_of
from oodline.explain.numbers import Value, numbers_of
from oodline.explain.parts import Parts


@dataclass(frozen=True, eq=False)
class Curves:
    """How a number changes while the places that a map ranks highest are taken away, and while they are brought in.

    Parameters
    ----------
    fraction : Tensor (S + 1,)
        Share of the pixels, from 0 to 1.
    deletion : Tensor (S + 1,)
        The number after that share, the highest ranked first, was replaced by the baseline.
    insertion : Tensor (S + 1,)
        The number of the baseline after that share was brought in.

    Examples
    --------
    >>> Curves(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])).difference
    0.0
    """

    fraction: Float[Tensor, " s"]
    deletion: Float[Tensor, " s"]
    insertion: Float[Tensor, " s"]

    @property
    def deletion_area(self) -> float:
        """Mean of the number over the curve, by trapezoids; lower is more faithful."""
        return float(torch.trapezoid(self.deletion, self.fraction))

    @property
    def insertion_area(self) -> float:
        """The same of insertion; higher is more faithful."""
        return float(torch.trapezoid(self.insertion, self.fraction))

    @property
    def difference(self) -> float:
        """Insertion area minus deletion area: about 0 for a random order, higher is more faithful."""
        return self.insertion_area - self.deletion_area


@checked
def curves(
    value: Annotated[Value, LeftToIt()],
    image: Tensor,
    map: Tensor,
    *,
    baseline: Annotated[Baseline | Tensor, LeftToIt()] = "blur",
    steps: Count = 16,
    batch_size: Count = 64,
) -> Curves:
    """Deletion and insertion curves (Petsiuk et al., BMVC 2018) of a map, in `2 (steps + 1)` images.

    Parameters
    ----------
    value : callable
        From images (N, C, H, W) to one number each (N,), such as the probability of the predicted class.
    image : Tensor (C, H, W)
        Preprocessed, of floats.
    map : Tensor (h, w)
        Higher matters more; enlarged to the size of the image. Among equals the order is that of the pixels.
    baseline
        What stands for a place that is not shown; see `shapley_parts`.
    steps : int
        Equal shares of the pixels.
    batch_size : int
        Images evaluated at once.

    Raises
    ------
    SettingError
        Map or image is of another shape or kind, or `value` does not give one finite number per image.

    Examples
    --------
    >>> image = torch.eye(4).unsqueeze(0)
    >>> found = curves(lambda images: images.sum((1, 2, 3)) / 4, image, image[0], baseline="zero", steps=4)
    >>> found.deletion, found.insertion  # four of the 16 pixels have all of the sum, and go first
    (tensor([1., 0., 0., 0., 0.]), tensor([0., 1., 1., 1., 1.]))
    """
    empty = baseline_of(image, baseline)
    order = enlarged(map, image.shape[1:]).flatten().argsort(descending=True, stable=True)
    pixels = len(order)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(pixels).to(order)
    bounds = (torch.arange(steps + 1) * pixels / steps).round()
    chosen = rank.unsqueeze(0) < bounds.unsqueeze(1).to(rank)  # (S + 1, pixels)
    masks = torch.cat([~chosen, chosen]).view(-1, 1, *image.shape[1:]).to(image.device)
    shown = [torch.where(part, image, empty) for part in torch.split(masks, batch_size)]
    numbers = torch.cat([numbers_of(value, images) for images in shown]).float()
    return Curves(bounds / pixels, numbers[: steps + 1], numbers[steps + 1 :])


def enlarged(map: Tensor, size: tuple[int, ...]) -> Float[Tensor, "H W"]:
    """A map over the pixels, bilinear between places.

    Raises
    ------
    SettingError
        It is not (h, w), or holds NaN.
    """
    if map.ndim != 2 or bool(map.isnan().any()):
        raise SettingError(
            f"`map` must be (H, W), without NaN; got shape {tuple(map.shape)} with {int(map.isnan().sum())} NaN."
        )
    if tuple(map.shape) == tuple(size):
        return map.float()
    return nn.functional.interpolate(map[None, None].float(), size=tuple(size), mode="bilinear", align_corners=False)[
        0, 0
    ]


def rank_correlation(one: Tensor, other: Tensor) -> float:
    """Spearman's correlation of two lists, equal values sharing their mean rank; 0 where one of them is constant.

    Raises
    ------
    SettingError
        They are not of one length, or hold NaN.

    Examples
    --------
    >>> round(rank_correlation(torch.tensor([1.0, 2.0, 9.0]), torch.tensor([0.1, 0.2, 0.3])), 4)
    1.0
    """
    if one.numel() != other.numel() or bool(one.isnan().any() | other.isnan().any()):
        raise SettingError(
            f"a rank correlation is of two lists of one length, without NaN; got shapes {tuple(one.shape)} and "
            f"{tuple(other.shape)}."
        )
    ranks = [_ranks(values.flatten()) for values in (one, other)]
    centred = [rank - rank.mean() for rank in ranks]
    size = centred[0].norm() * centred[1].norm()
    return float(centred[0] @ centred[1] / size) if size > 0 else 0.0


def _ranks(values: Tensor) -> Float[Tensor, " n"]:
    _, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    ranks: Tensor = (last - (counts - 1) / 2)[inverse]
    return ranks


def agreement_with_parts(map: Tensor, parts: Parts) -> float:
    """Rank correlation of a map, summed over the regions, with the Shapley values of the regions.

    Examples
    --------
    >>> from oodline.explain.parts import shapley_parts
    >>> image = torch.rand(1, 6, 8, generator=torch.Generator().manual_seed(0))
    >>> parts = shapley_parts(lambda images: images.sum((1, 2, 3)), image, baseline="zero")
    >>> agreement_with_parts(image[0], parts)
    1.0
    """
    pixels = enlarged(map, parts.regions.shape).double().cpu().flatten()
    sums = torch.zeros(len(parts.values), dtype=torch.float64).index_add_(0, parts.regions.flatten().cpu(), pixels)
    return rank_correlation(sums, parts.values)


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """A copy whose weights are shuffled within each tensor: nothing learnt is left (Adebayo et al., NeurIPS 2018).

    A map that stays as it was shows the image, and not what the network has learnt.

    Examples
    --------
    >>> layer = nn.Linear(3, 2)
    >>> torch.equal(randomised(layer).weight.flatten().sort()[0], layer.weight.flatten().sort()[0])
    True
    """
    found, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in found.parameters():
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return found


MapOf = Callable[[nn.Module], Tensor]
"""From a model to the map that is checked."""


def randomised_agreement(map_of: MapOf, model: nn.Module, seed: int = 0) -> float:
    """Rank correlation of a model's map with that of its randomised copy; near 1: the map does not depend on weights.

    Parameters
    ----------
    map_of : callable
        From a model to a map (H, W) of the same image.
    model : nn.Module
        The trained one.
    seed : int
        Of the shuffling.
    """
    return rank_correlation(map_of(model).flatten(), map_of(randomised(model, seed)).flatten())
