"""A drift monitor's false alarms on streams without drift, and how long it takes to notice one.

    python -m benchmarks.cost.drift [--shared ../shared] [--streams 2000] [--json]

LINe's scores of 5,000 CIFAR-10 test images, by a DenseNet-100, are shuffled: some calibrate, the others are the
stream. Beside the monitor stands the one that would suggest itself, which ranks each score among the held-out ones
alone. After a change, a share of the stream is textures.
"""

from __future__ import annotations

from pathlib import Path

import torch
from benchmarks.accuracy.coverage import line_scores
from cyclopts import App
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor

from oodline.cli.options import Json, print_json
from oodline.scoring.calibration import calibrate
from oodline.scoring.drift import DriftMonitor

PROMISES = (0.01, 0.05)
HELD_OUT = (20, 200, 2000)
SHARES = (0.1, 0.3, 1.0)
CHANGES = (0, 1000)

app = App()


class FixedRanks(DriftMonitor):
    """What the monitor is not: each score is ranked among the held-out ones alone."""

    def _p_value(self, score: float) -> float:
        held_out = list(self._ranked)
        p = super()._p_value(score)
        self._ranked = held_out
        return p


@app.default
def main(
    *,
    shared: Path = Path("../shared"),
    streams: int = 2000,
    length: int = 1000,
    changes: int = 200,
    as_json: Json = False,
) -> None:
    """Score once, then let monitors watch many shuffled streams.

    Parameters
    ----------
    shared
        Folder with `data`.
    streams, length
        Streams without drift for each size of calibration, and inputs in each.
    changes
        Streams with drift for each row of the second table.
    as_json
        Print one JSON document in place of the tables.
    """
    usual, strange = (s.scores["line"] for s in line_scores(shared / "data", "cifar10/test", "ood/textures"))
    generator = torch.Generator().manual_seed(0)
    null = [false_alarms(usual, n, streams, length, generator) for n in HELD_OUT]
    delays = [delay(usual, strange, share, start, changes, generator) for start in CHANGES for share in SHARES]
    if as_json:
        print_json({"null": null, "delays": delays, "streams": streams, "length": length})
        return
    console = Console()
    table = Table("held out", "promised", "false alarms", "ranked among held-out alone", box=SIMPLE_HEAD)
    for row in null:
        for promise in PROMISES:
            rates = (promise, row[f"{promise}"], row[f"fixed {promise}"])
            table.add_row(str(row["held_out"]), *(f"{rate:.2%}" for rate in rates))
    console.print(f"Streams of {length} ID inputs, {streams} a row: share that ever alarmed", table)
    table = Table("change at input", "textures", "median", "90 %", "found", box=SIMPLE_HEAD)
    for row in delays:
        cells = [f"{row['share']:.0%}", f"{row['median']:.0f}", f"{row['late']:.0f}", f"{row['found']:.0%}"]
        table.add_row(str(row["start"]), *cells)
    console.print(f"Inputs until the alarm, alpha = 1 %, 2,000 held out, {changes} streams a row", table)


def false_alarms(usual: Tensor, n: int, streams: int, length: int, generator: torch.Generator) -> dict[str, float]:
    """Share of streams without drift whose evidence ever reached 1 / promise."""
    peaks: dict[str, list[float]] = {"": [], "fixed ": []}
    for stream in range(streams):
        shuffled = usual[torch.randperm(len(usual), generator=generator)]
        for name, kind in (("", DriftMonitor), ("fixed ", FixedRanks)):
            # an alpha that is never reached lets one stream speak for every promise
            monitor = kind(calibrate(shuffled[:n], 0.05), alpha=1e-300, seed=stream)
            peaks[name].append(monitor.update(shuffled[n : n + length]).peak)
    rates = {f"{name}{p}": sum(peak >= 1 / p for peak in peaks[name]) / streams for name in peaks for p in PROMISES}
    return {"held_out": n, **rates}


def delay(
    usual: Tensor, strange: Tensor, share: float, start: int, changes: int, generator: torch.Generator
) -> dict[str, float]:
    """Inputs from the change to the alarm: median, 90 % quantile, and the share of streams in which it came."""
    n, length, found = 2000, 1500, []
    for stream in range(changes):
        shuffled = usual[torch.randperm(len(usual), generator=generator)]
        before, after = shuffled[n : n + start], shuffled[n + start : n + start + length]
        drawn = strange[torch.randint(len(strange), (length,), generator=generator)]
        after = torch.where(torch.rand(length, generator=generator) < share, drawn, after)
        monitor = DriftMonitor(calibrate(shuffled[:n], 0.05), seed=stream)
        monitor.update(before)
        if monitor.alarm_at is not None:
            continue  # a false alarm says nothing of the delay
        alarm = monitor.update(after).alarm_at
        found.append(float("inf") if alarm is None else float(alarm - start))
    waits = torch.tensor(found)
    return {
        "start": start,
        "share": share,
        "median": float(waits.quantile(0.5, interpolation="lower")),
        "late": float(waits.quantile(0.9, interpolation="lower")),
        "found": float(waits.isfinite().double().mean()),
    }


if __name__ == "__main__":
    app()
