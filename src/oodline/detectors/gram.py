"""Gram: how far correlations of channels leave their range in the predicted class (Sastry and Oore, ICML 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from oodline._util.ranges import Count
from oodline.detectors.assumptions import PREDICTED, PerClass
from oodline.detectors.fitted import Fitted
from oodline.detectors.paper import Paper
from oodline.detectors.parts.layered import Layered, Layers
from oodline.model.activations import Activations, Needs
from oodline.model.head import Head
from oodline.model.layers import LayerReading, channel_axis
from oodline.statistics import Extremes, Reservoir, Statistic

SIZE = 300
"""Training samples whose left-out deviations are averaged, at most."""

OFFSET = 1e-6
"""What the authors' code adds to a bound that it divides by."""


@dataclass(frozen=True)
class GramVector(LayerReading):
    """Row sums of the Gram matrices of a module's output (N, P K): for p = 1, ..., P, those of `(F^p F^p')^(1/p)`.

    F holds one row per channel and one column per place; powers are entry by entry, and the root keeps the sign.

    Examples
    --------
    >>> maps = torch.tensor([[[[1.0, 2.0]], [[3.0, 0.0]]]])
    >>> GramVector("any", powers=2).read(maps, nn.Identity())
    tensor([[ 8.0000, 12.0000,  5.0990,  9.4868]])
    """

    powers: int = 1

    def read(self, output: Tensor, module: nn.Module, mask: Tensor | None = None) -> Float[Tensor, "n k"]:
        """The row sums, computed without the matrices, in double precision."""
        maps = output.double().movedim(channel_axis(output, module), 1) if output.ndim > 2 else output.double()
        maps = maps.reshape(maps.shape[0], maps.shape[1], -1)
        if mask is not None and output.ndim == 3 and mask.shape[1:] == output.shape[1:2]:
            maps = maps * mask.to(maps).unsqueeze(1)
        # a power of 20 leaves the range of numbers, unless all are at most 1
        largest = maps.abs().amax((1, 2), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        maps, found = maps / largest, []
        for p in range(1, self.powers + 1):
            power = maps**p
            sums = (power * power.sum(1, keepdim=True)).sum(2)  # F F' 1 = F (F' 1)
            found.append(sums.sign() * sums.abs() ** (1 / p) * largest.squeeze(2).square())
        return torch.cat(found, dim=1).to(output)


class Gram(Layered):
    """Deviations of Gram entries from their range in the predicted class: `-sum_l delta_l / mean delta_l`.

    For p = 1, ..., P, the row sums g of the Gram matrix of order p, `(F^p F^p')^(1/p)`, of a layer's channels are
    compared with the smallest and largest, low and high, among training samples of the same predicted class:
    `delta_l = sum_p sum_k max(low - g, 0) / |low| + max(g - high, 0) / |high|`. Each layer counts by its mean deviation
    on ID data: of at most 300 training samples, each against the range of all others. Nothing is fitted on OOD data.
    Higher = more in-distribution. Range: (-inf, 0], no unit.

    Parameters
    ----------
    layers : sequence of str or "auto"
        Modules of the classifier. If omitted, `fit` takes four depths from the structure of the network, which are then
        the setting. The paper reads every convolution and block.
    powers : int
        P, at least 1; 10 in the paper.

    Raises
    ------
    SettingError
        A setting is out of range.
    HeadError
        A layer does not exist, is not run, or returns no tensor.

    Notes
    -----
    The state holds 2 C P K numbers for C classes and K channels of all layers together, 38 MB for 1,000 classes, a
    ResNet-18 and P = 5; a fit takes some times that. A class that was never predicted has the range of all classes.

    Examples
    --------
    >>> from oodline import score
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> detector = Gram().fit(classifier, loader)
    >>> bool((score(detector, classifier, loader)["gram"] == 0).all())  # training samples lie in their range
    True
    """

    name: ClassVar = "gram"
    needs: ClassVar = Needs.LOGITS | Needs.LAYERS
    assumes: ClassVar = (
        PREDICTED,
        PerClass(10, "the range of a class"),
    )
    paper: ClassVar = Paper(
        "Detecting Out-of-Distribution Examples with In-distribution Examples and Gram Matrices",
        "ICML 2020",
        "1912.12510",
    )
    low: Fitted[Float[Tensor, "C V"]]
    high: Fitted[Float[Tensor, "C V"]]
    typical: Fitted[Float[Tensor, " L"]]

    def __init__(self, *, layers: Layers = "auto", powers: Count = 5) -> None:
        super().__init__(layers)
        self.powers = powers

    def reading(self, module: str) -> GramVector:
        """The row sums of its Gram matrices."""
        return GramVector(module, self.powers)

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """Ranges of each layer by predicted class, and a sample of all layers."""
        found: dict[str, Statistic] = {"sample": Reservoir(SIZE, self.rows_of_layers, "predicted")}
        return found | {f"layer_{i}": Extremes(reading, "predicted") for i, reading in enumerate(self.readings)}

    def estimate(self, head: Head, sample: Reservoir, **layers: Extremes) -> None:
        """Keep the ranges, and the mean deviation of samples from the range of the others."""
        extremes = [layers[f"layer_{i}"] for i in range(len(layers))]
        widths = [one.low.shape[2] for one in extremes]
        low, high = torch.cat([one.low for one in extremes], dim=2), torch.cat([one.high for one in extremes], dim=2)
        seen = low[0, :, :1].isfinite()
        self.low = torch.where(seen, low[0], low[0].amin(0))
        self.high = torch.where(seen, high[0], high[0].amax(0))
        rows, groups = sample.rows, sample.groups
        others = low[1, :, 0].isfinite()[groups]  # whose class has a second sample
        rows, groups = rows[others], groups[others]
        below = torch.where(rows <= low[0][groups], low[1][groups], low[0][groups])
        above = torch.where(rows >= high[0][groups], high[1][groups], high[0][groups])
        found = [part.sum(1).double() for part in torch.split(deviations(rows, below, above), widths, dim=1)]
        mean = torch.stack(found).mean(1) if len(rows) else torch.zeros(len(widths))
        self.typical = torch.where(mean > 0, mean, 1.0).float()

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Negative sum of the layers' deviations, each in units of its mean (N,)."""
        predicted = activations.predicted
        rows = self.rows(activations)
        widths = [row.shape[1] for row in rows]
        found = deviations(torch.cat(rows, dim=1), self.low[predicted], self.high[predicted])
        layers = torch.stack([part.sum(1) for part in torch.split(found, widths, dim=1)], dim=1)
        return -(layers / self.typical).sum(1)


def deviations(
    rows: Float[Tensor, "n v"], low: Float[Tensor, "n v"], high: Float[Tensor, "n v"]
) -> Float[Tensor, "n v"]:
    """How far each entry lies out of its range, relative to the bound that it passed.

    Examples
    --------
    >>> deviations(torch.tensor([[1.0, 3.0, 6.0]]), torch.full((1, 3), 2.0), torch.full((1, 3), 4.0))
    tensor([[0.5000, 0.0000, 0.5000]])
    """
    least = torch.finfo(rows.dtype).tiny ** 0.5
    below = (low - rows).clamp(min=0) / (low + OFFSET).abs().clamp(min=least)
    return below + (rows - high).clamp(min=0) / (high + OFFSET).abs().clamp(min=least)
