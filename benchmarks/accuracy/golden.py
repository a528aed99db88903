"""Our tables beside the golden one, on the DenseNet checkpoints of the DICE and LINe papers.

    python -m benchmarks.accuracy.golden [--shared ../shared] [--json]

Each classifier is fitted on 5,000 training images in one pass for all methods, and every data set is passed once. The
golden table was made by independent float64 code on the same images; see its README.
"""

from __future__ import annotations

import csv
from pathlib import Path

from benchmarks._common import load_cifar
from cyclopts import App
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from oodline import Classifier, evaluate, fit
from oodline.cli.options import Json, print_json
from oodline.data import image_loader, open_images
from oodline.detectors.catalog import create_detector

METRICS = ("fpr95_id_positive", "fpr95_ood_positive", "auroc")
LINE = {"cifar10": "line,p_a=0.9,p_w=0.9,clip=1.0", "cifar100": "line,p_a=0.1,p_w=0.9,clip=1.0"}
LIMITS = {"cifar10": (None, None), "cifar100": (1000, 400)}
"""How many ID and OOD images the golden table was made of."""

app = App()


@app.default
def main(*, shared: Path = Path("../shared"), as_json: Json = False) -> None:
    """Fit, evaluate and compare.

    Parameters
    ----------
    shared
        Folder with `data` and `golden`.
    as_json
        Print one JSON document in place of the table.
    """
    with (shared / "golden" / "table.csv").open() as file:
        golden = list(csv.DictReader(file))
    rows = []
    for name in ("cifar10", "cifar100"):
        ours = measure(name, shared / "data")
        for row in golden:
            if row["classifier"] != name:
                continue
            for metric in METRICS:
                value = 100 * ours.value(row["method"], metric, row["ood"])
                theirs = float(row[metric])
                rows.append({**row, "metric": metric, "ours": value, "golden": theirs, "difference": value - theirs})
    rows = [{k: v for k, v in row.items() if k not in METRICS} for row in rows]
    if as_json:
        print_json({"rows": rows})
        return
    table = Table("classifier", "method", "OOD", "metric", "ours", "golden", "diff.", box=SIMPLE_HEAD)
    for row in rows:
        numbers = [f"{row['ours']:.2f}", f"{row['golden']:.2f}", f"{row['difference']:+.2f}"]
        table.add_row(row["classifier"], row["method"], row["ood"], row["metric"], *numbers)
    Console().print(table)
    for method in dict.fromkeys(row["method"] for row in rows):
        largest = max((row for row in rows if row["method"] == method), key=lambda row: abs(row["difference"]))
        print(f"{method:16} largest difference {largest['difference']:+.3f} points of {largest['metric']}")


def measure(name: str, data: Path):
    """Fit on the training images and evaluate on the images that the golden table was made of."""
    loaded = load_cifar(data / "checkpoints", "densenet100", int(name.removeprefix("cifar")))
    classifier = Classifier(loaded.model)
    detectors = {
        "msp": create_detector("msp"),
        "energy": create_detector("energy"),
        "react_p90": create_detector("react,clip=90%"),
        "dice_p90": create_detector("dice,p=0.9"),
        "line": create_detector(LINE[name]),
        "line_absolute": create_detector(f"{LINE[name]},contribution=absolute"),
        "line_full_route": create_detector(f"{LINE[name]},route=full"),
    }
    id_limit, ood_limit = LIMITS[name]
    near = {"cifar10": "cifar100", "cifar100": "cifar10"}[name]
    paths = {near: data / near / "test.parquet"}
    paths |= {s: data / "ood" / f"{s}.parquet" for s in ("svhn", "textures", "scenes", "tiny_imagenet", "mnist")}

    def load(path: Path, limit: int | None = None):
        return image_loader(open_images(path), loaded.preprocessing, limit=limit)

    fit(list(detectors.values()), classifier, load(data / name / "train.parquet"), progress=True)
    detectors["line_fit5000"] = detectors["line"]
    ood = {name: load(path, ood_limit) for name, path in paths.items()}
    return evaluate(detectors, classifier, load(data / name / "test.parquet", id_limit), ood, progress=True)


if __name__ == "__main__":
    app()
