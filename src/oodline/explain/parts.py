"""Shapley values of the parts of an image: what each one adds to a logit, a score or a p-value."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import factorial
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from oodline._util.checked import checked
from oodline._util.ranges import Count, LeftToIt, Range
from oodline.errors import SettingError
from oodline.explain.baselines import BASELINES, Baseline, baseline_of, check_image
from oodline.explain.numbers import Value, numbers_of
from oodline.explain.regions import checked_regions, grid_regions

EXACT = 12
"""Parts at most for which all 2^K coalitions are tried: 4,096 images."""


@dataclass(frozen=True, eq=False)
class Parts:
    """How much each of K regions of an image adds to a number, by Shapley values.

    Parameters
    ----------
    values : Tensor (K,), float64
        They sum to `whole - empty`, exactly.
    regions : Tensor (H, W), int64
        Which region each pixel is in, from 0.
    whole, empty : float
        The number for the image, and for an image of the baseline alone.
    standard_error : Tensor (K,), optional
        Of values that were sampled; None where all coalitions were tried.
    images : int
        Images that were evaluated.
    baseline : str
        What a region that is left out is replaced by.

    Examples
    --------
    >>> image = torch.arange(12.0).reshape(3, 2, 2)
    >>> parts = shapley_parts(lambda images: images.sum((1, 2, 3)), image, grid_regions(2, 2, 2, 1), baseline="zero")
    >>> parts.values, parts.images  # a sum: each region adds its own pixels
    (tensor([27., 39.], dtype=torch.float64), 4)
    """

    values: Float[Tensor, " k"]
    regions: Int[Tensor, "h w"]
    whole: float
    empty: float
    standard_error: Float[Tensor, " k"] | None
    images: int
    baseline: str

    @property
    def map(self) -> Float[Tensor, "h w"]:
        """Each pixel with the value of its region (H, W)."""
        return self.values[self.regions]

    def __str__(self) -> str:
        """The three largest in size, and what was tried."""
        order = self.values.abs().argsort(descending=True)[:3].tolist()
        largest = ", ".join(f"region {k} {float(self.values[k]):+.3g}" for k in order)
        error = (
            "" if self.standard_error is None else f", standard error at most {float(self.standard_error.max()):.2g}"
        )
        return (
            f"{self.whole:.4g} for the image, {self.empty:.4g} for the baseline ({self.baseline}); of the difference, "
            f"{largest} ({len(self.values)} regions, {self.images} images evaluated{error})"
        )


@checked
def shapley_parts(
    value: Annotated[Value, LeftToIt()],
    image: Tensor,
    regions: Tensor | None = None,
    *,
    baseline: Annotated[Baseline | Tensor, LeftToIt()] = "blur",
    permutations: Annotated[int, Range(2)] = 100,
    batch_size: Count = 64,
    seed: int = 0,
) -> Parts:
    """Shapley values of the regions of an image, after Shapley (1953) and PCEvE (arXiv 2409.18260).

    `psi_k = sum over S without k of |S|! (K - |S| - 1)! / K! (v(S + k) - v(S))`, where v(S) is the number for the image
    with all regions but those of S replaced by the baseline. Up to 12 regions all 2^K images are evaluated; beyond,
    random orders are drawn, each of which takes K - 1 images, and a standard error is given.

    Parameters
    ----------
    value : callable
        From images (N, C, H, W) to one number each (N,), such as `oodline.explain.values.value_of` gives.
    image : Tensor (C, H, W)
        Preprocessed, of floats.
    regions : Tensor (H, W), integers, optional
        Which region each pixel is in: 0 to K - 1. If omitted, a grid of 3 x 4. See `grid_regions`, `superpixels` and
        `regions_of_masks`.
    baseline : {"blur", "mean", "noise", "zero"} or Tensor (C, H, W)
        What replaces a region. Values depend on it: "blur" keeps colour and removes detail, "mean" is the mean colour
        of the image, "noise" that colour with the image's own spread, "zero" the zero of the preprocessed image.
    permutations : int
        Orders to draw where there are more than 12 regions.
    batch_size : int
        Images evaluated at once.
    seed : int
        Of the orders, and of noise.

    Raises
    ------
    SettingError
        The regions are not those of the image, a setting is out of range, or `value` does not give one finite number
        per image.

    Examples
    --------
    >>> image = torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(0))
    >>> parts = shapley_parts(lambda images: images.amax((1, 2, 3)), image)
    >>> bool(torch.isclose(parts.values.sum(), torch.tensor(parts.whole - parts.empty, dtype=torch.float64)))
    True
    """
    check_image(image)
    regions = grid_regions(image.shape[1], image.shape[2], 3, 4) if regions is None else regions
    regions = checked_regions(regions, image)
    count = int(regions.max()) + 1
    empty = baseline_of(image, baseline, seed)

    def evaluate(kept: Bool[Tensor, "m k"]) -> Float[Tensor, " m"]:
        """The number for each set of regions that are kept (M,), float64."""
        parts = torch.split(kept, batch_size)
        return torch.cat([numbers_of(value, _with(image, empty, part[:, regions])) for part in parts])

    name = baseline if isinstance(baseline, str) else "given"
    if count <= EXACT:
        numbers = evaluate(_coalitions(count))
        values, error, images = exact_shapley(numbers), None, len(numbers)
        whole, nothing = float(numbers[-1]), float(numbers[0])
    else:
        both = evaluate(torch.tensor([[False] * count, [True] * count]))
        nothing, whole = both.tolist()
        draws = torch.stack(list(_sampled(evaluate, both, count, permutations, seed)))
        values, error = draws.mean(0), draws.std(0) / permutations**0.5
        images = 2 + permutations * (count - 1)
    return Parts(values, regions, whole, nothing, error, images, BASELINES.get(name, name))


def exact_shapley(numbers: Tensor) -> Float[Tensor, " k"]:
    """Shapley values (K,) from the numbers of all 2^K coalitions, in the order of their bits: bit k is region k.

    Raises
    ------
    SettingError
        There are not 2^K numbers, K at least 1.

    Examples
    --------
    >>> exact_shapley(torch.tensor([0.0, 1.0, 2.0, 5.0]))
    tensor([2., 3.])
    """
    count = numbers.numel().bit_length() - 1
    if count < 1 or numbers.shape != (2**count,):
        raise SettingError(f"`numbers` must be (2^K,), one per coalition; got shape {tuple(numbers.shape)}.")
    numbers = numbers if numbers.is_floating_point() else numbers.double()
    sets = torch.arange(len(numbers))
    members = _coalitions(count)
    size = members.sum(1)
    weight = [factorial(s) * factorial(count - s - 1) / factorial(count) for s in range(count)]
    weights = torch.tensor(weight, dtype=torch.float64).to(numbers)
    values = []
    for k in range(count):
        without = sets[~members[:, k]]
        values.append((weights[size[without]] * (numbers[without | (1 << k)] - numbers[without])).sum())
    return torch.stack(values)


def _coalitions(count: int) -> Bool[Tensor, "m k"]:
    return (torch.arange(2**count).unsqueeze(1) >> torch.arange(count) & 1).bool()


def _with(image: Tensor, empty: Tensor, kept: Bool[Tensor, "m h w"]) -> Float[Tensor, "m c h w"]:
    return torch.where(kept.unsqueeze(1).to(image.device), image, empty)


def _sampled(
    evaluate: Callable[[Tensor], Tensor], ends: Tensor, count: int, permutations: int, seed: int
) -> Iterator[Float[Tensor, " k"]]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(permutations):
        order = torch.randperm(count, generator=generator)
        rank = order.argsort()
        kept = rank < torch.arange(1, count).unsqueeze(1)  # the first region, the first two, ...
        steps = torch.cat([ends[:1], evaluate(kept), ends[1:]]).diff()
        yield steps[rank]
