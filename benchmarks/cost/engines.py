"""One fit by one process, by ranks of torchrun and by Ray, compared number by number, on CIFAR-10.

    python -m benchmarks.cost.engines [--shared ../shared] [--images 5000] [--json]

Each engine runs in processes of its own: the class means, covariance, quantiles and a reservoir of the training images
in one pass, LINe fitted on them, and its scores of the test images in another. One run by Ray loses a worker in the
middle of the data. The largest differences from one process are printed, and what happens where a shard is fed twice.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from benchmarks._common import load_cifar
from cyclopts import App
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from torch import Tensor

from oodline import Classifier, LINe, Local, Torchrun
from oodline.cli.options import Json, print_json
from oodline.data import ImageLoader, image_loader, open_images
from oodline.errors import OodlineError
from oodline.passes.engine import Engine
from oodline.passes.fit import reads
from oodline.passes.torchrun import launched, process_group
from oodline.scoring.score import score_all
from oodline.statistics import ClassMoments, Covariance, Quantiles, Reservoir

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
RUNS: dict[str, tuple[tuple[str, ...], str]] = {
    "one process": ((sys.executable, "-m"), "local"),
    "torchrun, 2 ranks": ((*TORCHRUN, "2", "-m"), "torchrun"),
    "torchrun, 3 ranks": ((*TORCHRUN, "3", "-m"), "torchrun"),
    "Ray, 2 workers": ((sys.executable, "-m"), "ray"),
    "Ray, 2 workers, one killed": ((sys.executable, "-m"), "ray-killed"),
}

app = App()


@app.default
def main(*, shared: Path = Path("../shared"), images: int = 5000, as_json: Json = False) -> None:
    """Run every engine and compare.

    Parameters
    ----------
    shared
        Folder with `data`.
    images
        So many training images, and a fifth as many test images.
    as_json
        Print one JSON document in place of the table.
    """
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory() as folder:
        for name, (launcher, engine) in RUNS.items():
            if engine.startswith("ray") and find_spec("ray") is None:
                print(f"{name}: left out, Ray is not installed", file=sys.stderr)
                continue
            started = perf_counter()
            job = ("child", engine, str(shared.resolve()), str(images), str(Path(folder, engine)))
            # the same number of threads everywhere: another one rounds features in another way
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            subprocess.run([*launcher, __spec__.name, *job], env=environment, check=True, capture_output=True)
            found = load_file(f"{folder}/{engine}.safetensors")
            about = json.loads(Path(f"{folder}/{engine}.json").read_text())
            reference = found if not rows else reference
            row = {"engine": name, "seconds": perf_counter() - started, **compare(found, reference), **about}
            rows.append(row)
    if as_json:
        print_json({"images": images, "rows": rows})
        return
    table = Table(*list(rows[0])[:-1], title=f"{images} images: largest differences from one process", box=SIMPLE_HEAD)
    for row in rows:
        table.add_row(*(f"{v:.2g}" if isinstance(v, float) else str(v) for v in list(row.values())[:-1]))
    console = Console()
    console.print(table)
    console.print("means and covariance: relative to the largest entry; LINe: its scores\n")
    for row in rows[1:]:
        console.print(f"a shard fed twice, {row['engine']}: {row['fed twice']}", highlight=False)


def compare(found: dict[str, Tensor], reference: dict[str, Tensor]) -> dict[str, Any]:
    def relative(name: str) -> float:
        return float((found[name] - reference[name]).abs().max() / reference[name].abs().max())

    same = all(torch.equal(found[name], reference[name]) for name in ("rows", "index", "groups"))
    return {
        "means": relative("mean"),
        "covariance": relative("scatter"),
        "reservoir": "identical" if same else "DIFFERENT",
        "quantiles": "identical" if torch.equal(found["bins"], reference["bins"]) else "DIFFERENT",
        "LINe": float((found["scores"] - reference["scores"]).abs().max()),
    }


@app.command
def child(engine: str, shared: Path, images: int, output: Path) -> None:
    """Fit and score in this process, or as one of several."""
    torch.set_num_threads(1)
    data = shared / "data"
    loaded = load_cifar(data / "checkpoints", "resnet20")
    classifier = Classifier(loaded.model)

    def load(path: str, limit: int) -> ImageLoader:
        return image_loader(open_images(data / path), loaded.preprocessing, limit=limit, batch_size=50)

    train, test = load("cifar10/train.parquet", images), load("cifar10/test.parquet", images // 5)
    twice = Overlapping(train.dataset, 50, limit=images // 2)
    if engine == "ray-killed":
        train.dataset.source = Deadly(train.source, images // 2, output.with_suffix(".killed"))
    with process_group() if launched() else nullcontext():
        made = engine_of(engine, images)
        moments, covariance, reservoir, quantiles = ClassMoments(), Covariance(), Reservoir(1000), Quantiles()
        line = LINe(p_a=0.9, p_w=0.9, clip=1.0)
        made.fill([moments, covariance, reservoir, quantiles], classifier, train, reads([line]), task="")
        line._settle({"moments": moments}, classifier.head)
        scores = score_all(line, classifier, test, engine=made)
        try:
            made.fill([again := ClassMoments()], classifier, twice, reads([line]), task="")
            fed_twice = f"counted once: {again.total} of {images // 2} samples"
        except OodlineError as error:
            fed_twice = f"refused: {error}"
        if made.is_main:
            found = {"mean": moments.mean, "scatter": covariance.scatter, "bins": quantiles.bins}
            found |= reservoir.state_dict() | {"scores": scores.scores["line"]}
            save_file({name: tensor.contiguous() for name, tensor in found.items()}, output.with_suffix(".safetensors"))
            output.with_suffix(".json").write_text(json.dumps({"fed twice": fed_twice}))


def engine_of(name: str, images: int) -> Engine:
    if name == "local":
        return Local()
    if name == "torchrun":
        return Torchrun()
    from oodline.passes.ray import Ray

    return Ray(workers=2, block=max(50, images // 10))


class Overlapping(ImageLoader):
    """A loader of which every share begins with the first batch."""

    def part(self, i: int, n: int) -> ImageLoader:
        """The share, after the first batch."""
        part = super().part(i, n)
        part._read_only([*range(50), *[row for row in part.rows if row >= 50]])  # type: ignore[arg-type]
        return part


class Deadly:
    """Images of which one ends the process that reads it, the first time."""

    def __init__(self, source: Any, deadly: int, memory: Path) -> None:
        self.source, self.deadly, self.memory = source, deadly, memory
        self.class_names = source.class_names
        self.name, self.label = source.name, source.label

    def __len__(self) -> int:
        return len(self.source)

    def read(self, i: int) -> Image.Image:
        """The image, or the end."""
        if i == self.deadly and not self.memory.exists():
            self.memory.touch()
            os._exit(1)
        return self.source.read(i)


if __name__ == "__main__":
    app()
