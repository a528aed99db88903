"""How time and memory grow with classes C and features D: measured on small sizes, and the law that fits them.

    python -m benchmarks.cost.scale [--rounds 3] [--json]

Times are of one CPU thread (`time.process_time`, the least of several rounds), so that a busy machine does not change
them. Each is fitted by seconds = a C^x D^y, least squares on logarithms; the law is then compared with a measurement
outside the sizes it was fitted on, and extended to ImageNet-1k and ImageNet-21k. Sizes of states are formulas that the
states of real statistics and detectors are checked against.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from time import process_time
from typing import Any

import torch
from cyclopts import App
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from safetensors.torch import load, save
from torch import Tensor

from oodline import DICE, KNN, Energy, LINe, Mahalanobis
from oodline.cli.options import Json, print_json
from oodline.detectors.line import weight_thresholds
from oodline.detectors.mahalanobis import whitening
from oodline.detectors.parts import products
from oodline.errors import FewSamplesWarning
from oodline.model.head import LinearHead
from oodline.statistics import ClassMoments, Covariance, Quantiles, Reservoir, Statistic
from oodline.testing import activations_of

GRID = [(C, D) for C in (125, 250, 500, 1000) for D in (256, 512, 1024)]
CHECK = (1000, 2048)
TARGETS = {"ImageNet-1k": (1000, 2048), "ImageNet-21k": (21_841, 2048)}
BATCH = 64

app = App()


@app.default
def main(*, rounds: int = 3, as_json: Json = False) -> None:
    """Measure, fit and print.

    Parameters
    ----------
    rounds
        How often each job is timed; the least time counts.
    as_json
        Print one JSON document in place of the tables.
    """
    warnings.simplefilter("ignore", FewSamplesWarning)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    laws = [law(name, job, rounds) for name, job in JOBS.items()]
    sizes = [size(name, formula) for name, formula in SIZES.items()]
    if as_json:
        print_json({"laws": laws, "sizes": sizes})
        return
    console = Console()
    table = Table("job", "C^", "D^", "law / measured", *TARGETS, title="CPU seconds", box=SIMPLE_HEAD)
    for row in laws:
        extended = [seconds(row["predicted"][name]) for name in TARGETS]
        table.add_row(row["job"], f"{row['C']:.2f}", f"{row['D']:.2f}", f"{row['check']:.2f}", *extended)
    console.print(table)
    console.print(f"law / measured: at C={CHECK[0]}, D={CHECK[1]}, which the law was not fitted on\n", highlight=False)
    table = Table("state", "bytes", "formula / real", *TARGETS, title="Memory", box=SIMPLE_HEAD)
    for row in sizes:
        table.add_row(row["state"], row["formula"], f"{row['check']:.3f}", *[f"{row[n] / 1e6:.4g} MB" for n in TARGETS])
    console.print(table)


@app.command
def largest(*, classes: int = 21_841, width: int = 2048, measured: int = 64) -> None:
    """Find LINe's thresholds for some classes of a very large head, both ways, and say what all would take.

    Parameters
    ----------
    classes, width
        Size of the head.
    measured
        Classes whose thresholds are found; the simple form finds two.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    W = 0.02 * torch.randn(classes, width)
    started = process_time()
    columns = products.sorted_columns(W)
    sorting = process_time() - started
    a = (torch.rand(measured, width) * W[:measured]).abs().double().numpy()
    started = process_time()
    quick = products.product_percentiles(a, columns, 0.1)
    each = (process_time() - started) / measured
    started = process_time()
    simple = [products._simply(row, columns, 0.1) for row in a[:2]]
    each_simply = (process_time() - started) / 2
    print(f"C={classes}, D={width}, one CPU thread; equal to the last bit: {simple == quick[:2].tolist()}")
    print(f"sorting the columns of W, once: {sorting:.1f} s")
    print(f"percentile of a class: {each * 1e3:.1f} ms, by sorting all its products {each_simply * 1e3:.0f} ms")
    print(f"all classes: {sorting + classes * each:.0f} s, by sorting {classes * each_simply / 3600:.1f} h")


def law(name: str, job: Callable[[int, int], Callable[[], Any]], rounds: int) -> dict[str, Any]:
    """Exponents of C and D, and what they foretell."""
    # below SMALL, LINe's thresholds are found by the simple form: another law
    grid = [(C, D) for C, D in GRID if C * D > products.SMALL]
    times = [clock(job(*shape), rounds) for shape in grid]
    logs = torch.tensor([[1.0, math.log(C), math.log(D)] for C, D in grid], dtype=torch.float64)
    found = torch.linalg.lstsq(logs, torch.tensor(times, dtype=torch.float64).log().unsqueeze(1)).solution.flatten()
    a, x, y = found.tolist()

    def predict(C: int, D: int) -> float:
        return math.exp(a + x * math.log(C) + y * math.log(D))

    check = predict(*CHECK) / clock(job(*CHECK), rounds)
    predicted = {target: predict(*shape) for target, shape in TARGETS.items()}
    return {"job": name, "C": x, "D": y, "check": check, "predicted": predicted}


def clock(work: Callable[[], Any], rounds: int) -> float:
    work()
    times = []
    for _ in range(rounds):
        started = process_time()
        count = 0
        while process_time() - started < 0.05:  # many short ones, one long one
            work()
            count += 1
        times.append((process_time() - started) / count)
    return min(times)


def head_of(C: int, D: int) -> LinearHead:
    return LinearHead(0.02 * torch.randn(C, D), torch.zeros(C))


def updating(make: Callable[[], Statistic]) -> Callable[[int, int], Callable[[], Any]]:
    def job(C: int, D: int) -> Callable[[], Any]:
        statistic, activations = make(), activations_of(torch.rand(BATCH, D), head_of(C, D))
        labels = torch.randint(C, (BATCH,))
        return lambda: statistic.update(activations, labels)

    return job


def fitted_line(C: int, D: int) -> LINe:
    line, head = LINe(), head_of(C, D)
    line._settle({"moments": means(C, D)}, head)
    return line


def means(C: int, D: int) -> ClassMoments:
    moments = ClassMoments()
    state = {"count": torch.full((C,), 1300), "mean": torch.rand(C, D).double(), "deviations": torch.zeros(C, 0)}
    moments.load_state_dict(state)
    return moments


def thresholds(C: int, D: int) -> Callable[[], Tensor]:
    W = 0.02 * torch.randn(C, D)
    S = torch.rand(C, D).double() * W
    return lambda: weight_thresholds(S, W, 0.1, 0.1, absolute=False)


def thresholds_simply(C: int, D: int) -> Callable[[], Any]:
    """All products of one class, sorted: the law is then multiplied by the classes."""
    W = 0.02 * torch.randn(C, D)
    a, columns = torch.rand(D).double().numpy(), products.sorted_columns(W)
    return lambda: products._simply(a, columns, 0.1)


def scoring(make: Callable[[int, int], Any]) -> Callable[[int, int], Callable[[], Any]]:
    def job(C: int, D: int) -> Callable[[], Any]:
        detector, activations = make(C, D), activations_of(torch.rand(BATCH, D), head_of(C, D))
        return lambda: detector(activations)

    return job


def travelling(C: int, D: int) -> Callable[[], Any]:
    """Write, read and merge the class means and the covariance, as an engine does for each share."""
    whole, share = Covariance(), Covariance()
    for statistic in (whole, share):
        statistic.update(activations_of(torch.rand(BATCH, D), head_of(C, D)), torch.randint(C, (BATCH,)))

    def work() -> None:
        spare = Covariance()
        spare.load_state_dict(load(save(share.state_dict())))
        whole.merge(spare)

    return work


def square(C: int, D: int) -> Callable[[], Any]:
    sample = torch.rand(2 * D, D).double()
    covariance = sample.T @ sample / len(sample)
    return lambda: whitening(covariance)


JOBS: dict[str, Callable[[int, int], Callable[[], Any]]] = {
    "fit: class means, 64 images": updating(ClassMoments),
    "fit: covariance, 64 images": updating(Covariance),
    "fit: quantiles, 64 images": updating(Quantiles),
    "merge: a share's covariance": travelling,
    "estimate: LINe": thresholds,
    "estimate: LINe, simply, one class": thresholds_simply,
    "estimate: Mahalanobis": square,
    "score: energy, 64 images": scoring(lambda C, D: Energy()),
    "score: LINe, 64 images": scoring(fitted_line),
}


def real_size(name: str, C: int, D: int) -> int:
    head = head_of(C, D)
    activations, labels = activations_of(torch.rand(4 * C, D), head), torch.arange(4 * C) % C
    statistics: dict[str, Statistic] = {
        "ClassMoments": ClassMoments(),
        "ClassMoments, variance": ClassMoments(variance=True),
        "Covariance": Covariance(),
        "Quantiles": Quantiles(),
        "Reservoir of S": Reservoir(S),
    }
    if name in statistics:
        statistics[name].update(activations, labels)
        return sum(tensor.nbytes for tensor in statistics[name].state_dict().values())
    detector = {"LINe": LINe(), "DICE": DICE(), "Mahalanobis": Mahalanobis(), "KNN of S": KNN(k=1, bank=S)}[name]
    requests = detector._requests(head)
    for statistic in requests.values():
        statistic.update(activations, labels)
    detector._settle(requests, head)
    return sum(tensor.nbytes for tensor in detector.state_dict().values())


S = 10_000
SIZES: dict[str, tuple[str, Callable[[int, int, int], int]]] = {
    "ClassMoments": ("8 C D + 8 C", lambda C, D, S: 8 * C * D + 8 * C),
    "ClassMoments, variance": ("16 C D + 8 C", lambda C, D, S: 16 * C * D + 8 * C),
    "Covariance": ("8 D^2 + 8 C D + 8 C", lambda C, D, S: 8 * D * D + 8 * C * D + 8 * C),
    "Quantiles": ("8 2^20", lambda C, D, S: 8 * 2**20),
    "Reservoir of S": ("4 S D + 16 S", lambda C, D, S: 4 * S * D + 16 * S),
    "LINe": ("8 C D + 4", lambda C, D, S: 8 * C * D + 4),
    "DICE": ("C D", lambda C, D, S: C * D),
    "Mahalanobis": ("4 D^2 + 4 C D + 4 D", lambda C, D, S: 4 * D * D + 4 * C * D + 4 * D),
    "KNN of S": ("4 S D", lambda C, D, S: 4 * S * D),
}


def size(name: str, formula: tuple[str, Callable[[int, int, int], int]]) -> dict[str, Any]:
    """What the formula says for the targets, and whether it says what is."""
    text, count = formula
    C, D = 100, 256
    check = count(C, D, min(S, 4 * C)) / real_size(name, C, D)
    return {"state": name, "formula": text, "check": check, **{n: count(*shape, S) for n, shape in TARGETS.items()}}


def seconds(value: float) -> str:
    return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"


if __name__ == "__main__":
    app()
