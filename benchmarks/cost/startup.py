"""CPU time until the command line answers, beside what it cannot do without.

    OMP_NUM_THREADS=1 python -m benchmarks.cost.startup [--rounds 5]

`oodline --help` must not import torch; scoring one image by a guard file should take less than twice `import torch`.
Every round starts all of them in turn. Seconds are of the processor, user and system, of each process; medians are
printed, and ratios within a round.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from cyclopts import App
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from oodline.testing import toy_image_guard

JOBS: dict[str, tuple[Sequence[str], str]] = {
    "python -c pass": (["-c", "pass"], "import torch"),
    "import cyclopts": (["-c", "import cyclopts"], "import torch"),
    "oodline --help": (["-m", "oodline", "--help"], "import cyclopts"),
    "import oodline": (["-c", "import oodline"], "python -c pass"),
    "import torch": (["-c", "import torch"], "python -c pass"),
    "a detector": (["-c", "import oodline; oodline.LINe()"], "import torch"),
}
SCORING = "one image by a guard"

app = App()


@app.default
def main(*, rounds: int = 5) -> None:
    """Measure and print.

    Parameters
    ----------
    rounds
        How often each is started.
    """
    with TemporaryDirectory() as folder:
        jobs = {**JOBS, SCORING: (["-c", one_image(Path(folder))], "import torch")}
        seconds: dict[str, list[float]] = {name: [] for name in jobs}
        for _ in range(rounds):
            for name, (arguments, _) in jobs.items():
                seconds[name].append(clock(arguments))
    table = Table("what", "CPU seconds", "over", "ratio", box=SIMPLE_HEAD)
    for name, (_, beside) in jobs.items():
        ratio = statistics.median(a / b for a, b in zip(seconds[name], seconds[beside], strict=True))
        table.add_row(name, f"{statistics.median(seconds[name]):.2f}", beside, f"{ratio:.2f}")
    Console().print(table)


def one_image(folder: Path) -> str:
    """A script that loads a guard from a file and judges one image, as a service's first request does."""
    guard = toy_image_guard()
    guard.save(folder / "guard.safetensors")
    torch.save(guard.classifier.model, folder / "model.pt")
    Image.new("RGB", (8, 8), (200, 30, 30)).save(folder / "image.png")
    return (
        "import torch; from PIL import Image; from oodline import Classifier, Guard; "
        f"model = torch.load({str(folder / 'model.pt')!r}, weights_only=False); "
        f"guard = Guard.load({str(folder / 'guard.safetensors')!r}, Classifier(model)); "
        f"guard(guard.preprocessing(Image.open({str(folder / 'image.png')!r})).unsqueeze(0)).rows()"
    )


def clock(arguments: Sequence[str]) -> float:
    """CPU seconds of a Python that runs this."""
    before = os.times()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    after = os.times()
    return after.children_user - before.children_user + after.children_system - before.children_system


if __name__ == "__main__":
    app()
