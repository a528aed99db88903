"""What `oodline bench` costs over the bare forward passes over the same images, and how long a second run takes.

    python -m benchmarks.cost.bench_overhead [PROTOCOL] [--model REF] [--limit 200] [--rounds 3] [--json]

Every round times, in turn, the bare passes (read, prepare, run the model), a first benchmark with thirty detectors and
an empty cache, and the same benchmark again from the cache, so that a machine that slows down slows all of them; the
ratio is given in wall time and in CPU time, which other programs disturb less. The default is CIFAR-10 with a
DenseNet-100 on the data in ../shared; any other protocol will do.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time

import torch
from benchmarks._common import CIFAR_MODELS, ROOT
from cyclopts import App
from rich.console import Console
from rich.table import Table

from oodline.cli.options import Json, print_json, show_warnings
from oodline.evaluation.benchmark import open_sets, run_protocol
from oodline.evaluation.protocol import BenchmarkProtocol, parse_protocol, read_protocol
from oodline.evaluation.run import read_run
from oodline.model.zoo import load_model
from oodline.preprocessing.preprocessing import Preprocessing

THIRTY = (
    "line,preset=cifar10-densenet100", "msp", "max-logit", "energy", "react", "dice", "ash-s", "ash-p", "ash-b",
    "scale", "feature-norm", "gradnorm", "she", "caref", "cadref", "fdbd", "mahalanobis", "relative-mahalanobis",
    "residual", "vim", "nnguide", "fm-pls", "itp", "neco", "nci", "vra", "bats", "gen", "knn", "kl-matching",
)  # fmt: skip

Spent = dict[str, list[tuple[float, float]]]

app = App()


@app.default
def main(
    protocol: Path = ROOT / "protocols" / "shared-cifar10.toml",
    *,
    model: str | None = f"python:{CIFAR_MODELS}:densenet100",
    limit: int = 200,
    rounds: int = 3,
    as_json: Json = False,
) -> None:
    """Measure and print.

    Parameters
    ----------
    protocol
        A benchmark file.
    model
        The classifier, where the file names code.
    limit
        Images of each data set.
    rounds
        How often everything is timed; medians are printed.
    as_json
        Print one JSON document in place of the table.
    """
    show_warnings()
    read = read_protocol(protocol, model=model)
    wanted = parse_protocol({**read.model_dump(), "limit": limit, "detectors": THIRTY})
    spent: Spent = {"bare": [], "first": [], "second": []}
    for _ in range(rounds):
        spent["bare"].append(clock(partial(bare_passes, wanted)))
        with TemporaryDirectory() as folder:
            for name in ("first", "second"):
                spent[name].append(clock(partial(run_protocol, wanted, f"{folder}/{name}", cache=f"{folder}/cache")))
            record = read_run(f"{folder}/second").record
    rows = [
        ("bare forward passes", f"{statistics.median(wall for wall, _ in spent['bare']):.1f} s", ""),
        ("first run / bare passes, wall time", ratio(spent, 0), "<= 1.3"),
        ("first run / bare passes, CPU time", ratio(spent, 1), "<= 1.3"),
        ("second run, from the cache", f"{statistics.median(wall for wall, _ in spent['second']):.2f} s", "seconds"),
    ]
    images = sum(s.samples for s in record.sets)
    if as_json:
        print_json({"images": images, "detectors": len(record.detectors), "failures": record.failures, "rows": rows})
        return
    title = f"{images} images of {len(record.sets)} sets, {len(record.detectors)} detectors, median of {rounds}"
    table = Table("what", "measured", "goal", title=title)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    for label, reason in record.failures.items():
        print(f"left out {label}: {reason}")


def clock(job: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of a job."""
    wall, cpu = perf_counter(), process_time()
    job()
    return perf_counter() - wall, process_time() - cpu


def ratio(spent: Spent, which: int) -> str:
    return f"{statistics.median(a[which] / b[which] for a, b in zip(spent['first'], spent['bare'], strict=True)):.3f}"


def bare_passes(protocol: BenchmarkProtocol) -> None:
    """Read all images of a protocol and run its model over them, and nothing else."""
    loaded = load_model(protocol.classifier.model, protocol.classifier.weights)
    preprocessing = protocol.classifier.preprocessing or loaded.preprocessing or Preprocessing()
    sets, _ = open_sets(protocol, preprocessing)
    with torch.no_grad():
        for this in sets:
            for batch in this.loader:
                loaded.model(batch.inputs)


if __name__ == "__main__":
    app()
