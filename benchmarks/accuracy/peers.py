"""oodline beside pytorch-ood and oodeel, in one process on the same bytes: scores, metrics, time, peak memory.

    python -m benchmarks.accuracy.peers [--data ../shared/data] [--oodeel DIR] [--json]

The classifier is the DenseNet-100 of the DICE and LINe papers. One pass gives the features of all images; on them every
shared method is fitted and scored by both libraries' own end-to-end interface, with a network of one linear layer: what
it costs beside the network. A few images then go end to end through the whole network: the peer makes one pass
a detector and direction, oodline one for all. Peak memory is measured in a process of its own, fitting on features that
are drawn batch by batch. `--oodeel DIR` names a folder made by `pip install --no-deps --target DIR oodeel seaborn`.
"""

from __future__ import annotations

import os
import statistics
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from benchmarks._common import load_cifar
from benchmarks.accuracy.peer_methods import Library, Pair, Scene, open_libraries
from benchmarks.cost.peer_memory import measure_memory
from cyclopts import App
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from oodline import Classifier, create_detector, fit
from oodline._util.progress import track
from oodline.cli.options import Json, print_json
from oodline.data import image_loader, open_images
from oodline.evaluation.metrics import compute_metrics
from oodline.scoring.score import score_all

DATA = Path(os.environ.get("OODLINE_SHARED", "../shared")) / "data"
BATCH = 50

app = App()


@app.default
def main(
    *,
    data: Path = DATA,
    fit_images: int = 1000,
    test_images: int = 500,
    whole_images: int = 60,
    memory_images: int = 20_000,
    rounds: int = 3,
    oodeel: Path | None = None,
    as_json: Json = False,
) -> None:
    """Measure and print.

    Parameters
    ----------
    data
        Folder with `cifar10`, `ood/svhn.parquet` and `checkpoints`.
    fit_images, test_images
        CIFAR-10 training images to fit on; CIFAR-10 test images, and as many of SVHN, to score.
    whole_images
        Images to fit on, and half as many of each test set, end to end through the network.
    memory_images
        Random features of width 512 to fit on when memory is measured.
    rounds
        How often own times are taken; medians are printed.
    oodeel
        Folder with oodeel, where it is not installed.
    as_json
        Print one JSON document in place of the tables.
    """
    warnings.simplefilter("ignore")  # of the peers; ours are tested for
    began = perf_counter()
    libraries, absent = open_libraries(oodeel)
    classifier, images, features = prepare(data, fit_images, test_images)
    scene = Scene(nn.Sequential(nn.Identity(), classifier.model[1]), fit_images)
    whole = [subset(images[0], whole_images), *(TensorDataset(*s[: whole_images // 2]) for s in images[1:])]
    whole_scene = Scene(classifier.model, len(whole[0]))
    rows, ends = [], []
    for library in libraries:
        for pair in track(library.pairs, library.name, library.pairs, shown=True):
            parts = (whole_scene, whole, 1) if pair.inputs else (scene, features, rounds)
            rows.append({"peer": library.name, **compare(library, pair, *parts)})
        ends.append(end_to_end(library, whole_scene, whole))
    memory = {name: measure_memory(name, memory_images, oodeel) for name in ("oodline", *(x.name for x in libraries))}
    document = {
        "versions": {library.name: library.version for library in libraries},
        "absent": absent,
        "methods": rows,
        "end_to_end": ends,
        "memory_mb": memory,
        "seconds": perf_counter() - began,
        "cpu_seconds": sum(os.times()[:4]),
    }
    if as_json:
        print_json(document)
    else:
        print_tables(document, memory_images)


def prepare(
    data: Path, fit_images: int, test_images: int
) -> tuple[Classifier, list[TensorDataset], list[TensorDataset]]:
    """The classifier, split; images to fit on, ID and OOD; and their features, from one pass."""
    loaded = load_cifar(data / "checkpoints", "densenet100")
    network, head = loaded.model, loaded.model.fc
    network.fc = nn.Identity()
    classifier = Classifier(nn.Sequential(network, head).eval())
    paths = {"cifar10/train.parquet": fit_images, "cifar10/test.parquet": test_images, "ood/svhn.parquet": test_images}
    images, features = [], []
    for path, limit in paths.items():
        loader = image_loader(open_images(data / path), loaded.preprocessing, limit=limit, batch_size=BATCH)
        batches = [(b.inputs, b.labels) for b in loader]
        found = [a.features for a, _ in classifier.stream(batches)]
        inputs, labels = (torch.cat(part) for part in zip(*batches, strict=True))
        images.append(TensorDataset(inputs, labels))
        features.append(TensorDataset(torch.cat(found), labels))
    return classifier, images, features


def subset(images: TensorDataset, size: int) -> TensorDataset:
    """So many images, of all classes alike: the peers want each class to be there."""
    labels = images.tensors[1]
    order = torch.argsort(torch.stack([(labels[: i + 1] == y).sum() for i, y in enumerate(labels)]), stable=True)
    return TensorDataset(*(t[order[:size]] for t in images.tensors))


def loaders(sets: Sequence[TensorDataset]) -> list[DataLoader]:
    return [DataLoader(s, BATCH) for s in sets]


def compare(library: Library, pair: Pair, scene: Scene, sets: Sequence[TensorDataset], rounds: int) -> dict[str, Any]:
    """One method on one scene: differences of scores and metrics, own times of fitting and scoring."""
    training, *tests = loaders(sets)
    classifier = Classifier(scene.model)
    times: dict[str, list[float]] = {"fit": [], "score": [], "their fit": [], "their score": []}
    for _ in range(rounds):
        ours = create_detector(pair.ours)
        times["fit"].append(clock(lambda d=ours: fit([d], classifier, training)))
        found: list[Any] = []
        times["score"].append(clock(lambda d=ours, f=found: f.extend(score_all(d, classifier, t) for t in tests)))
        theirs = pair.build(library.detectors, scene)
        times["their fit"].append(clock(lambda d=theirs: library.fit(d, scene, training)))
        raw: list[Any] = []
        times["their score"].append(clock(lambda d=theirs, r=raw: r.extend(library.score(d, t) for t in tests)))
    a = [f.scores[ours.name].numpy() for f in found]
    b = [pair.same(r, scene) for r in raw]
    difference = np.abs(np.concatenate(a) - np.concatenate(b))
    middle = {name: statistics.median(seconds) for name, seconds in times.items()}
    mine, other = compute_metrics(*a), compute_metrics(*(-r for r in raw))
    return {
        "method": pair.ours,
        "images": sum(len(s) for s in sets[1:]),
        "largest_difference": float(difference.max()),
        "relative": float(difference.max() / np.abs(np.concatenate(a)).max()),
        "why": pair.why,
        "auroc": mine.auroc,
        "auroc_difference": mine.auroc - other.auroc,
        "fpr95_difference": mine.fpr95_ood_positive - other.fpr95_ood_positive,
        "metric_code": metric_code(*(-r for r in raw)),
        "fit_ratio": middle["their fit"] / middle["fit"] if ours.has_state else None,
        "score_ratio": middle["their score"] / middle["score"],
        "seconds": middle,
    }


def metric_code(i: np.ndarray, o: np.ndarray) -> dict[str, float]:
    """How far pytorch-ood's metrics are from ours on the same scores; empty without it."""
    try:
        from pytorch_ood.metrics import OODMetrics
    except ImportError:
        return {}
    labels = torch.tensor(np.r_[np.zeros(len(i)), -np.ones(len(o))])
    theirs = OODMetrics().update(-torch.tensor(np.r_[i, o]), labels).compute()
    ours = compute_metrics(i, o)
    pairs = {"AUROC": ours.auroc, "AUPR-IN": ours.aupr_in, "AUPR-OUT": ours.aupr_out}
    pairs["FPR95TPR"] = ours.fpr95_ood_positive
    return {name: abs(theirs[name] - value) for name, value in pairs.items()}


def end_to_end(library: Library, scene: Scene, sets: Sequence[TensorDataset]) -> dict[str, Any]:
    """The whole network: fit and score all shared methods, by the peer one after the other, by oodline in one pass."""
    training, *tests = loaders(sets)
    theirs = {"fit": 0.0, "score": 0.0}
    for pair in library.pairs:
        detector = pair.build(library.detectors, scene)
        theirs["fit"] += clock(lambda d=detector: library.fit(d, scene, training))
        theirs["score"] += clock(lambda d=detector: [library.score(d, t) for t in tests])
    classifier = Classifier(scene.model)
    detectors = {pair.ours: create_detector(pair.ours) for pair in library.pairs}
    ours = {
        "fit": clock(lambda: fit(list(detectors.values()), classifier, training)),
        "score": clock(lambda: [score_all(detectors, classifier, t) for t in tests]),
    }
    return {"peer": library.name, "methods": len(library.pairs), "images": [len(s) for s in sets], "ours": ours} | {
        "theirs": theirs
    }


def clock(job: Callable[[], Any]) -> float:
    started = perf_counter()
    job()
    return perf_counter() - started


def print_tables(document: dict[str, Any], memory_images: int) -> None:
    console = Console(highlight=False)
    for peer in document["versions"]:
        rows = [row for row in document["methods"] if row["peer"] == peer]
        table = Table("method", "images", "max diff.", "of range", "AUROC", "diff.", "FPR95 diff.", box=SIMPLE_HEAD)
        for row in rows:
            differences = [f"{row['largest_difference']:.1e}", f"{row['relative']:.1e}", f"{100 * row['auroc']:.2f}"]
            differences += [f"{100 * row[key]:+.2f}" for key in ("auroc_difference", "fpr95_difference")]
            table.add_row(row["method"], str(row["images"]), *differences)
        console.print(f"Scores of oodline less those of {peer}; AUROC and FPR95 (OOD positive) in points", table)
        for row in rows:
            print(f"  {row['method']}: {row['why']}")
        print()
    codes = [row["metric_code"] for row in document["methods"] if row["metric_code"]]
    if codes:
        most = ", ".join(f"{name} {max(code[name] for code in codes):.0e}" for name in codes[0])
        print(f"pytorch-ood's own metrics on the same scores differ from ours by at most: {most}")
        print("(its AUPR joins the points of the curve by straight lines; ours is average precision)\n")
    table = Table("peer", "method", "fit", "score", "fit, MB ours", "theirs", box=SIMPLE_HEAD)
    for row in document["methods"]:
        memory = [document["memory_mb"][name] for name in ("oodline", row["peer"])]
        shown = [f"{m[row['method']]:.0f}" if isinstance(m, dict) and row["method"] in m else "-" for m in memory]
        ratios = ["-" if row[key] is None else f"{row[key]:.2f}" for key in ("fit_ratio", "score_ratio")]
        table.add_row(row["peer"], row["method"], *ratios, *shown)
    console.print(
        "Their time over ours where the network is one linear layer, so that what surrounds it is all there is, and "
        f"peak memory of fitting on {memory_images:,} features",
        table,
    )
    for end in document["end_to_end"]:
        ours, theirs = end["ours"], end["theirs"]
        sizes = f"{end['images'][0]} images to fit on, {sum(end['images'][1:])} to score"
        print(f"{end['methods']} methods of {end['peer']} end to end ({sizes}), seconds, theirs / ours:")
        for part in ("fit", "score"):
            print(f"  {part:6} {theirs[part]:7.1f} / {ours[part]:6.1f} = {theirs[part] / ours[part]:.1f}")
    every = document["memory_mb"]["oodline"]
    if isinstance(every, dict):
        print(f"oodline, all of these methods fitted at once: {every['all at once']:.0f} MB")
    for name, reason in document["absent"].items():
        print(f"{name} was not run: {reason}")
    print(f"versions: {document['versions']}; LINe is in neither")
    print(f"{document['seconds']:.0f} s in all, {document['cpu_seconds']:.0f} s of them on a processor")


if __name__ == "__main__":
    app()
