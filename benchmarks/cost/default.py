"""What the default costs over the bare pass on eight networks, and whether its ONNX graph agrees with it.

    OMP_NUM_THREADS=1 python -m benchmarks.cost.default [NETWORK ...] [--shared ../shared] [--cache FOLDER] [--json]

The default is fitted on the training data of each network and calibrated on held-out ID data. Then these are timed in
turn on the same test batches: the bare network, scoring by energy, scoring by the default, and the default's own part,
which is what it computes from features and logits. Seconds are what the one thread computed, which other work on the
machine disturbs less than the time that passed. The graph is run in onnxruntime on images that it was not calibrated
on. Medians of ratios, in one run.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

import onnxruntime
import torch
from benchmarks.accuracy.as_it_comes import IMAGES, TEXT, Known, open_network
from benchmarks.accuracy.backbones import fill
from cyclopts import App
from torch import Tensor

from oodline import Energy, Fuse, Guard
from oodline.cli.options import Json, print_json
from oodline.data.batch import Inputs, unpack
from oodline.evaluation.rendering import markdown
from oodline.guard.graph import OUTPUTS, GuardGraph
from oodline.scoring.score import score

app = App()


@app.default
def main(
    *names: str,
    shared: Path = Path("../shared"),
    cache: Path | None = None,
    images: int = 50,
    batch_size: int = 25,
    rounds: int = 5,
    as_json: Json = False,
) -> None:
    """Measure and print.

    Parameters
    ----------
    names
        Networks; all if omitted.
    shared
        Folder with `data`.
    cache
        Folder for the networks' features.
    images
        On how many the default is calibrated, and on as many others timed and compared.
    batch_size
        Images per batch.
    rounds
        How often each pass is timed.
    as_json
        Print one JSON document in place of the table.
    """
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows = []
    for name in names or (*IMAGES, *TEXT):
        known = open_network(name, shared / "data", cache, 1000)
        rows.append({"network": name, **measure(known, images, batch_size, rounds)})
    if as_json:
        print_json({"images": images, "batch_size": batch_size, "rounds": rounds, "rows": rows})
        return
    cells = [[f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    print("\n".join(markdown([*rows[0]], cells)))


def measure(known: Known, images: int, batch_size: int, rounds: int) -> dict[str, Any]:
    """Members, time over the bare pass, and differences of the graph."""
    activations, labels = known.sets["fit"]
    head = known.classifier.head
    detector = Fuse()
    detector._settle(fill(detector._requests(head), activations, labels), head)
    inputs = joined([unpack(batch, 0)[0] for batch in known.few("test", 2 * images)])
    size = min(2 * images, len(inputs if isinstance(inputs, Tensor) else next(iter(inputs.values()))))
    places = torch.arange(size).split(batch_size)
    batches = [rows(inputs, place) for place in places]
    held_out, test = batches[: len(batches) // 2], batches[len(batches) // 2 :]
    guard = Guard(known.classifier, detector).calibrate(held_out)
    model, energy = known.classifier.model, Energy()
    with torch.no_grad():
        read = [known.classifier(x) for x in test]
        jobs: dict[str, Callable[[], Any]] = {
            "bare": lambda: [model(**x) if isinstance(x, Mapping) else model(x) for x in test],
            "energy": lambda: score(energy, known.classifier, test),
            "default": lambda: score(detector, known.classifier, test),
            "own": lambda: [detector(activations) for activations in read],
        }
        seconds: dict[str, list[float]] = {name: [] for name in jobs}
        for _ in range(rounds):
            for name, job in jobs.items():
                seconds[name].append(clock(job))
    bare = seconds["bare"]
    return {
        "default": "+".join(member.name for member in detector.detectors),
        "C x D": f"{head.num_classes} x {head.num_features}",
        "bare, ms per input": 1e3 * statistics.median(bare) / (size - size // 2),
        "energy / bare": statistics.median(a / b for a, b in zip(seconds["energy"], bare, strict=True)),
        "own part / bare": statistics.median(a / b for a, b in zip(seconds["own"], bare, strict=True)),
        "default / bare": statistics.median(a / b for a, b in zip(seconds["default"], bare, strict=True)),
        **graph_differences(guard, test),
    }


def graph_differences(guard: Guard, test: list[Inputs]) -> dict[str, Any]:
    """Largest difference of scores, and how many labels and verdicts differ, between onnxruntime and the guard."""
    graph, found = GuardGraph(guard), {"ONNX score": 0.0, "labels": 0, "verdicts": 0}
    with TemporaryDirectory() as folder:
        path = guard.export_onnx(Path(folder) / "guard.onnx", rows(test[0], torch.arange(8))).path
        run = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for inputs in test:
        with torch.no_grad():
            expected = dict(zip(OUTPUTS, graph(inputs), strict=True))
        named = inputs if isinstance(inputs, Mapping) else {run.get_inputs()[0].name: inputs}
        given = run.run(list(OUTPUTS), {name: value.numpy() for name, value in named.items()})
        got = {name: torch.from_numpy(value) for name, value in zip(OUTPUTS, given, strict=True)}
        found["ONNX score"] = max(found["ONNX score"], float((got["score"] - expected["score"]).abs().max()))
        found["labels"] += int((got["label"] != expected["label"]).sum())
        found["verdicts"] += int((got["is_ood"] != expected["is_ood"]).sum())
    return found


def joined(parts: list[Inputs]) -> Inputs:
    """Batches of tensors or of mappings as one."""
    if isinstance(parts[0], Mapping):
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return torch.cat(parts)


def rows(inputs: Inputs, places: Tensor) -> Inputs:
    """These rows of a batch."""
    return {name: value[places] for name, value in inputs.items()} if isinstance(inputs, Mapping) else inputs[places]


def clock(job: Callable[[], Any]) -> float:
    started = process_time()
    job()
    return process_time() - started


if __name__ == "__main__":
    app()
