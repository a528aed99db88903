"""Peak memory of fitting and scoring, for few images and for many: it must not grow with their number.

    python -m benchmarks.cost.memory [--images 5000 --images 50000] [--json]

Each job runs in a process of its own, whose largest resident size (Python, PyTorch and the classifier included) is read
when it ends. Images are made as they are needed, 3 x 224 x 224 floats each; the classifier has the head of a ResNet-50
(1000 classes, 2048 features) on a body that is quick: pooled pixels through one layer. The second table is what each
statistic adds: its state, and the peak while it is filled.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from cyclopts import App
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from oodline import Classifier, Local, fit
from oodline.cli.options import Json, print_json
from oodline.detectors.base import Detector
from oodline.detectors.catalog import create_detector
from oodline.errors import FewSamplesWarning
from oodline.passes.fit import reads
from oodline.scoring.row_writer import RowWriter
from oodline.scoring.score import score_all
from oodline.statistics import ClassMoments, Covariance, Quantiles, Reservoir, Seen, Statistic

TEN = ("line", "msp", "max-logit", "energy", "react", "dice", "ash-s", "mahalanobis", "knn,bank=1000", "kl-matching")
"""The bank is full before 5,000 images are over; one of 50,000 samples, the default, goes on growing until then."""

STATISTICS: dict[str, Statistic] = {
    "ClassMoments": ClassMoments(),
    "ClassMoments, variance": ClassMoments(variance=True),
    "Covariance": Covariance(),
    "Quantiles": Quantiles(),
    "Reservoir of 1,000": Reservoir(1000),
    "Reservoir of 10,000": Reservoir(10_000),
    "Seen": Seen(),
}
CLASSES, WIDTH, BATCH = 1000, 2048, 64

app = App()


@app.default
def main(*, images: list[int] | None = None, as_json: Json = False) -> None:
    """Measure and print.

    Parameters
    ----------
    images
        Numbers of images to compare.
    as_json
        Print one JSON document in place of the tables.
    """
    sizes = images or [5000, 50_000]
    jobs = {"fit ten detectors": "fit", "score by ten, rows to Parquet": "rows", "score by ten, in memory": "score"}
    rows = []
    for title, job in jobs.items():
        found = [measure(job, n) for n in sizes]
        peaks = [f["peak_mb"] for f in found]
        rows.append({"job": title, "peak_mb": peaks, "seconds": [f["seconds"] for f in found]})
    parts = [{"statistic": name, **measure(name, sizes[0])} for name in STATISTICS]
    if as_json:
        print_json({"images": sizes, "jobs": rows, "statistics": parts})
        return
    table = Table("job", *[f"MB, {n} images" for n in sizes], "last / first", "seconds", box=SIMPLE_HEAD)
    for row in rows:
        peaks, seconds = row["peak_mb"], ", ".join(f"{s:.0f}" for s in row["seconds"])
        table.add_row(row["job"], *[f"{p:.0f}" for p in peaks], f"{peaks[-1] / peaks[0]:.3f}", seconds)
    console = Console()
    console.print(table)
    table = Table("statistic", "state, MB", "peak above a bare pass, MB", title=f"{sizes[0]} images", box=SIMPLE_HEAD)
    for part in parts:
        table.add_row(part["statistic"], f"{part['state_mb']:.1f}", f"{part['peak_mb'] - part['bare_mb']:.1f}")
    console.print(table)


@app.command
def child(job: str, images: int) -> None:
    """Do one job in this process and print what it took."""
    warnings.simplefilter("ignore", FewSamplesWarning)
    torch.manual_seed(0)
    classifier = network()
    started = perf_counter()
    result: dict[str, Any] = {}
    if job in STATISTICS:
        Local().fill([], classifier, Images(min(images, 20 * BATCH)), reads([]), task="")
        result["bare_mb"] = peak()
        statistic = STATISTICS[job]
        Local().fill([statistic], classifier, Images(images), reads([]), task="")
        result["peak_mb"] = peak()
        result["state_mb"] = sum(tensor.nbytes for tensor in statistic.state_dict().values()) / 1e6
    else:
        detectors: dict[str, Detector] = {name.split(",")[0]: create_detector(name) for name in TEN}
        fit(list(detectors.values()), classifier, Images(images if job == "fit" else 2 * CLASSES))
        if job == "rows":
            with TemporaryDirectory() as folder, RowWriter(Path(folder) / "rows.parquet", detectors) as rows:
                Local().fill([rows], classifier, Images(images), reads(detectors.values()), task="")
        elif job == "score":
            score_all(detectors, classifier, Images(images))
        result["peak_mb"] = peak()
    print(json.dumps({**result, "seconds": perf_counter() - started}))


def measure(job: str, images: int) -> dict[str, float]:
    command = [sys.executable, "-m", __spec__.name, "child", job, str(images)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def peak() -> float:
    """Largest resident size of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def network() -> Classifier:
    body = [nn.AvgPool2d(14), nn.Flatten(), nn.Linear(3 * 16 * 16, WIDTH), nn.ReLU()]
    return Classifier(nn.Sequential(*body, nn.Linear(WIDTH, CLASSES)))


class Images:
    """Batches of labelled images, a tint a class and a pattern an image."""

    def __init__(self, n: int) -> None:
        self.n = n
        generator = torch.Generator().manual_seed(1)
        self.tint = torch.rand(CLASSES, 3, 1, 1, generator=generator)
        self.pattern = torch.rand(BATCH, 3, 224, 224, generator=generator)

    def __len__(self) -> int:
        return -(-self.n // BATCH)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, self.n, BATCH):
            rows = torch.arange(start, min(start + BATCH, self.n))
            labels = rows * 7919 % CLASSES
            yield self.pattern[: len(rows)].roll(start, -1) + self.tint[labels], labels


if __name__ == "__main__":
    app()
