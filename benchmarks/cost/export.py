"""A guard as ONNX, with LINe or another detector, against the bare classifier and against the module it was made of.

    python -m benchmarks.cost.export [--detector fuse] [--shared ../shared] [--images 256] [--threads 1] [--rounds 9]

For DenseNet-100 on CIFAR-10 and MobileNetV2 on ImageNet, with their checkpoints: largest differences to the module,
over real images; size of the files; time in onnxruntime, guard by bare classifier, at batch 1 and 32. Both graphs are
timed in turn, and the median of the ratios is printed. With one thread the time is what the thread computed, which
other work on the machine disturbs less; with several it is the time that passed.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, thread_time
from typing import Any

import onnxruntime
import torch
from benchmarks._common import CIFAR_MODELS
from cyclopts import App
from rich.console import Console
from rich.table import Table
from torch import Tensor

from oodline import Classifier, Guard
from oodline.cli.options import Json, print_json
from oodline.data import image_loader, open_images
from oodline.detectors.catalog import create_detector
from oodline.errors import FewSamplesWarning
from oodline.guard.graph import OUTPUTS, GuardGraph
from oodline.model.zoo import load_model
from oodline.preprocessing.preprocessing import Preprocessing

BATCHES = (1, 32)

app = App()


@dataclass(frozen=True)
class Case:
    """A classifier, what it is fitted on, and LINe with the paper's settings."""

    name: str
    model: str
    weights: str
    train: str
    test: str
    detector: str
    preprocessing: Preprocessing | None = None
    label_offset: int = 0


CASES = (
    Case(
        "DenseNet-100",
        f"python:{CIFAR_MODELS}:densenet100",
        "densenet100_cifar10.safetensors",
        "cifar10/train.parquet",
        "cifar10/test.parquet",
        "line,p_a=0.9,p_w=0.9,clip=1.0",
    ),
    Case(
        "MobileNetV2",
        "timm:mobilenetv2_100,num_classes=1001,pad_type=same",
        "mobilenetv2_imagenet.safetensors",
        "imagenet/sample.parquet",
        "imagenet/val.parquet",
        "line,unseen=dense",
        Preprocessing(resize=224, crop=224, mean=(0.5,) * 3, std=(0.5,) * 3),
        label_offset=1,
    ),
)


@app.default
def main(
    *,
    detector: str | None = None,
    shared: Path = Path("../shared"),
    images: int = 256,
    threads: int = 1,
    rounds: int = 9,
    as_json: Json = False,
) -> None:
    """Measure and print.

    Parameters
    ----------
    detector
        NAME,setting=value, in place of LINe with the paper's settings.
    shared
        Folder with `data`.
    images
        On how many it is fitted, for CIFAR-10; half as many calibrate, and on as many graph and module are compared.
    threads
        Cores that onnxruntime and PyTorch may use.
    rounds
        How often each graph is timed.
    as_json
        Print one JSON document in place of the table.
    """
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore", FewSamplesWarning)
    cases = [replace(case, detector=detector or case.detector) for case in CASES]
    rows = [row for case in cases for row in measure(case, shared / "data", images, threads, rounds)]
    if as_json:
        print_json({"threads": threads, "rounds": rounds, "rows": rows})
        return
    table = Table(title=f"{detector or 'LINe'} in onnxruntime, {threads} thread(s), median of {rounds}")
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=160).print(table)


def measure(case: Case, data: Path, images: int, threads: int, rounds: int) -> list[dict[str, Any]]:
    """One row for each batch size."""
    loaded = load_model(case.model, data / "checkpoints" / case.weights)
    classifier = Classifier(loaded.model)
    preprocessing = case.preprocessing or loaded.preprocessing

    def load(name: str, limit: int | None):
        return image_loader(
            open_images(data / name), preprocessing, limit=limit, label_offset=case.label_offset, batch_size=32
        )

    every_class = None if case.label_offset else images  # the ImageNet sample has one image per class
    detector = create_detector(case.detector).fit(classifier, load(case.train, every_class), progress=True)
    held_out = torch.cat([batch.inputs for batch in load(case.test, images)])
    guard = Guard(classifier, detector).calibrate(held_out[: len(held_out) // 2].split(32))
    with TemporaryDirectory() as folder:
        path = guard.export_onnx(Path(folder) / "guard.onnx", held_out[:8], progress=True).path
        bare = Path(folder) / "bare.onnx"
        export_bare(loaded.model, held_out[:2], bare)
        sessions = {name: session(file, threads) for name, file in (("guard", path), ("bare", bare))}
        sizes = {name: file.stat().st_size / 1e6 for name, file in (("guard", path), ("bare", bare))}
    # on images that were not calibrated on: those tie with themselves, and rounding would move each by one rank
    differences = compare(GuardGraph(guard), sessions["guard"], held_out[len(held_out) // 2 :])
    rows = []
    for batch in BATCHES:
        pixels = held_out[:batch].numpy()
        seconds = {name: [] for name in sessions}
        for _ in range(rounds):
            for name, run in sessions.items():
                feed = {run.get_inputs()[0].name: pixels}
                seconds[name].append(clock(lambda run=run, feed=feed: run.run(None, feed), threads) / batch)
        rows.append(
            {
                "classifier": case.name,
                "C x D": f"{guard.classifier.head.num_classes} x {guard.classifier.head.num_features}",
                "batch": batch,
                "bare ms": 1e3 * statistics.median(seconds["bare"]),
                "guard ms": 1e3 * statistics.median(seconds["guard"]),
                "guard/bare": statistics.median(g / b for g, b in zip(seconds["guard"], seconds["bare"], strict=True)),
                "bare MB": sizes["bare"],
                "guard MB": sizes["guard"],
                **differences,
            }
        )
    return rows


def export_bare(model: torch.nn.Module, images: Tensor, path: Path) -> None:
    """The classifier alone, by the same exporter."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sizes = ({0: torch.export.Dim("batch", min=1)},)
        made = torch.onnx.export(model.eval(), (images,), dynamo=True, dynamic_shapes=sizes, verbose=False)
    made.save(path, external_data=False)


def session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def compare(graph: GuardGraph, run: onnxruntime.InferenceSession, images: Tensor) -> dict[str, Any]:
    """Largest differences over all images, and how many labels and verdicts differ."""
    found: dict[str, Any] = {"images": len(images)} | dict.fromkeys(OUTPUTS, 0.0)
    for batch in images.split(32):
        with torch.no_grad():
            expected = graph(batch)
        given = run.run(list(OUTPUTS), {run.get_inputs()[0].name: batch.numpy()})
        for name, a, b in zip(OUTPUTS, given, expected, strict=True):
            gap = (torch.from_numpy(a).double() - b.double()).abs()
            if a.dtype.kind in "bi":
                found[name] += int(gap.count_nonzero())
            else:
                found[name] = max(found[name], float(gap.max()))
    return found


def clock(job: Callable[[], Any], threads: int) -> float:
    now = thread_time if threads == 1 else perf_counter
    started = now()
    job()
    return now() - started


if __name__ == "__main__":
    app()
