"""What LINe's head costs a sample, against the authors' algorithm written naively and against plain energy.

    python -m benchmarks.studies.line_head [--threads 1] [--rounds 5] [--json]

`naive` is batch 1 throughout and builds the dense mask of the predicted class anew for each sample, from the
contributions and their percentile; `dense mask` is the same with the percentile kept from before. `energy` is one
matrix product and a log-sum-exp. Every round times all of them in turn, so that a machine that slows down slows all;
medians of the times, and of the ratios within a round, are printed. With one thread it is the time that the thread
computed, which other work on the machine disturbs less; with several it is the time that passed. Weights, means and
features are random, and so are the predicted classes: nearly every sample of a batch has a class of its own, LINe's
worst case.

The second table is fitting: the contributions of a training sample by the gradient of its logit, batch 1, as the
authors take them, and by the closed form of a linear head, batch 256, as a mean over classes that is kept in float64.
"""

from __future__ import annotations

import ctypes
import gc
import statistics
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any

import numpy as np
import torch
from cyclopts import App
from rich.console import Console
from rich.table import Table
from torch import Tensor

from oodline.cli.options import Json, print_json
from oodline.detectors.line import weight_thresholds
from oodline.detectors.parts.masked_linear import masked_linear
from oodline.model.activations import Activations
from oodline.model.head import LinearHead
from oodline.statistics import ClassMoments

SIZES = {(10, 342): (0.9, 0.9), (100, 342): (0.1, 0.9), (1000, 2048): (0.1, 0.1), (1001, 1280): (0.1, 0.1)}
"""Classes and features of DenseNet-100 on CIFAR, ResNet-50 and MobileNetV2, with the paper's (p_a, p_w)."""
BATCHES = (1, 32, 256)

app = App()


@app.default
def main(*, threads: int = 1, rounds: int = 5, as_json: Json = False) -> None:
    """Measure and print.

    Parameters
    ----------
    threads
        Cores that PyTorch may use.
    rounds
        How often each job is timed.
    as_json
        Print one JSON document in place of the table.
    """
    torch.set_num_threads(threads)
    scoring, fitting = [], []
    for size, fractions in SIZES.items():
        case = Case(*size, *fractions)
        scoring += [measure(case, batch, rounds) for batch in BATCHES]
        fitting.append(measure_fitting(case, rounds))
    if as_json:
        print_json({"threads": threads, "rounds": rounds, "scoring": scoring, "fitting": fitting})
        return
    for title, rows in (("scoring", scoring), ("fitting", fitting)):
        table = Table(title=f"{title}: microseconds a sample, {threads} thread(s), median of {rounds}")
        for name in rows[0]:
            table.add_column(name, justify="right")
        for row in rows:
            table.add_row(*(f"{value:.1f}" if isinstance(value, float) else str(value) for value in row.values()))
        Console(width=140).print(table)


class Case:
    """A random head with LINe's thresholds, and the percentiles that they come from."""

    def __init__(self, classes: int, width: int, p_a: float, p_w: float) -> None:
        torch.manual_seed(0)
        self.classes, self.width, self.p_a, self.p_w = classes, width, p_a, p_w
        self.weight = torch.randn(classes, width) / width**0.5
        self.bias = torch.zeros(classes)
        self.S = self.weight * torch.rand(classes, width).square()
        rows = self.S[: min(classes, 50)]  # thresholds of some classes serve all: only the time matters here
        known = weight_thresholds(rows, self.weight, p_a, p_w, absolute=False)
        self.threshold = known.repeat(-(-classes // len(known)), 1)[:classes]
        self.cut = float(np.quantile((rows[0].abs() * self.weight).numpy(), p_w))
        self.neurons = self.S.quantile(p_a, dim=1, keepdim=True) < self.S

    def ours(self, h: Tensor, c: Tensor) -> Tensor:
        """LINe's score as it is computed here."""
        return masked_linear(h, self.weight, self.bias, self.threshold, c).logsumexp(1)

    def energy(self, h: Tensor, c: Tensor) -> Tensor:
        """Log-sum-exp of the plain logits."""
        return torch.nn.functional.linear(h, self.weight, self.bias).logsumexp(1)

    def dense_mask(self, h: Tensor, c: Tensor) -> Tensor:
        """One sample: the mask of all weights by their contributions to the predicted class."""
        return self._masked(h, int(c), self.S[int(c)].abs() * self.weight, self.cut, self.neurons[int(c)])

    def naive(self, h: Tensor, c: Tensor) -> Tensor:
        """The same, with both percentiles taken anew."""
        row = self.S[int(c)]
        importance = row.abs() * self.weight
        cut = float(np.percentile(importance.numpy(), 100 * self.p_w))
        return self._masked(h, int(c), importance, cut, row > float(np.percentile(row.numpy(), 100 * self.p_a)))

    def _masked(self, h: Tensor, c: int, importance: Tensor, cut: float, neurons: Tensor) -> Tensor:
        return ((self.weight * (importance > cut)) @ (h[0] * neurons) + self.bias).logsumexp(0)


def measure(case: Case, batch: int, rounds: int) -> dict[str, Any]:
    """One row of the table."""
    h, c = torch.rand(batch, case.width).clamp(max=0.8), torch.randint(case.classes, (batch,))
    jobs: dict[str, Callable[[], Any]] = {
        "ours": lambda: case.ours(h, c),
        "naive": lambda: case.naive(h[:1], c[:1]),
        "dense mask": lambda: case.dense_mask(h[:1], c[:1]),
        "energy": lambda: case.energy(h, c),
    }
    samples = {"ours": batch, "naive": 1, "dense mask": 1, "energy": batch}
    extra = extra_memory(jobs["ours"]) - 4 * batch * (case.classes + case.width)  # the result and sorted features
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            seconds[name].append(clock(job) / samples[name])

    def ratio(a: str, b: str) -> float:
        return statistics.median(x / y for x, y in zip(seconds[a], seconds[b], strict=True))

    return {
        "C": case.classes,
        "D": case.width,
        "batch": batch,
        **{name: 1e6 * statistics.median(values) for name, values in seconds.items()},
        "naive/ours": ratio("naive", "ours"),
        "dense/ours": ratio("dense mask", "ours"),
        "ours/energy": ratio("ours", "energy"),
        "extra MB": max(extra, 0) / 1e6,
    }


def measure_fitting(case: Case, rounds: int) -> dict[str, Any]:
    """One row of the second table."""
    features, labels = torch.rand(256, case.width), torch.randint(case.classes, (256,))
    head = LinearHead(case.weight, case.bias)
    batch = Activations(features, head(features), head, torch.arange(256))
    moments = ClassMoments()

    def gradient() -> None:
        one = features[:1].clone().requires_grad_()
        head(one)[0, labels[0]].backward()
        _ = one.detach() * one.grad

    pairs = [(clock(gradient), clock(lambda: moments.update(batch, labels)) / 256) for _ in range(rounds)]
    return {
        "C": case.classes,
        "D": case.width,
        "gradient": 1e6 * statistics.median(a for a, _ in pairs),
        "closed form": 1e6 * statistics.median(b for _, b in pairs),
        "gradient/closed": statistics.median(a / b for a, b in pairs),
    }


def clock(job: Callable[[], Any], least: float = 0.03) -> float:
    """Seconds a call, repeated for at least that long."""
    now = thread_time if torch.get_num_threads() == 1 else perf_counter
    job()
    calls, started = 0, now()
    while (passed := now() - started) < least or calls == 0:
        job()
        calls += 1
    return passed / calls


def extra_memory(job: Callable[[], Any]) -> int:
    """Bytes by which the process grows at most during a call, where Linux says so; 0 elsewhere."""
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        return 0
    job()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = _status("VmRSS")
    reset.write_text("5")  # forgets the highest size so far
    job()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


if __name__ == "__main__":
    app()
