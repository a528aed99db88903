"""Words for neurons without a text-image encoder: DenseNet features mapped to word vectors of CIFAR-100 class names.

    python -m benchmarks.studies.concepts [--shared ../shared] [--cache FOLDER] [--json]

A linear map from features to word vectors is fitted on the training images of 80 classes, and stands for the image
encoder of `Concepts`. The important neurons of each of the 20 other classes are then named by the 40 training images
that excite them most. Is the class's name among the first five of 276 words? Five splits make each class one of the 20
once. Word vectors are those of `benchmarks/_taxonomy.py`, drawn anew five times. Beside it:

- the same for the 80 classes of the map, and for the images of a class in place of those of a neuron;
- with the word vectors of the images' own labels in place of the map: what a perfect encoder would give, as far as a
  neuron is of one class;
- chance: the same words compared with the name of another one of the 20 classes, and 5 of 276.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import torch
from benchmarks._taxonomy import vectors, words
from benchmarks.accuracy.as_it_comes import stack
from benchmarks.accuracy.zero_shot import NETWORK, linear_map
from benchmarks.studies.tune_passes import SETUPS, Store, open_setup
from cyclopts import App
from torch import Tensor

from oodline.cli.options import Json, print_json
from oodline.data import open_images
from oodline.evaluation.rendering import markdown
from oodline.explain.concepts import Concepts

IMAGES = 40
"""Most activating images of a neuron, as in WWW."""
FIRST = 5
WHOSE = {"first neuron": 1, "five neurons": 5, "own images": 0}
SEEDS = 5
SPLITS = 5
COLUMNS = ("right word", "another class's", "right group", "another class's group")
app = App()


@dataclass(frozen=True, eq=False)
class Known:
    """Training images of all 100 classes, and the classes' names."""

    features: Tensor
    labels: Tensor
    weight: Tensor
    names: tuple[str, ...]


@app.default
def main(*, shared: Path = Path("../shared"), cache: Path | None = None, as_json: Json = False) -> None:
    """Name neurons.

    Parameters
    ----------
    shared
        Folder with `data`.
    cache
        Folder of features, kept for the next run.
    as_json
        Print the numbers as JSON.
    """
    known = read(shared / "data", cache)
    repeats = [measure(known, seed) for seed in range(SEEDS)]
    if as_json:
        print_json(repeats)
        return
    print("\n".join(lines(repeats)))


def read(data: Path, cache: Path | None) -> Known:
    classifier, load = open_setup(NETWORK, SETUPS[NETWORK], data)
    kept = Store(cache, NETWORK, classifier.head).get(
        "cifar100/train.0.None", lambda: stack(classifier, load("cifar100/train", 0, None))
    )
    names = open_images(data / "cifar100" / "train.parquet").class_names
    assert names is not None
    return Known(kept["features"], kept["labels"], classifier.head.linear.weight.detach(), tuple(names))


def measure(known: Known, seed: int) -> dict[str, dict[str, float]]:
    """Share of neurons whose first five words have the right one, by who is named and by which encoder."""
    table = vectors(seed)
    text, of_classes = torch.stack(list(table.values())), torch.stack([table[name] for name in known.names])
    vocabulary = list(table)
    found: dict[tuple[str, ...], list[list[float]]] = {}
    for split in range(SPLITS):
        new = torch.arange(100) % SPLITS == split
        rows = ~new[known.labels]
        encoder = linear_map(known.features[rows], of_classes[known.labels[rows]])
        with torch.no_grad():
            mapped = encoder(known.features)
        for classes, own in (("20 new", new), ("80 of the map", ~new)):
            for how, vector in (("mapped", mapped), ("own labels", of_classes[known.labels])):
                concepts = Concepts(vocabulary, text, lambda images, v=vector: v[images])
                chosen = own.nonzero().flatten().tolist()
                for whose, top in WHOSE.items():
                    said = {c: named(known, concepts, c, top) for c in chosen}
                    found.setdefault((classes, whose, how), []).append(shares(said, known.names))
    return {
        ", ".join(key): dict(zip(COLUMNS, map(mean, zip(*rows, strict=True)), strict=True))
        for key, rows in sorted(found.items())
    }


def named(known: Known, concepts: Concepts, label: int, top: int) -> list[set[str]]:
    """The first words for each of the most important neurons of a class; for its own images, where `top` is 0."""
    own = known.labels == label
    neurons = (known.weight[label] * known.features[own].mean(0)).topk(top).indices.tolist()
    images = [known.features[:, d].topk(IMAGES).indices for d in neurons] or [own.nonzero().flatten()]
    return [{concepts.words[v] for v in concepts.scores(each).topk(FIRST).indices.tolist()} for each in images]


def shares(said: dict[int, list[set[str]]], names: tuple[str, ...]) -> list[float]:
    """Share with the class's name, with that of another class of these; with a word of its group, of another's."""
    group = {word: path[-1] for word, path in words().items()}
    counts = [0.0] * 4
    lists = [(c, each) for c, found in said.items() for each in found]
    for c, each in lists:
        groups = {group[word] for word in each}
        others = [o for o in said if o != c]
        counts[0] += names[c] in each
        counts[1] += mean(names[o] in each for o in others)
        counts[2] += group[names[c]] in groups
        counts[3] += mean(group[names[o]] in groups for o in others)
    return [count / len(lists) for count in counts]


def lines(repeats: list[dict[str, dict[str, float]]]) -> Iterator[str]:
    def cell(key: str, column: str) -> str:
        values = [100 * each[key][column] for each in repeats]
        return f"{mean(values):.1f} ± {stdev(values):.1f}"

    yield f"5 of {len(words())} words at random: {100 * FIRST / len(words()):.1f} %"
    yield ""
    yield from markdown(
        ["% with, among the first five", *COLUMNS], [[key, *(cell(key, c) for c in COLUMNS)] for key in repeats[0]]
    )


if __name__ == "__main__":
    app()
