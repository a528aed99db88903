"""The default detector on little training data: AUROC against images per class, beside its members and energy.

    python -m benchmarks.accuracy.small_data [--shared ../shared] [--cache DIR] [--output FILE] [--json]

Each network runs once over each set; everything after it works on features, through a classifier whose inputs they are.
"Python" is `default(classifier).fit(...)` and `Guard.calibrate(held_out)`; "command line" is `oodline fit --calibrate`
and its file, read again.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from cyclopts import App
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from oodline import Classifier, Detector, Energy, Guard, default, score
from oodline.cli import main as command_line
from oodline.cli.options import Json, print_json
from oodline.evaluation.metrics import auroc
from oodline.evaluation.rendering import markdown

NETWORKS = ("densenet100_cifar10", "resnet20_cifar10")
PER_CLASS = (1, 2, 5, 10, 20, 50, 100)
DRAWS = 3
"""Ways to choose the training images; the tables show means."""

HELD_OUT, TEST, OOD = 300, 700, 400
NEAR = ("cifar100/test", "ood/tiny_imagenet")
FAR = ("ood/svhn", "ood/textures", "ood/scenes", "ood/mnist")
GOLDEN = {"cifar10/test": "id_test", "cifar100/test": "cifar100"}
ALLOWED = 1.0
"""Points that the default may be below energy."""

ABOUT = f"""`Guard.calibrate` and `oodline fit --calibrate` take a fifth of the held-out images as the reference that
members are compared on, where there are 100 or more. Without held-out images the reference is cross-fitted: each
training image is scored by members that were fitted without it (last column). ViM takes at most one dimension per four
training images, and leaves the fusion ("-") where it then has fewer dimensions than the class means.

AUROC in %, near / far, mean of {DRAWS} draws of the training images (command line: the first draw, on which it must
equal Python to 0.01 points); {TEST} test images, {OOD} of each OOD set. Near: {", ".join(NEAR)}; far:
{", ".join(FAR)}."""

app = App()
Samples = tuple[Tensor, Tensor]


def from_features(weight: str) -> nn.Module:
    """A network whose inputs are the features of another: for `python:` references."""
    state = load_file(weight)
    head = nn.Linear(*reversed(state["weight"].shape))
    head.load_state_dict({"weight": state["weight"], "bias": state["bias"]})
    model = nn.Sequential(nn.Identity(), head)
    model.preprocessing = {"resize": 32, "crop": 32}  # features need none
    return model


@app.default
def main(
    *,
    shared: Path = Path("../shared"),
    cache: Path = Path("runs/small_data"),
    output: Path | None = None,
    as_json: Json = False,
) -> None:
    """Fit on 1 to 100 images per class, and print AUROC near and far.

    Parameters
    ----------
    shared
        Folder with `data` and `golden`.
    cache
        Folder that keeps features.
    output
        Markdown page to write, in place of printing.
    as_json
        Print one JSON document in place of the tables.
    """
    rows = []
    for network in NETWORKS:
        sets, labels = features_of(network, shared, cache)
        with TemporaryDirectory() as folder:
            rows += list(measure(network, sets, labels, Path(folder)))
    if as_json:
        print_json({"rows": rows})
        return
    text = page(rows)
    if output is None:
        print(text)
    else:
        output.write_text(text)


def features_of(network: str, shared: Path, cache: Path) -> tuple[dict[str, Tensor], Tensor]:
    """Features of each set by its path, the head's tensors, and the labels of the training images."""
    golden = shared / "golden" / "authors_cifar10.safetensors"
    if network == "densenet100_cifar10" and golden.is_file():  # this network's features are there already
        known, line = load_file(golden), load_file(golden.with_name("line_cifar10.safetensors"))
        names = {path: GOLDEN.get(path, path.removeprefix("ood/")) for path in ("cifar10/test", *NEAR, *FAR)}
        sets = {path: line[f"features.{name}"] for path, name in names.items()}
        sets |= {"train": known["features.train"], "weight": known["weight"], "bias": known["bias"]}
        return sets, known["labels.train"].long()
    from benchmarks.studies.tune_passes import SETUPS, Store, open_setup  # not there for the command line

    setup = SETUPS[network]
    classifier, load = open_setup(network, setup, shared / "data")
    store = Store(cache, network, classifier.head)
    labels = torch.empty(0, dtype=torch.int64)
    sets = {"weight": classifier.head.weight, "bias": classifier.head.bias}
    for path, count in {setup.fit: 2000, "cifar10/test": HELD_OUT + TEST, **dict.fromkeys((*NEAR, *FAR), OOD)}.items():

        def make(path: str = path, count: int = count) -> dict[str, Tensor]:
            parts = list(classifier.stream(load(path, 0, count)))
            found = torch.cat([batch if batch is not None else torch.full((len(a),), -1) for a, batch in parts])
            return {"features": torch.cat([a.features for a, _ in parts]), "labels": found}

        tensors = store.get(f"{path}.{count}", make)
        sets["train" if path == setup.fit else path] = tensors["features"]
        labels = tensors["labels"] if path == setup.fit else labels
    return sets, labels


def measure(network: str, sets: dict[str, Tensor], labels: Tensor, folder: Path) -> Iterator[dict[str, object]]:
    """AUROC near and far, in %, for each number of images per class and each way."""
    weights = folder / "head.safetensors"
    save_file({"weight": sets["weight"].clone(), "bias": sets["bias"].clone()}, weights)
    classifier = Classifier(from_features(str(weights)))
    held_out, test = sets["cifar10/test"][:HELD_OUT], sets["cifar10/test"][HELD_OUT : HELD_OUT + TEST]

    def areas(detectors: dict[str, Detector]) -> dict[str, list[float]]:
        scores = {path: score(detectors, classifier, [sets[path]]) for path in (*NEAR, *FAR)}
        own = score(detectors, classifier, [test])
        return {
            name: [100 * sum(auroc(own[name], scores[p][name]) for p in group) / len(group) for group in (NEAR, FAR)]
            for name in detectors
        }

    yield {"network": network, "per class": None, "way": "energy", "near_far": areas({"energy": Energy()})["energy"]}
    for count in PER_CLASS:
        found: dict[str, list[list[float]]] = {}
        for draw in range(DRAWS):
            rows = choose(labels, count, draw)
            train = (sets["train"][rows], labels[rows])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                fused = default(classifier).fit(classifier, batches(*train))
                alone = areas({"without held-out data": fused})
                guard = Guard(classifier, fused).calibrate(batches(held_out))
                alone |= areas({"Python": guard.detector, **dict(fused.members)})
                if draw == 0:
                    alone |= areas({"command line": by_command(train, held_out, weights, folder, classifier)})
            for name, area in alone.items():
                found.setdefault(name, []).append(area)
        for name, each in found.items():
            if name == "command line":
                python = found["Python"][0]
                if max(abs(a - b) for a, b in zip(each[0], python, strict=True)) > 0.01:
                    raise SystemExit(f"{network}, {count} per class: {each[0]} by the command line, {python} in Python")
            yield {
                "network": network,
                "per class": count,
                "way": name,
                "near_far": [sum(area[side] for area in each) / len(each) for side in (0, 1)],
                "draws": len(each),
            }


def batches(*tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """As the command line reads them."""
    return list(zip(*(tensor.split(64) for tensor in tensors), strict=True))


def choose(labels: Tensor, count: int, draw: int) -> Tensor:
    """Positions of so many samples of each class, shuffled."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(draw))
    kept = [order[labels[order] == c][:count] for c in labels.unique()]
    return torch.cat(kept)[torch.randperm(sum(map(len, kept)), generator=torch.Generator().manual_seed(draw))]


def by_command(train: Samples, held_out: Tensor, weights: Path, folder: Path, classifier: Classifier) -> Detector:
    """The detector in the file that `oodline fit` writes."""
    save_file({"features": train[0].clone(), "labels": train[1].clone()}, folder / "train.safetensors")
    save_file({"features": held_out.clone()}, folder / "held_out.safetensors")
    model = ["--model", f"python:{Path(__file__).resolve()}:from_features,weight={weights}"]
    data = ["--data", str(folder / "train.safetensors"), "--calibrate", str(folder / "held_out.safetensors")]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        command_line(["fit", *model, *data, "-o", str(folder / "guard.safetensors")])
    return Guard.load(folder / "guard.safetensors", classifier).detector


def page(rows: list[dict[str, object]]) -> str:
    """The page, its answer first."""
    energy = {row["network"]: row["near_far"] for row in rows if row["way"] == "energy"}
    ours = [row for row in rows if row["way"] in ("Python", "command line")]
    below = [
        (float(energy[row["network"]][side]) - float(row["near_far"][side]), row, word)
        for row in ours
        for side, word in enumerate(("near", "far"))
    ]
    worst, where, word = max(below, key=lambda entry: entry[0])
    missed = "" if worst <= ALLOWED else f" The aim was {ALLOWED}: missed."
    answer = (
        f"With {HELD_OUT} held-out images, the default detector is at most {worst:.1f} points of AUROC below energy, "
        f"from one training image per class up (there: {where['network']}, {where['per class']} per class, {word}), "
        f"and it is the same one from Python and from the command line.{missed}"
    )
    lines = ["# The default on little data", "", answer, "", ABOUT, ""]
    for network in NETWORKS:
        mine = [row for row in rows if row["network"] == network]
        ways = list(dict.fromkeys(str(row["way"]) for row in mine if row["way"] != "energy"))
        order = ["Python", "command line", "energy", *(w for w in ways if w not in ("Python", "command line"))]
        order.append(order.pop(order.index("without held-out data")))
        table = []
        for count in PER_CLASS:
            cells = [str(count)]
            for way in order:
                match = [r for r in mine if r["way"] == way and r["per class"] in (count, None)]
                cells.append("/".join(f"{value:.1f}" for value in match[0]["near_far"]) if match else "-")
            table.append(cells)
        lines += [f"## {network}", "", *markdown(["per class", *order], table), ""]
    return "\n".join(
        [*lines, "```sh", "python -m benchmarks.accuracy.small_data --output docs/results/small-data.md", "```", ""]
    )


if __name__ == "__main__":
    app()
