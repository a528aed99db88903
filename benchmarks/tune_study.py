"""What each way to choose LINe's settings from ID data alone reaches, and what an oracle does.

    python benchmarks/tune_study.py [--shared ../shared] [--output docs/tune.md] [--cache DIR]

The network runs once over the fit data, held-out ID data with all its pseudo-outliers, ID test data and the OOD sets.
The last two serve the columns of the table only: every way to choose sees the fit data and held-out ID data and nothing
else, but for the oracle, which takes the best of the grid on the OOD sets themselves.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from cyclopts import App
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor

from oodline import Classifier
from oodline.activations import Activations
from oodline.cli.options import Json, print_json
from oodline.data import Subset, image_loader, open_images
from oodline.detectors.base import Detector, FewSamplesWarning
from oodline.detectors.catalog import create_detector
from oodline.errors import OodlineError
from oodline.evaluation.metrics import auroc
from oodline.fitting import Reads, reads
from oodline.head import LinearHead
from oodline.preprocessing import Preprocessing
from oodline.tuning.candidates import combinations, with_settings
from oodline.tuning.cases import Case
from oodline.tuning.crossed import cross
from oodline.tuning.held_out import hold_out
from oodline.tuning.leave_classes_out import folds
from oodline.tuning.pseudo_outliers import FAR, NEAR, patch_shuffle
from oodline.tuning.trial import Trial
from oodline.zoo import load_model

CIFAR = f"python:{Path(__file__).parents[1] / 'examples' / 'cifar_models.py'}:"
FAR_SETS = ("ood/svhn", "ood/textures", "ood/scenes", "ood/mnist")
INCEPTION = Preprocessing(resize=224, crop=224, mean=(0.5,) * 3, std=(0.5,) * 3)


@dataclass(frozen=True)
class Setup:
    """A classifier, its data, and the settings that papers state for it and for another one."""

    model: str
    fit: str
    held_out: tuple[str, int, int]
    test: tuple[str, int, int]
    near: tuple[str, ...]
    far: tuple[str, ...]
    line: str
    """LINe, with what the data makes necessary."""
    paper: str
    wrong: str
    """The preset for another data set: CIFAR-10's for ImageNet and the other way round."""
    label_offset: int = 0
    preprocessing: Preprocessing | None = None
    chosen_on: bool = True
    """Whether the criterion was chosen by looking at this classifier; no for the ones that only check it."""


def cifar(model: str, own: str, other: str, paper: str, wrong: str, *, chosen_on: bool = True) -> Setup:
    held_out, test = (f"{own}/test", 4000, 5000), (f"{own}/test", 0, 4000)
    near = (f"{other}/test", "ood/tiny_imagenet")
    return Setup(model, f"{own}/train", held_out, test, near, FAR_SETS, "line", paper, wrong, chosen_on=chosen_on)


SETUPS = {
    "densenet100_cifar10": cifar(
        f"{CIFAR}densenet100", "cifar10", "cifar100", "cifar10-densenet100", "imagenet-resnet50"
    ),
    "densenet100_cifar100": cifar(
        f"{CIFAR}densenet100,num_classes=100", "cifar100", "cifar10", "cifar100-densenet100", "imagenet-resnet50"
    ),
    "mobilenetv2_imagenet": Setup(
        "timm:mobilenetv2_100,num_classes=1001,pad_type=same",
        "imagenet/sample",
        ("imagenet/val", 0, 150),
        ("imagenet/val", 150, 300),
        (),
        ("ood/textures", "ood/scenes"),
        "line,unseen=dense",
        "imagenet-resnet50",
        "cifar10-densenet100",
        label_offset=1,
        preprocessing=INCEPTION,
    ),
    "resnet20_cifar10": cifar(
        f"{CIFAR}resnet20", "cifar10", "cifar100", "cifar10-densenet100", "imagenet-resnet50", chosen_on=False
    ),
}


def pixel_shuffle(images: Tensor, generator: Generator) -> Tensor:
    """The pixels of each image in a random order."""
    n, _, height, width = images.shape
    order = torch.rand(n, height * width, generator=generator).argsort(1)
    return images.flatten(2).gather(2, order[:, None].expand(-1, images.shape[1], -1)).reshape(images.shape)


def invert(images: Tensor, generator: Generator) -> Tensor:
    """The negative of each image."""
    return 2 * images.mean((0, 2, 3), keepdim=True) - images


TRANSFORMS = {
    "near": NEAR,
    "far": FAR,
    "also": {"patch-shuffle 4": partial(patch_shuffle, grid=4), "pixel-shuffle": pixel_shuffle, "invert": invert},
}


def independent(ids: Activations, generator: Generator) -> Activations:
    """Each feature from a sample of its own: every value seen, none together."""
    n, width = ids.features.shape
    rows = torch.rand(width, n, generator=generator).argsort(1).T
    return _with(ids, ids.features.gather(0, rows))


def mixed(ids: Activations, generator: Generator) -> Activations:
    """Mean of the features of two samples."""
    return _with(ids, (ids.features + ids.features[torch.randperm(len(ids), generator=generator)]) / 2)


def halved(ids: Activations, generator: Generator) -> Activations:
    """Half of every feature: weak evidence."""
    return _with(ids, ids.features / 2)


def _with(ids: Activations, features: Tensor) -> Activations:
    return Activations(features, ids.head(features), ids.head, ids.index)


IN_FEATURE_SPACE: dict[str, Callable[[Activations, Generator], Activations]] = {
    "crossed": cross,
    "independent": independent,
    "mixed": mixed,
    "halved": halved,
}
LEFT_OUT = "left-out classes"

CRITERIA: dict[str, list[list[str]]] = {
    "near + far (what `tune` does)": [list(NEAR), list(FAR)],
    "near only": [list(NEAR)],
    "far only": [list(FAR)],
    "every transform, each counting the same": [[*NEAR, *FAR, "patch-shuffle 4", "pixel-shuffle", "invert"]],
    "patch shuffle, grid 4": [["patch-shuffle 4"]],
    "patch shuffle, grid 8": [["patch-shuffle"]],
    "pixel shuffle": [["pixel-shuffle"]],
    "blend": [["blend"]],
    "turn": [["turn"]],
    "blur": [["blur"]],
    "noise": [["noise"]],
    "phase scramble": [["phase-scramble"]],
    "left-out classes": [[LEFT_OUT]],
    "left-out classes + far": [[LEFT_OUT], list(FAR)],
    "features: crossed + left-out classes (without images)": [["crossed", LEFT_OUT]],
    "features: mixed": [["mixed"]],
    "features: halved": [["halved"]],
    "features: independent + halved": [["independent", "halved"]],
}

OTHERS = ("react", "dice", "ash-s", "scale", "knn", "gen", "vra")
"""Other detectors: whether the criterion, chosen for LINe, serves them too."""

app = App()


class Store:
    """Activations of data sets, kept on disk where a folder is given."""

    def __init__(self, folder: Path | None, name: str, head: LinearHead) -> None:
        self.folder, self.name, self.head = folder, name, head

    def get(self, key: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Tensors from the folder, or made and kept there."""
        if self.folder is None:
            return make()
        path = self.folder / f"{self.name}.{key.replace('/', '-')}.safetensors"
        if not path.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file(make(), path)
        return load_file(path)

    def activations(self, tensors: Mapping[str, Tensor], prefix: str = "") -> Activations:
        """Tensors as activations of the head."""
        features = tensors[f"{prefix}features"]
        return Activations(features, tensors[f"{prefix}logits"], self.head, torch.arange(len(features)))


@dataclass(frozen=True, eq=False)
class Passes:
    """All that the network computes for the study."""

    fit: tuple[Activations, Tensor]
    held_out: tuple[Activations, Tensor]
    pseudo: dict[str, Activations]
    test: Activations
    real: dict[str, Activations]


def run_network(name: str, setup: Setup, data: Path, cache: Path | None, sizes: tuple[int, int, int]) -> Passes:
    """One pass over every data set and over every transform of the held-out images."""
    loaded = load_model(setup.model, data / "checkpoints" / f"{name}.safetensors")
    classifier = Classifier(loaded.model)
    store = Store(cache, name, classifier.head)
    n_held, n_test, n_ood = sizes

    def loader(path: str, start: int, stop: int | None) -> Any:
        source = open_images(data / f"{path}.parquet")
        rows = range(start, min(stop or len(source), len(source)))
        preprocessing = setup.preprocessing or loaded.preprocessing
        return image_loader(Subset(source, rows), preprocessing, batch_size=50, label_offset=setup.label_offset)

    def plain(path: str, start: int = 0, stop: int | None = None) -> dict[str, Tensor]:
        def make() -> dict[str, Tensor]:
            parts = list(classifier.stream(loader(path, start, stop)))
            labels = [torch.full((len(a),), -1) if y is None else y for a, y in parts]
            tensors = {"features": torch.cat([a.features for a, _ in parts])}
            return tensors | {"logits": torch.cat([a.logits for a, _ in parts]), "labels": torch.cat(labels)}

        return store.get(f"{path}.{start}.{stop}", make)

    def transformed() -> dict[str, Tensor]:
        path, start, stop = setup.held_out
        asked: Reads = reads([create_detector(setup.line)])
        start = max(start, stop - n_held)
        made = hold_out(
            classifier, loader(path, start, stop), TRANSFORMS, asked, limit=stop - start, seed=0, shown=True
        )
        assert made.labels is not None
        sets = {"ids": made.ids} | {k: v for group in made.outliers.values() for k, v in group.items()}
        tensors = {"labels": made.labels}
        for key, activations in sets.items():
            tensors |= {f"{key}.features": activations.features, f"{key}.logits": activations.logits}
        return tensors

    fit, held = plain(setup.fit), store.get(f"pseudo.{n_held}", transformed)
    path, start, stop = setup.test
    return Passes(
        fit=(store.activations(fit), fit["labels"]),
        held_out=(store.activations(held, "ids."), held["labels"]),
        pseudo={key: store.activations(held, f"{key}.") for group in TRANSFORMS.values() for key in group},
        test=store.activations(plain(path, start, min(stop, start + n_test))),
        real={key: store.activations(plain(key, 0, n_ood)) for key in (*setup.near, *setup.far)},
    )


@dataclass(frozen=True)
class Row:
    """A candidate: its settings, AUROC against every pseudo-outlier, the same on two halves of it, and on real sets."""

    label: str
    settings: dict[str, Any]
    pseudo: dict[str, float]
    halves: tuple[dict[str, float], dict[str, float]]
    real: dict[str, float]

    def value(self, criterion: list[list[str]], areas: Mapping[str, float]) -> float:
        """Mean over the groups of their means; sets that were not made (left-out classes of ImageNet) do not count."""
        groups = [[areas[name] for name in group if name in areas] for group in criterion]
        means = [sum(group) / len(group) for group in groups if group]
        return sum(means) / len(means) if means else float("nan")


def judge(
    setup: Setup, passes: Passes, detector: Detector, extra: Mapping[str, dict[str, Any]], leave_out: bool
) -> list[Row]:
    """Fit every candidate once and score everything by it."""
    head = passes.test.head
    choices = {f"grid {i}": c for i, c in enumerate(combinations(detector)[1:])} | dict(extra)
    built = [with_settings(detector, choice) for choice in choices.values()]
    generator, (ids, labels) = Generator().manual_seed(0), passes.held_out
    in_features = {name: make(ids, generator) for name, make in IN_FEATURE_SPACE.items()}
    main = Case(built, head, Trial(ids, {**passes.pseudo, **in_features}))
    left_out = []
    for fold in folds(head.num_classes, 0) if leave_out else []:
        trial = Trial(fold.inside(ids, labels)[0], {LEFT_OUT: fold.outside(ids, labels)})
        left_out.append(Case(built, fold.head(head), trial, fold))
    for case in (main, *left_out):
        case.update(*passes.fit)
    real = Trial(passes.test, passes.real)
    rows = []
    for i, (label, choice) in enumerate(choices.items()):
        candidate = with_settings(detector, choice)
        try:
            candidate.settle(main.requests[i], head)
            own, others = main.trial.scores(candidate)
            pseudo = {k: auroc(own.numpy(), v.numpy()) for k, v in others.items()}
            halves = tuple({k: auroc(own[h::2].numpy(), v[h::2].numpy()) for k, v in others.items()} for h in (0, 1))
            areas = real.areas(candidate)
            folded = [case.areas(with_settings(detector, choice), case.requests[i])[LEFT_OUT] for case in left_out]
        except OodlineError as error:
            print(f"left out {choice}: {error}")
            continue
        if folded:
            pseudo[LEFT_OUT] = sum(folded) / len(folded)
            for half in halves:
                half[LEFT_OUT] = pseudo[LEFT_OUT]
        rows.append(Row(label, dict(choice), pseudo, (halves[0], halves[1]), areas))
    return rows


def summary(setup: Setup, row: Row) -> dict[str, float]:
    """Near, far and mean AUROC in %, the mean over all sets."""
    near, far = [row.real[k] for k in setup.near], [row.real[k] for k in setup.far]
    return {
        **({"near": 100 * sum(near) / len(near)} if near else {}),
        "far": 100 * sum(far) / len(far),
        "mean": 100 * sum(near + far) / len(near + far),
    }


def choose(rows: list[Row], criterion: list[list[str]], half: int | None = None) -> Row | None:
    """The row that a criterion picks of the grid; None where none of its sets was made."""
    grid = [row for row in rows if row.label.startswith("grid")]
    values = [row.value(criterion, row.pseudo if half is None else row.halves[half]) for row in grid]
    return None if values[0] != values[0] else grid[max(range(len(grid)), key=values.__getitem__)]


def study_line(setup: Setup, passes: Passes) -> list[dict[str, Any]]:
    """Rows of the table: the oracle, every way to choose, the papers' settings."""
    line = create_detector(setup.line)
    keys = tuple(line.tunable)
    presets = {
        "paper's setting": create_detector(f"{setup.line},preset={setup.paper}"),
        "wrong paper's setting": create_detector(f"{setup.line},preset={setup.wrong}"),
        "p_a=p_w=0.1, clip=98% for all": create_detector(f"{setup.line},p_a=0.1,p_w=0.1,clip=98%"),
    }
    extra = {label: {key: d.settings[key] for key in keys} for label, d in presets.items()}
    rows = judge(setup, passes, line, extra, leave_out=passes.test.head.num_classes <= 100)
    grid = [row for row in rows if row.label.startswith("grid")]
    found = [("oracle, best mean", max(grid, key=lambda row: summary(setup, row)["mean"]))]
    found += [
        (f"oracle, best {side}", max(grid, key=lambda row: summary(setup, row)[side]))
        for side in ("near", "far")
        if getattr(setup, side)
    ]
    found += [(name, row) for name, criterion in CRITERIA.items() if (row := choose(rows, criterion)) is not None]
    default = CRITERIA["near + far (what `tune` does)"]
    found += [(f"near + far, on half {h + 1} of the held-out images", choose(rows, default, h)) for h in (0, 1)]
    found += [(row.label, row) for row in rows if not row.label.startswith("grid")]
    best = summary(setup, found[0][1])["mean"]
    return [
        {"way": way, "settings": row.settings, **(s := summary(setup, row)), "to oracle": s["mean"] - best}
        for way, row in found
    ]


def study_others(setup: Setup, passes: Passes) -> Iterator[dict[str, Any]]:
    """Other detectors: as they come, tuned by the same criterion, and their oracle."""
    for name in OTHERS:
        detector = create_detector(name)
        own = {key: detector.settings[key] for key in detector.tunable}
        rows = judge(setup, passes, detector, {"as it comes": own}, leave_out=False)
        grid = [row for row in rows if row.label.startswith("grid")]
        tuned = choose(rows, CRITERIA["near + far (what `tune` does)"])
        as_is = next((row for row in rows if row.label == "as it comes"), None)
        oracle = max(grid, key=lambda row: summary(setup, row)["mean"])
        yield {
            "detector": name,
            "as it comes": None if as_is is None else summary(setup, as_is)["mean"],
            "tuned": summary(setup, tuned)["mean"],
            "oracle": summary(setup, oracle)["mean"],
            "settings": tuned.settings,
        }


@app.default
def main(
    *,
    shared: Path = Path("../shared"),
    only: list[str] | None = None,
    output: Path | None = None,
    cache: Path | None = None,
    held_out: int = 500,
    test: int = 1000,
    ood: int = 400,
    as_json: Json = False,
) -> None:
    """Run the study.

    Parameters
    ----------
    shared
        Folder with `data`.
    only
        These classifiers only.
    output
        Write the tables to this Markdown file, below the text that it begins with.
    cache
        Keep activations in this folder, for a second run in seconds. Empty it when weights or code change.
    held_out, test, ood
        At most so many held-out images, ID test images, and images of each OOD set.
    as_json
        Print one JSON document in place of the tables.
    """
    warnings.simplefilter("ignore", FewSamplesWarning)
    found: dict[str, Any] = {}
    for name in only or SETUPS:
        started = perf_counter()
        passes = run_network(name, SETUPS[name], shared / "data", cache, (held_out, test, ood))
        seconds = perf_counter() - started
        sizes = {"fit": len(passes.fit[1]), "held-out": len(passes.held_out[1]), "test": len(passes.test)}
        sizes |= {key: len(activations) for key, activations in passes.real.items()}
        line, others = study_line(SETUPS[name], passes), list(study_others(SETUPS[name], passes))
        spent = {"passes": seconds, "candidates": perf_counter() - started - seconds}
        found[name] = {"sizes": sizes, "seconds": spent, "line": line, "others": others}
        if not as_json:
            print(page(name, found[name]), flush=True)
    if as_json:
        print_json(found)
    if output is not None:
        begin = output.read_text().partition(MARK)[0] if output.is_file() else ""
        output.write_text(begin + MARK + "\n\n" + "\n\n".join(page(name, part) for name, part in found.items()) + "\n")


MARK = "<!-- below: printed by benchmarks/tune_study.py -->"


def page(name: str, found: dict[str, Any]) -> str:
    """The tables of one classifier as Markdown."""
    sides = [side for side in ("near", "far", "mean") if side in found["line"][0]]
    checks = "" if SETUPS[name].chosen_on else ", not looked at when the criterion was chosen"
    lines = [f"## {name}{checks}", "", "Images: " + ", ".join(f"{k} {v}" for k, v in found["sizes"].items()) + ".", ""]
    lines += [
        f"| LINe's settings by | {' | '.join(sides)} | to the oracle | p_a, p_w, clip |",
        "|---" * (len(sides) + 3) + "|",
    ]
    for row in found["line"]:
        numbers = [f"{row[side]:.2f}" for side in sides] + [f"{row['to oracle']:+.2f}"]
        lines.append(
            f"| {row['way']} | {' | '.join(numbers)} | {', '.join(str(v) for v in row['settings'].values())} |"
        )
    lines += ["", "| mean AUROC of | as it comes | tuned | oracle | chosen |", "|---|---|---|---|---|"]
    for row in found["others"]:
        values = ["-" if row[k] is None else f"{row[k]:.2f}" for k in ("as it comes", "tuned", "oracle")]
        chosen = ", ".join(f"{k}={v}" for k, v in row["settings"].items())
        lines.append(f"| `{row['detector']}` | {' | '.join(values)} | {chosen} |")
    return "\n".join(lines)


if __name__ == "__main__":
    app()
