"""What training recipes gain on a trained network: ResNet-20 of CIFAR-10, fine-tuned for as long by each of them.

    python -m benchmarks.studies.training run -o results.jsonl [--recipe NAME] [--seeds 3] [--images 1000] [--tests 500]
    python -m benchmarks.studies.training long-tail -o results.jsonl [--rho 0.05] [--largest 300] [--seeds 3]
    python -m benchmarks.studies.training time [--steps 8]
    python -m benchmarks.studies.training digits
    python -m benchmarks.studies.training table results.jsonl

`run` and `long-tail` write one line of JSON for each training and leave out what is in the file already, so a run that
was ended goes on. Training images are of `train_more.parquet`; detectors are fitted on `train.parquet`; auxiliary
outliers are CIFAR-100 training images, so CIFAR-100 test images are of classes that recipes with outliers have seen.
"""

from __future__ import annotations

import copy
import json
import math
import statistics
import time as clock
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from benchmarks._common import load_cifar
from cyclopts import App
from torch import Tensor, nn

import oodline as ol
from oodline.data import TensorLoader, TensorSource, open_images, sample
from oodline.data.loader import ImageDataset, ImageLoader
from oodline.errors import AssumptionWarning
from oodline.evaluation.metrics import auroc
from oodline.model.zoo import LoadedModel
from oodline.scoring.score import score_all
from oodline.training.auxiliary import Auxiliary
from oodline.training.epochs import Training
from oodline.training.forward import Forward
from oodline.training.head import replace_head
from oodline.training.long_tail import auroc_by_group, class_groups, long_tail_rows
from oodline.training.optimisation import optimiser_for
from oodline.training.recipe import RECIPES, Recipe
from oodline.training.shuffled import Shuffled
from oodline.training.trainable import network_of

SHARED = Path("../shared")
NEAR, SEEN = "tiny_imagenet", "cifar100"
FAR = ("svhn", "textures", "scenes", "mnist")
DETECTORS = ("msp", "energy", "knn", "feature-norm")
TAIL_RECIPES = ("cross-entropy", "cross-entropy, adjusted", "rna", "imood", "outlier-exposure")
RATE = 0.01

app = App()


def tensors(path: Path, loaded: LoadedModel, most: int | None = None) -> dict[str, Tensor]:
    """Prepared images and labels of a Parquet file, all or some of them evenly over the file."""
    assert loaded.preprocessing is not None
    source = open_images(path)
    chosen = source if most is None else sample(source, most)
    batches = list(ImageLoader(ImageDataset(chosen, loaded.preprocessing), 500))
    labels = [batch.labels for batch in batches if batch.labels is not None]
    return {"images": torch.cat([batch.inputs for batch in batches]), "labels": torch.cat(labels)}


def as_loader(arrays: dict[str, Tensor], batch_size: int = 250) -> TensorLoader:
    return TensorLoader(TensorSource(arrays), batch_size)


class Bench:
    """The network and all data, read once."""

    def __init__(self, shared: Path, images: int | None, tests: int = 500) -> None:
        data = shared / "data"
        self.loaded = load_cifar(data / "checkpoints", "resnet20")
        self.loaded.model.to(memory_format=torch.channels_last)  # half as fast again on a CPU
        self.classifier = ol.Classifier(self.loaded.model)
        self.train = tensors(data / "cifar10" / "train_more.parquet", self.loaded, images)
        self.fit = as_loader(tensors(data / "cifar10" / "train.parquet", self.loaded, 2 * tests))
        self.test = as_loader(tensors(data / "cifar10" / "test.parquet", self.loaded, tests))
        self.auxiliary = tensors(data / "cifar100" / "train.parquet", self.loaded)
        self.ood = {SEEN: as_loader(tensors(data / "cifar100" / "test.parquet", self.loaded, 2 * tests // 5))}
        for name in (NEAR, *FAR):
            self.ood[name] = as_loader(tensors(data / "ood" / f"{name}.parquet", self.loaded, 2 * tests // 5))
        self.classifier(self.train["images"][:8])

    def tuned(
        self, recipe: Recipe, train: dict[str, Tensor], epochs: int, seed: int, batch_size: int, rate: float = RATE
    ) -> tuple[ol.Classifier, list[float]]:
        """A fine-tuned copy of the network, and the seconds of its epochs."""
        model = copy.deepcopy(self.loaded.model)
        shuffled = Shuffled(as_loader(train, batch_size), flip=True, shift=4)
        network = network_of(self.classifier, as_loader(train), recipe)
        torch.manual_seed(seed)
        if recipe.head is not None:
            replace_head(model, recipe.head)
        maker = recipe.maker(Auxiliary(Shuffled(as_loader(self.auxiliary, batch_size), flip=True, shift=4)))
        training = Training(model, recipe, recipe.loss_for(network), maker, shuffled, epochs, seed, rate)
        history = training.run()
        return ol.Classifier(model), history.seconds


def kept(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def keep(path: Path, row: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(row, flush=True)


def rate_of(recipe: Recipe) -> float:
    """One rate for all whose head is kept, so that no recipe gains by a larger or smaller one; Adam's is its own."""
    return recipe.learning_rate if recipe.optimiser == "adam" or recipe.name == "abet" else RATE


@app.command
def run(
    *,
    output: Path,
    recipe: Sequence[str] = tuple(RECIPES),
    seeds: int = 3,
    images: int = 1000,
    epochs: int = 2,
    tests: int = 500,
    batch_size: int = 64,
    rate: float | None = None,
    shared: Path = SHARED,
) -> None:
    """Fine-tune by each recipe and seed, and keep AUROC and accuracy, line by line.

    All have the learning rate 0.01 (rna 0.001 with Adam, abet 0.1), or `rate`.
    """
    bench = Bench(shared, images, tests)
    setting = {"images": images, "epochs": epochs, "tests": tests, "batch_size": batch_size}
    setting |= {} if rate is None else {"rate": rate}
    done = {(row["recipe"], row["seed"]) for row in kept(output) if row["kind"] == "run" and row["setting"] == setting}
    if ("before", 0) not in done:
        keep(
            output,
            {"kind": "run", "recipe": "before", "seed": 0, "setting": setting, **measured(bench, bench.classifier)},
        )
    for seed in range(seeds):
        for name in recipe:
            if (name, seed) in done:
                continue
            used = rate_of(RECIPES[name]) if rate is None else rate
            tuned, seconds = bench.tuned(RECIPES[name], bench.train, epochs, seed, batch_size, used)
            found = measured(bench, tuned)
            keep(output, {"kind": "run", "recipe": name, "seed": seed, "setting": setting, "seconds": seconds, **found})


def measured(bench: Bench, classifier: ol.Classifier) -> dict[str, Any]:
    """Accuracy, and AUROC of each detector on each OOD set."""
    warnings.simplefilter("ignore", AssumptionWarning)
    detectors = {"default": ol.default_detector(classifier), **{name: ol.create_detector(name) for name in DETECTORS}}
    ol.fit(detectors, classifier, bench.fit)
    table = ol.evaluate(detectors, classifier, bench.test, bench.ood)
    areas = {name: {ood: table.value(name, "auroc", ood) for ood in bench.ood} for name in detectors}
    return {"accuracy": table.accuracy, "auroc": areas}


@app.command
def long_tail(
    *,
    output: Path,
    rho: float = 0.05,
    largest: int = 300,
    tests: int = 500,
    seeds: int = 3,
    epochs: int = 2,
    batch_size: int = 64,
    shared: Path = SHARED,
) -> None:
    """Fine-tune on a long-tailed split by the recipes for it, and keep accuracy and AUROC of head and tail classes."""
    bench = Bench(shared, None, tests)
    labels = bench.train["labels"]
    rows = torch.cat([torch.nonzero(labels == c).flatten()[:largest] for c in range(10)]).sort().values
    rows = rows[long_tail_rows(labels[rows], rho)]
    train = {name: value[rows] for name, value in bench.train.items()}
    counts = torch.bincount(train["labels"]).tolist()
    setting = {"rho": rho, "largest": largest, "tests": tests, "epochs": epochs, "batch_size": batch_size}
    done = {(row["recipe"], row["seed"]) for row in kept(output) if row["kind"] == "tail" and row["setting"] == setting}
    for seed in range(seeds):
        for name in TAIL_RECIPES:
            if (name, seed) in done:
                continue
            recipe = RECIPES[name.partition(",")[0]]
            if name.endswith("adjusted"):
                recipe = Recipe(name, "", lambda network: ol.training.CrossEntropy(class_counts=network.class_counts))
            tuned, _ = bench.tuned(recipe, train, epochs, seed, batch_size, rate_of(recipe))
            found = tail(bench, tuned, counts, train)
            keep(output, {"kind": "tail", "recipe": name, "seed": seed, "setting": setting, "counts": counts, **found})


def tail(bench: Bench, classifier: ol.Classifier, counts: list[int], train: dict[str, Tensor]) -> dict[str, Any]:
    """Accuracy and AUROC against the near and far sets, of all classes and by how common they are."""
    warnings.simplefilter("ignore")
    names = ("msp", "energy", "feature-norm", "prior-normalised", "prior-normalised,strength=1,scorer=energy")
    detectors = {name: ol.create_detector(name) for name in names}
    ol.fit(detectors, classifier, as_loader(train))
    ours = score_all(detectors, classifier, bench.test)
    assert ours.labels is not None and ours.predicted is not None
    groups = class_groups(counts) | {"all": list(range(len(counts)))}
    right = (ours.predicted == ours.labels).double()
    accuracies = {g: float(right[torch.isin(ours.labels, torch.tensor(c))].mean()) for g, c in groups.items()}
    areas: dict[str, dict[str, dict[str, float]]] = {name: {} for name in detectors}
    for ood in (NEAR, *FAR):
        theirs = score_all(detectors, classifier, bench.ood[ood])
        for name in detectors:
            areas[name][ood] = auroc_by_group(ours.scores[name], ours.labels, theirs.scores[name], groups)
    return {"accuracy": accuracies, "auroc": areas}


@app.command
def time(*, steps: int = 8, batch_size: int = 64, shared: Path = SHARED) -> None:
    """Milliseconds of one step of each recipe over those of plain cross-entropy, as medians, all in turn in one run."""
    bench = Bench(shared, 1000, 50)
    images, labels = bench.train["images"][:batch_size], bench.train["labels"][:batch_size]
    prepared = {}
    for name, recipe in RECIPES.items():
        model = copy.deepcopy(bench.loaded.model).train()
        if recipe.head is not None:
            replace_head(model, recipe.head)
        loss = recipe.loss_for(network_of(bench.classifier, as_loader(bench.train), recipe))
        maker = recipe.maker(Auxiliary(as_loader(bench.auxiliary)))
        parameters = [*model.parameters(), *loss.parameters()]
        prepared[name] = (Training(model, recipe, loss, maker, [], 1, 0, 1e-4), Forward(model), parameters)
    seconds: dict[str, list[float]] = {name: [] for name in RECIPES}
    for _ in range(steps + 1):
        for name, (training, forward, parameters) in prepared.items():
            optimiser = optimiser_for(training.recipe, parameters, 1e-4)
            began = clock.perf_counter()
            training.step((images, labels), forward, optimiser)
            seconds[name].append(clock.perf_counter() - began)
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    print("| recipe | ms per step | over plain |\n|---|---|---|")
    for name, value in medians.items():
        print(f"| {name} | {1000 * value:.0f} | {value / medians['cross-entropy']:.2f} |")


@app.command
def digits(*, epochs: int = 80) -> None:
    """AbeT beside a plain head as the training error goes to 0: energy, digits 0 to 7 against 8 and 9 and noise."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images, labels = torch.tensor(found.data / 16, dtype=torch.float32), torch.tensor(found.target)
    known = labels < 8
    order = torch.randperm(int(known.sum()), generator=torch.Generator().manual_seed(0))
    x, y = images[known][order], labels[known][order]
    train, targets, test, near = x[:900], y[:900], x[900:], images[~known]
    noise = torch.rand(500, 64, generator=torch.Generator().manual_seed(1))
    print("| head | epoch | training error | near | noise |\n|---|---|---|---|---|")
    for kind in (nn.Linear, ol.training.AbeTHead):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), kind(128, 8))
        optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
        for epoch in range(1, epochs + 1):
            model.train()
            for batch in torch.randperm(len(train)).split(64):
                optimiser.zero_grad()
                nn.functional.cross_entropy(model(train[batch]), targets[batch]).backward()
                optimiser.step()
            if epoch in (5, 10, 20, 40, epochs):
                with torch.no_grad():
                    model.eval()
                    error = float((model(train).argmax(1) != targets).double().mean())
                    ours, *theirs = (model(each).logsumexp(1) for each in (test, near, noise))
                areas = " | ".join(f"{100 * auroc(ours, each):.1f}" for each in theirs)
                print(f"| {kind.__name__} | {epoch} | {100 * error:.1f} | {areas} |")


@app.command
def table(results: Path) -> None:
    """The tables of docs/results/training.md: means over seeds, and twice the standard error."""
    rows = kept(results)
    for setting in distinct(row["setting"] for row in rows if row["kind"] == "run"):
        chosen = [row for row in rows if row["kind"] == "run" and row["setting"] == setting]
        print(f"\n{setting}\n")
        heads = [f"{d} {where}" for d in ("msp", "energy", "default") for where in ("near", "far")]
        print("| recipe | seeds | accuracy |", " | ".join(heads), "| default, CIFAR-100 |")
        print("|---" * (len(heads) + 4) + "|")
        for name in distinct(row["recipe"] for row in chosen):
            same = [row for row in chosen if row["recipe"] == name]
            cells = [mean([row["accuracy"] for row in same])]
            for detector in ("msp", "energy", "default"):
                cells.append(mean([row["auroc"][detector][NEAR] for row in same]))
                cells.append(mean([statistics.mean(row["auroc"][detector][f] for f in FAR) for row in same]))
            cells.append(mean([row["auroc"]["default"][SEEN] for row in same]))
            print(f"| {name} | {len(same)} |", " | ".join(cells), "|")
    for setting in distinct(row["setting"] for row in rows if row["kind"] == "tail"):
        chosen = [row for row in rows if row["kind"] == "tail" and row["setting"] == setting]
        print(f"\n{setting}, classes of {chosen[0]['counts']}\n")
        print("| recipe | detector | seeds | accuracy head | tail | near head | near tail | far head | far tail |")
        print("|---" * 9 + "|")
        for name in distinct(row["recipe"] for row in chosen):
            same = [row for row in chosen if row["recipe"] == name]
            for detector in same[0]["auroc"]:
                cells = [mean([row["accuracy"][group] for row in same]) for group in ("head", "tail")]
                for sets in ((NEAR,), FAR):
                    for group in ("head", "tail"):
                        values = [statistics.mean(row["auroc"][detector][o][group] for o in sets) for row in same]
                        cells.append(mean(values))
                print(f"| {name} | {detector} | {len(same)} |", " | ".join(cells), "|")


def distinct(values: Iterator[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def mean(values: Sequence[float]) -> str:
    """A mean in %, and twice its standard error where there are three values and more."""
    middle = f"{100 * statistics.mean(values):.2f}"
    if len(values) < 3:
        return middle
    return f"{middle} ± {200 * statistics.stdev(values) / math.sqrt(len(values)):.2f}"


if __name__ == "__main__":
    app()
