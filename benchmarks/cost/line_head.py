"""LINe's head over the plain head with energy, and the passes over the weights that it is made of.

    OMP_NUM_THREADS=1 python -m benchmarks.cost.line_head [--batch 64 --batch 256] [--rounds 3]

Random weights of which a tenth is pruned for every class. Ratios of the processor's time, medians.
"""

from __future__ import annotations

import torch
from benchmarks.cost.quick import over, own_product
from cyclopts import App
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from oodline.detectors.parts.masked_linear import TILE, masked_linear

app = App()


@app.default
def main(*, batch: list[int] | None = None, classes: int = 1000, width: int = 2048, rounds: int = 3) -> None:
    """Measure and print.

    Parameters
    ----------
    batch
        Sizes of the batch; 64 and 256 by default.
    classes, width
        C and D of the head.
    rounds
        How often each job is timed.
    """
    found = {size: ratios(size, classes, width, rounds) for size in batch or [64, 256]}
    table = Table("over head and energy", *(f"batch {size}" for size in found), box=SIMPLE_HEAD)
    for name in next(iter(found.values())):
        table.add_row(name, *(f"{each[name]:.1f}" for each in found.values()))
    Console().print(table)


def ratios(batch: int, classes: int, width: int, rounds: int) -> dict[str, float]:
    """Times of LINe's head and of its parts over those of a plain head with energy."""
    torch.manual_seed(0)
    weight, bias, h = torch.randn(classes, width), torch.zeros(classes), torch.rand(batch, width)
    threshold = torch.full((classes, width), -1.28)
    own, ten = torch.randperm(classes)[:batch], torch.arange(batch) % 10
    tile = weight[: max(1, TILE // width)]
    kept, times = torch.empty_like(tile), range(batch * -(-classes // len(tile)))
    return over(
        lambda: torch.nn.functional.linear(h, weight, bias).logsumexp(1),
        {
            "every sample of a class of its own": lambda: masked_linear(h, weight, bias, threshold, own),
            "ten classes": lambda: masked_linear(h, weight, bias, threshold, ten),
            "one unmasked product per sample": lambda: own_product(h, weight, bias),
            "pass 1, comparing a tile": lambda: [torch.gt(tile, threshold[0], out=kept) for _ in times],
            "pass 2, multiplying": lambda: [kept.mul_(tile) for _ in times],
            "pass 3, the product": lambda: [torch.addmm(bias[: len(tile)], h[:1], kept.T) for _ in times],
        },
        rounds,
    )


if __name__ == "__main__":
    app()
