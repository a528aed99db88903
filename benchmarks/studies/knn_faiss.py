"""KNN's three indexes on a bank of 50,000 and of 1.2 million vectors: time, and what the approximate one misses.

    OMP_NUM_THREADS=1 python -m benchmarks.studies.knn_faiss [--big 1200000] [--width 512] [--batch 32] [--json]

Vectors are drawn around a thousand centres and rectified, as features behind a ReLU are. The last columns compare with
an exact search: *recall* is k over the number of vectors that are at least as near as the k-th that was found, the
smallest of the batch; *error* is the largest difference of the k-th distance, which is the score.
"""

from __future__ import annotations

import statistics
from time import perf_counter
from typing import Any

import torch
from cyclopts import App
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import normalize

from oodline._util.progress import track
from oodline.cli.options import Json, print_json
from oodline.detectors.knn import KNN
from oodline.testing import activations_of

CENTRES = 1000
INDEXES = ("exact", "faiss-flat", "faiss-pq")

app = App()


@app.default
def main(
    *,
    small: int = 50_000,
    big: int = 1_200_000,
    width: int = 512,
    batch: int = 32,
    rounds: int = 3,
    as_json: Json = False,
) -> None:
    """Measure and print.

    Parameters
    ----------
    small, big
        Sizes of the banks; the first is searched for k=50, the second for k=1000, as the paper does for CIFAR-10 and
        ImageNet.
    width
        Features.
    batch
        Queries that are scored at a time.
    rounds
        How often each is timed; medians are printed.
    as_json
        Print one JSON document in place of the table.
    """
    rows: list[dict[str, Any]] = []
    for size, k in ((small, 50), (big, 1000)):
        bank = draw(size, width, seed=0)
        points = draw(batch, width, seed=1)
        distance = exact_distances(bank, points)
        rows += [
            {"bank": size, "k": k, "index": index, **measure(bank, points, distance, k, index, rounds)}
            for index in track(INDEXES, f"bank of {size}", INDEXES, shown=not as_json)
        ]
    if as_json:
        print_json({"threads": torch.get_num_threads(), "rows": rows})
        return
    table = Table("bank", "k", "index", "build, s", "ms per sample", "recall", "error")
    for row in rows:
        numbers = [f"{row['build']:.1f}", f"{row['ms']:.2f}", f"{row['recall']:.4f}", f"{row['error']:.1e}"]
        table.add_row(f"{row['bank']:,}", str(row["k"]), row["index"], *numbers)
    Console().print(f"D={width}, batches of {batch}, {torch.get_num_threads()} threads, median of {rounds}", table)


def draw(size: int, width: int, seed: int) -> Tensor:
    """Unit vectors (size, width) around the same centres for every seed."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(CENTRES, width, generator=torch.Generator().manual_seed(99))
    found = torch.empty(size, width)
    for part in found.split(2**16):
        part.normal_(generator=generator)
        part.add_(centres[torch.randint(CENTRES, (len(part),), generator=generator)]).relu_()
        part.copy_(normalize(part))
    return found


def measure(bank: Tensor, points: Tensor, distance: Tensor, k: int, index: str, rounds: int) -> dict[str, float]:
    detector = KNN(k=k, bank=len(bank), index=index)
    detector.neighbours = bank
    activations = activations_of(points)
    started = perf_counter()
    if index == "faiss-pq":
        detector(activations_of(points[:1]))
    built = perf_counter() - started
    seconds = [clock(detector, activations) for _ in range(rounds)]
    found, nearest = -detector(activations), distance.topk(k, dim=1, largest=False).values[:, -1]
    rank = (distance <= found.unsqueeze(1) + 1e-6).sum(1).clamp(min=k)
    return {
        "build": built,
        "ms": 1000 * statistics.median(seconds) / len(points),
        "recall": float((k / rank).min()),
        "error": float((found - nearest).abs().max()),
    }


def exact_distances(bank: Tensor, points: Tensor) -> Tensor:
    """Distances (N, B) of unit vectors, in double precision, in which 2 - 2 ab does not cancel."""
    found = [2 - 2 * points.double() @ part.double().T for part in bank.split(2**14)]
    return torch.cat(found, dim=1).clamp(min=0).sqrt().float()


def clock(detector: KNN, activations: Any) -> float:
    started = perf_counter()
    detector(activations)
    return perf_counter() - started


if __name__ == "__main__":
    app()
