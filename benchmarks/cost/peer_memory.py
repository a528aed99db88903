"""Peak memory of fitting each shared method, in a process of its own; see peers.py.

    python -m benchmarks.cost.peer_memory oodline|pytorch-ood|oodeel SIZE [FOLDER]

The features are drawn batch by batch, so that what is resident is what the library keeps. Needs Linux, whose kernel can
set the peak back.
"""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmarks.accuracy.peer_methods import Pair, Scene, open_libraries
from cyclopts import App
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from oodline import Classifier, create_detector, fit

BATCH = 50

app = App()


class Drawn(IterableDataset):
    """Features (N, 512) around ten means, drawn batch by batch and never held together."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __iter__(self):
        random = torch.Generator().manual_seed(0)
        means = 2 * torch.eye(10, 512)
        for start in range(0, self.size, BATCH):
            labels = torch.arange(start, start + BATCH) % 10
            yield (means[labels] + torch.rand(BATCH, 512, generator=random), labels)


@app.default
def main(name: str, size: int, folder: Path | None = None) -> None:
    """Print growth of resident memory, MB, for every method by itself, and for oodline for all at once."""
    warnings.simplefilter("ignore")
    libraries, _ = open_libraries(folder)
    library = next((x for x in libraries if x.name == name), libraries[0])
    head = nn.Linear(512, 10)
    with torch.no_grad():
        head.weight.copy_(torch.eye(10, 512))
        head.bias.zero_()
    scene = Scene(nn.Sequential(nn.Identity(), head).eval(), size)
    classifier = Classifier(scene.model)
    training = DataLoader(Drawn(size), batch_size=None)
    pairs = [pair for pair in library.pairs if not pair.inputs]

    def job(pair: Pair) -> Callable[[], Any]:
        if name == "oodline":
            return lambda: fit([create_detector(pair.ours)], classifier, training)
        return lambda: library.fit(pair.build(library.detectors, scene), scene, training)

    job(pairs[0])()  # what is loaded lazily is nobody's memory
    found = {pair.ours: growth(job(pair)) for pair in pairs}
    if name == "oodline":
        found["all at once"] = growth(lambda: fit([create_detector(p.ours) for p in pairs], classifier, training))
    print(json.dumps(found))


def growth(job: Callable[[], Any]) -> float:
    """MB by which the peak of resident memory rises over what was resident before."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew at what is resident now
    before = resident("VmRSS")
    job()
    return max(0.0, resident("VmHWM") - before)


def resident(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def measure_memory(name: str, size: int, folder: Path | None) -> dict[str, float] | str:
    """Memory of one library, in a process of its own; a sentence where it could not be measured."""
    command = [sys.executable, "-m", __spec__.name, name, str(size), *([str(folder)] if folder else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return f"not measured: {done.stderr.strip().splitlines()[-1]}"
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    app()
