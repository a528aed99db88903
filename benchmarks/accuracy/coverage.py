"""False-alarm rates: promised, and measured on real scores split many times.

    python -m benchmarks.accuracy.coverage [--shared ../shared] [--splits 1000] [--json]

A DenseNet-100 is passed once over 5,000 CIFAR-10 test images, which LINe was not fitted on. Each split draws held-out
images to calibrate on, and counts which of the others are flagged. The promise speaks of the average over splits; the
spread says what one calibration may be off by.
"""

from __future__ import annotations

from pathlib import Path

import torch
from benchmarks._common import load_cifar
from cyclopts import App
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from oodline import Classifier, LINe
from oodline.cli.options import Json, print_json
from oodline.data import image_loader, open_images
from oodline.scoring.calibration import samples_needed
from oodline.scoring.class_calibration import calibrate_all
from oodline.scoring.score import Scores, score_all

RATES = (0.01, 0.05, 0.10)
CLASSES = 10

app = App()


@app.default
def main(*, shared: Path = Path("../shared"), splits: int = 1000, held_out: int = 2000, as_json: Json = False) -> None:
    """Fit, score once, split many times.

    Parameters
    ----------
    shared
        Folder with `data`.
    splits
        Random splits for each rate.
    held_out
        Images to calibrate on; the rest are new.
    as_json
        Print one JSON document in place of the table.
    """
    [found] = line_scores(shared / "data", "cifar10/test")
    rows = [
        {"promised": rate, "by": by, **measure(found, rate, by, splits, held_out)}
        for rate in RATES
        for by in ("all", "predicted")
    ]
    if as_json:
        print_json({"rows": rows, "splits": splits, "held_out": held_out, "new": len(found.predicted) - held_out})
        return
    table = Table("promised", "by", "measured", "5 to 95 %", "least class", "most class", box=SIMPLE_HEAD)
    for row in rows:
        spread = f"{row['low']:.2%} to {row['high']:.2%}"
        classes = [f"{row[end]['rate']:.2%} ({row[end]['class']})" for end in ("lowest", "highest")]
        table.add_row(f"{row['promised']:.0%}", row["by"], f"{row['measured']:.3%}", spread, *classes)
    Console().print(table)
    print(f"{splits} splits of {len(found.predicted)} CIFAR-10 test images, {held_out} held out and the rest new.")
    needed = {f"{rate:.0%}": samples_needed(rate) for rate in RATES}
    print("Fewest held-out images for a rate: " + ", ".join(f"{n} for {rate}" for rate, n in needed.items()))


def line_scores(data: Path, *names: str) -> list[Scores]:
    """LINe on a DenseNet-100, fitted on CIFAR-10 training images: one pass over each data set."""
    loaded = load_cifar(data / "checkpoints", "densenet100")
    classifier = Classifier(loaded.model)

    def load(name: str):
        return image_loader(open_images(data / f"{name}.parquet"), loaded.preprocessing)

    detector = LINe.preset("cifar10-densenet100").fit(classifier, load("cifar10/train"), progress=True)
    return [score_all(detector, classifier, load(name), progress=True) for name in names]


def measure(found: Scores, rate: float, by: str, splits: int, held_out: int) -> dict[str, object]:
    """Rates of false alarms: mean and spread over splits, and of the classes that are flagged least and most."""
    scores, predicted = found.scores["line"], found.predicted
    generator = torch.Generator().manual_seed(0)
    rates, flagged, seen = [], torch.zeros(CLASSES), torch.zeros(CLASSES)
    for _ in range(splits):
        order = torch.randperm(len(scores), generator=generator)
        old, new = order[:held_out], order[held_out:]
        part = Scores({"line": scores[old]}, predicted[old], old, found.content[old], None, {})
        flags = calibrate_all(part, CLASSES, rate, by)["line"].is_ood(scores[new], predicted[new])
        rates.append(float(flags.double().mean()))
        flagged += torch.bincount(predicted[new], flags.float(), minlength=CLASSES)
        seen += torch.bincount(predicted[new], minlength=CLASSES)
    each = torch.tensor(rates)
    by_class = flagged / seen
    ends = {"lowest": int(by_class.argmin()), "highest": int(by_class.argmax())}
    return {
        "measured": float(each.mean()),
        "low": float(each.quantile(0.05)),
        "high": float(each.quantile(0.95)),
        **{end: {"class": c, "rate": float(by_class[c])} for end, c in ends.items()},
        "classes": by_class.tolist(),
    }


if __name__ == "__main__":
    app()
