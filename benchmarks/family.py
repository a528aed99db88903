"""Every detector of the catalog on real classifiers: two DenseNets for CIFAR, a MobileNetV2 for ImageNet.

    python benchmarks/family.py [cifar10] [cifar100] [imagenet] [--shared ../shared] [--limit 1000] [--json]

One pass over the training images fits all of them, and one pass over each data set scores all of them; those that run
the classifier again do so in their own part. Settings are those of the paper that fit the classifier best, by the
preset's name, else the defaults; no OOD image chose any.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Literal

from cyclopts import App
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as Printed

from oodline import Classifier, Detector, FitError, fit
from oodline.cli.options import Json, print_json
from oodline.data import image_loader, open_images
from oodline.detectors.catalog import CATALOG, create_detector, detector_class
from oodline.evaluation.evaluate import Table, evaluate
from oodline.evaluation.published import published_tables
from oodline.preprocessing import Preprocessing
from oodline.scoring import unreadable
from oodline.zoo import load_model

CIFAR = Path(__file__).parents[1] / "examples" / "cifar_models.py"
SHARED = ("svhn", "textures")
"""OOD sets of the papers' CIFAR tables that are here."""
SMALL = ("svhn", "textures", "scenes", "mnist")


@dataclass(frozen=True)
class Case:
    """A classifier with its data; paths are relative to the folder of data."""

    model: str
    weights: str
    train: str
    test: str
    near: Mapping[str, str]
    far: tuple[str, ...]
    presets: tuple[str, ...]
    """Names of presets, the closest to this classifier first."""
    settings: Mapping[str, str]
    """Detectors that need something else here, as references."""
    preprocessing: Preprocessing | None = None
    label_offset: int = 0


NEAR_TINY = {"tiny_imagenet": "ood/tiny_imagenet.parquet"}
CASES = {
    "cifar10": Case(
        model=f"python:{CIFAR}:densenet100",
        weights="densenet100_cifar10",
        train="cifar10/train.parquet",
        test="cifar10/test.parquet",
        near={"cifar100": "cifar100/test.parquet", **NEAR_TINY},
        far=SMALL,
        presets=(
            "cifar10-resnet18-penultimate",
            "cifar10-densenet100",
            "cifar-densenet100",
            "cifar10",
            "cifar10-resnet18",
        ),
        settings={},
    ),
    "cifar100": Case(
        model=f"python:{CIFAR}:densenet100,num_classes=100",
        weights="densenet100_cifar100",
        train="cifar100/train.parquet",
        test="cifar100/test.parquet",
        near={"cifar10": "cifar10/test.parquet", **NEAR_TINY},
        far=SMALL,
        presets=(
            "cifar100-resnet18-penultimate",
            "cifar100-densenet100",
            "cifar-densenet100",
            "cifar100",
            "cifar100-resnet18",
        ),
        settings={},
    ),
    "imagenet": Case(
        model="timm:mobilenetv2_100,num_classes=1001,pad_type=same",
        weights="mobilenetv2_imagenet",
        train="imagenet/sample.parquet",
        test="imagenet/val.parquet",
        near={},
        far=("textures", "scenes"),
        presets=("imagenet-resnet50-penultimate", "imagenet-mobilenetv2", "imagenet-resnet50", "imagenet"),
        # the background class has no image; k = 1000 of 1.28 million images is k = 1 of 1,000
        settings={
            "line": "line,unseen=dense",
            "knn": "knn,k=1",
            "fuse": "fuse,detectors=line:clip=98%:unseen=dense+gen+fdbd+vim",
        },
        preprocessing=Preprocessing(resize=224, crop=224, mean=(0.5,) * 3, std=(0.5,) * 3),
        label_offset=1,
    ),
}

app = App()


@app.default
def main(
    *names: Literal["cifar10", "cifar100", "imagenet"],
    shared: Path = Path("../shared"),
    limit: int | None = None,
    as_json: Json = False,
) -> None:
    """Fit, evaluate and print.

    Parameters
    ----------
    names
        Which classifiers; all three without any.
    shared
        Folder with `data`.
    limit
        Read only the first so many test images of each set.
    as_json
        Print one JSON document in place of the tables.
    """
    found = {name: measure(CASES[name], shared / "data", limit) for name in names or CASES}
    if as_json:
        print_json(found)
        return
    for name, result in found.items():
        show(name, result)


def detectors_for(case: Case) -> dict[str, Detector]:
    """Every detector, with the settings that its paper states for the classifier nearest to this one."""
    references = {}
    for name in CATALOG:
        known = [preset for preset in case.presets if preset in detector_class(name).presets]
        references[name] = case.settings.get(name, f"{name},preset={known[0]}" if known else name)
    return {name: create_detector(reference) for name, reference in references.items()}


def measure(case: Case, data: Path, limit: int | None) -> dict:
    """Fit all in one pass and evaluate all in one pass a data set."""
    loaded = load_model(case.model, data / "checkpoints" / f"{case.weights}.safetensors")
    classifier = Classifier(loaded.model)
    preprocessing = case.preprocessing or loaded.preprocessing

    def load(path: str, limit: int | None = None):
        source = open_images(data / path)
        return image_loader(source, preprocessing, limit=limit, label_offset=case.label_offset)

    detectors = detectors_for(case)
    train = load(case.train)
    failures = {name: str(reason) for name, reason in unreadable(detectors, classifier, train).items()}
    started = perf_counter()
    try:
        fit([d for name, d in detectors.items() if name not in failures], classifier, train, progress=True)
    except FitError as error:
        failures |= {name: str(reason) for name, reason in error.failures.items()}
    fitted = perf_counter() - started
    able = {name: detector for name, detector in detectors.items() if name not in failures}
    ood = {name: load(path, limit) for name, path in case.near.items()}
    ood |= {name: load(f"ood/{name}.parquet", limit) for name in case.far}
    started = perf_counter()
    table = evaluate(able, classifier, load(case.test, limit), ood, progress=True)
    return {
        "rows": [row_of(table, name, repr(able[name]), case) for name in able],
        "failures": failures,
        "fit_seconds": fitted,
        "evaluate_seconds": perf_counter() - started,
        "images": train.num_samples + table.cells[next(iter(able))][case.far[0]].n_id,
    }


def row_of(table: Table, name: str, settings: str, case: Case) -> dict:
    """Means over the near, the far and all OOD sets, in %."""
    groups = {"near": list(case.near), "far": list(case.far), "all": [*case.near, *case.far]}

    def mean(metric: str, sets: list[str]) -> float | None:
        return 100 * sum(table.value(name, metric, s) for s in sets) / len(sets) if sets else None

    return {
        "detector": name,
        "settings": settings,
        **{f"auroc_{group}": mean("auroc", sets) for group, sets in groups.items()},
        "fpr95_id_positive": mean("fpr95_id_positive", groups["all"]),
        "fpr95_ood_positive": mean("fpr95_ood_positive", groups["all"]),
        "milliseconds": table.milliseconds[name],
        "sets": {s: {m: table.value(name, m, s) for m in ("auroc", "fpr95_id_positive")} for s in groups["all"]},
    }


COLUMNS = {
    "auroc_near": "AUROC near",
    "auroc_far": "far",
    "auroc_all": "all",
    "fpr95_id_positive": "FPR@95 ID pos.",
    "fpr95_ood_positive": "OOD pos.",
}


def show(name: str, result: dict) -> None:
    """Print one classifier's table, the best mean AUROC first."""
    printed = Printed("detector", *COLUMNS.values(), "ms an image", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title=name)
    for row in sorted(result["rows"], key=lambda row: -row["auroc_all"]):
        values = [row[key] for key in COLUMNS]
        numbers = ["" if value is None else f"{value:.2f}" for value in values]
        printed.add_row(row["detector"], *numbers, f"{row['milliseconds']:.3f}")
    Console(width=100).print(printed)
    for method, reason in result["failures"].items():
        print(f"left out {method}: {reason}")
    print(f"fitted all in {result['fit_seconds']:.0f} s, evaluated all in {result['evaluate_seconds']:.0f} s\n")
    show_published(name, result["rows"])


def show_published(name: str, rows: list[dict]) -> None:
    """Print what papers printed for this ID set and this network, beside ours on those of their OOD sets that we have.

    Their averages are over sets that are not all here, and with other numbers of images: nearness means something,
    equality nothing.
    """
    ours = {row["detector"]: row["sets"] for row in rows}
    printed = Printed("detector", "published", "over", "ours", *SHARED, "source", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    printed.title = f"{name}: FPR@95 ID pos. / AUROC, published averages beside ours over {' and '.join(SHARED)}"
    for table in published_tables():
        if (table.id, table.network) != (name, "densenet100"):
            continue
        over = f"{len(table.sets)} sets, {len(set(table.sets) - set(SHARED))} not here" if table.sets else "not known"
        for method, values in table.means.items():
            if method in ours:
                pairs = [ours[method][s] for s in SHARED]
                mean = {m: sum(pair[m] for pair in pairs) / len(pairs) for m in ("fpr95_id_positive", "auroc")}
                cells = [f"{100 * p['fpr95_id_positive']:.2f} / {100 * p['auroc']:.2f}" for p in (mean, *pairs)]
                source = f"arXiv {table.arxiv} ({table.certainty})"
                printed.add_row(method, " / ".join(f"{v:.2f}" for v in values.values()), over, *cells, source)
    if printed.rows:
        Console(width=120).print(printed)


if __name__ == "__main__":
    app()
