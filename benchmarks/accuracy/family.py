"""Every detector of the catalog and the default that fuses four of them, on five real classifiers, with intervals.

    python -m benchmarks.accuracy.family [cifar10] [cifar100] [imagenet] [resnet20] [clinc150] [--limit 1000]
    [--only NAME] [--json]

One pass over the training data fits all of them, and one pass over each data set scores all of them; those that run
the classifier again do so in their own part. Settings are those of the paper that fit the classifier best, by the
preset's name, else the defaults; no OOD input chose any. The p-values of `fuse` are taken against held-out data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np
import torch
from benchmarks._common import load_example
from benchmarks.studies.tune_passes import SETUPS, held_out_rows, open_setup, test_rows
from cyclopts import App
from torch import Tensor

from oodline import Classifier, Detector, Fuse, fit
from oodline.cli.options import Json, print_json
from oodline.detectors.catalog import CATALOG, create_detector, detector_class
from oodline.evaluation.bootstrap import Bootstrap
from oodline.evaluation.evaluate import Table, score_sets, tabulate_sets
from oodline.evaluation.published import published_tables
from oodline.evaluation.rendering import markdown
from oodline.evaluation.scored_sets import ScoredSets
from oodline.scoring.score import score_all

SHARED = ("svhn", "textures")
"""OOD sets of the papers' CIFAR tables that are here."""
LARGEST = (4000, 2000, 1000)
"""Test samples, OOD samples of each set and held-out samples at most."""
BOOTSTRAP = Bootstrap(resamples=500)

app = App()


@dataclass(frozen=True)
class Sets:
    """A classifier with the data that its detectors are fitted on, compared with, and meet."""

    classifier: Classifier
    train: Any
    held_out: Iterable[Any]
    test: Iterable[Any]
    near: Mapping[str, Iterable[Any]]
    far: Mapping[str, Iterable[Any]]


@dataclass(frozen=True)
class Case:
    """How to open the data of a classifier, and which settings suit it."""

    open: Callable[[Path, int | None], Sets]
    presets: tuple[str, ...] = ()
    """Names of presets, the closest to this classifier first."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Detectors that need something else here, as references."""


def images(name: str, data: Path, limit: int | None) -> Sets:
    """A classifier of `tune_passes`, with the parts of its data that the study of `Fuse` reads."""
    setup = SETUPS[name]
    classifier, load = open_setup(name, setup, data)
    n_test, n_ood, n_held = (size if limit is None else min(size, limit) for size in LARGEST)

    def out_of_distribution(paths: Sequence[str]) -> dict[str, Any]:
        return {path.removeprefix("ood/").removesuffix("/test"): load(path, 0, n_ood) for path in paths}

    return Sets(
        classifier,
        load(setup.fit),
        load(*held_out_rows(setup, n_held)),
        load(*test_rows(setup, n_test)),
        out_of_distribution(setup.near),
        out_of_distribution(setup.far),
    )


def queries(data: Path, limit: int | None) -> Sets:
    """The text classifier of examples/clinc150.py, trained here; its out-of-scope queries are near."""
    example = load_example("clinc150")
    torch.manual_seed(0)
    sets = example.read(data / "text" / "clinc150.json")
    vocabulary, classes = (int(sets["train"].columns[name].max()) for name in ("terms", "labels"))
    model = example.train(example.IntentClassifier(vocabulary, intents=classes + 1), sets["train"], 10)

    def drawn(split: str, most: int) -> list[dict[str, Tensor]]:
        size = min(sets[split].size, most if limit is None else min(most, limit))
        return [sets[split].batch(rows) for rows in torch.randperm(sets[split].size)[:size].split(256)]

    n_test, n_ood, n_held = LARGEST
    near = {"oos_test": drawn("oos_test", n_ood)}
    return Sets(Classifier(model), sets["train"], drawn("val", n_held), drawn("test", n_test), near, {})


CASES = {
    "cifar10": Case(
        partial(images, "densenet100_cifar10"),
        ("cifar10-resnet18-penultimate", "cifar10-densenet100", "cifar-densenet100", "cifar10", "cifar10-resnet18"),
    ),
    "cifar100": Case(
        partial(images, "densenet100_cifar100"),
        (
            "cifar100-resnet18-penultimate",
            "cifar100-densenet100",
            "cifar-densenet100",
            "cifar100",
            "cifar100-resnet18",
        ),
    ),
    "imagenet": Case(
        partial(images, "mobilenetv2_imagenet"),
        ("imagenet-resnet50-penultimate", "imagenet-mobilenetv2", "imagenet-resnet50", "imagenet"),
        # the background class has no image; k = 1000 of 1.28 million images is k = 1 of 1,000
        {
            "line": "line,unseen=dense",
            "soft-line": "soft-line,unseen=dense",
            "knn": "knn,k=1",
            "fuse": "fuse,detectors=line:clip=98%:unseen=dense+fdbd+vim+nci",
        },
    ),
    "resnet20": Case(
        partial(images, "resnet20_cifar10"),
        ("cifar10-resnet18-penultimate", "cifar10-resnet18", "cifar10"),
        # no paper has this network: the clip as a percentile, since features have another scale
        {"line": "line,clip=98%"},
    ),
    "clinc150": Case(queries, (), {"line": "line,p_a=0.1,p_w=0.1,clip=90%"}),
}


@app.default
def main(
    *names: Literal["cifar10", "cifar100", "imagenet", "resnet20", "clinc150"],
    shared: Path = Path("../shared"),
    limit: int | None = None,
    only: tuple[str, ...] = (),
    as_json: Json = False,
) -> None:
    """Fit, evaluate and print.

    Parameters
    ----------
    names
        Which classifiers; all five without any.
    shared
        Folder with `data`.
    limit
        At most so many samples of each set but the training set.
    only
        These detectors alone; no row depends on the others.
    as_json
        Print one JSON document in place of the tables.
    """
    found = {}
    for name in names or CASES:
        found[name] = measure(CASES[name], shared / "data", limit, only)
        if not as_json:
            print(page(name, found[name]), flush=True)
    if as_json:
        print_json(found)


def detectors_for(case: Case, only: Sequence[str] = ()) -> dict[str, Detector]:
    """Every detector, or some, with the settings that its paper states for the classifier nearest to this one."""
    references = {}
    for name in only or CATALOG:
        known = [preset for preset in case.presets if preset in detector_class(name).presets]
        references[name] = case.settings.get(name, f"{name},preset={known[0]}" if known else name)
    return {name: create_detector(reference) for name, reference in references.items()}


def measure(case: Case, data: Path, limit: int | None, only: Sequence[str] = ()) -> dict[str, Any]:
    """Fit all in one pass and evaluate all in one pass a data set."""
    sets, started = case.open(data, limit), perf_counter()
    found = fit(detectors_for(case, only), sets.classifier, sets.train, on_failure="skip")
    tried = score_all(found.detectors, sets.classifier, [next(iter(sets.train))], on_failure="skip")
    able = {name: found.detectors[name] for name in tried.scores}
    failures = {name: str(error) for name, error in (found.failures | tried.failures).items()}
    fuse = able.get("fuse")
    if isinstance(fuse, Fuse):
        fuse.set_reference(sets.classifier, sets.held_out, progress=True)
    fitted, started = perf_counter() - started, perf_counter()
    groups = {group: list(names) for group, names in (("near", sets.near), ("far", sets.far)) if names}
    ood = {**sets.near, **sets.far}
    scored = score_sets(able, sets.classifier, sets.test, ood, groups=groups, progress=True)
    seconds = perf_counter() - started
    table = tabulate_sets(scored, bootstrap=BOOTSTRAP)
    rows = [row_of(table, name, repr(able[name])) for name in able]
    return {
        "rows": sorted(rows, key=lambda row: -list(row["auroc"].values())[-1][0]),
        "samples": {"id": len(scored.id.index), **{name: len(part.index) for name, part in scored.ood.items()}},
        "fused": against_singles(scored, table) if len(able) > 1 and fuse is not None else {},
        "failures": failures,
        "fit_seconds": fitted,
        "evaluate_seconds": seconds,
    }


def means(table: Table) -> dict[str, Sequence[str]]:
    """OOD sets over which there is a mean: near, far, and both where there are both."""
    return {**table.groups, "all": table.ood_sets} if len(table.groups) > 1 else dict(table.groups)


def row_of(table: Table, name: str, settings: str) -> dict[str, Any]:
    """One detector's means and sets: AUROC in % with the ends of its interval, FPR@95 in %."""

    def percent(metric: str, names: Sequence[str]) -> float:
        return 100 * float(np.mean([table.value(name, metric, s) for s in names]))

    def with_interval(names: Sequence[str]) -> list[float]:
        column = next(column for column in (*table.columns, table.all_sets) if column.sets == tuple(names))
        interval = table.interval(name, "auroc", column)
        assert interval is not None
        return [percent("auroc", names), 100 * interval.low, 100 * interval.high]

    groups = means(table)
    return {
        "detector": name,
        "settings": settings,
        "auroc": {group: with_interval(names) for group, names in groups.items()},
        "sets": {s: {"auroc": with_interval([s]), "fpr95": percent("fpr95_id_positive", [s])} for s in table.ood_sets},
        "fpr95_id_positive": percent("fpr95_id_positive", table.ood_sets),
        "fpr95_ood_positive": percent("fpr95_ood_positive", table.ood_sets),
        "milliseconds": table.milliseconds[name],
    }


def against_singles(scored: ScoredSets, table: Table) -> dict[str, Any]:
    """The fused default less the best single method, in points of AUROC: on each side, and on every set by itself.

    `oracle` is the mean, over the sets of a side, of the best single method on each: nobody could choose so.
    """
    singles = [name for name in table.cells if name != "fuse"]

    def drawn(name: str) -> dict[str, np.ndarray]:
        theirs = {s: part.scores[name] for s, part in scored.ood.items()}
        return {s: values["auroc"] for s, values in BOOTSTRAP.resample(scored.id.scores[name], theirs).items()}

    ours, found = drawn("fuse"), {}
    for side, sets in means(table).items():

        def mean(name: str, sets: Sequence[str] = sets) -> float:
            return 100 * float(np.mean([table.value(name, "auroc", s) for s in sets]))

        best = max(singles, key=mean)
        theirs = drawn(best)
        interval = BOOTSTRAP.interval(100 * np.mean([ours[s] - theirs[s] for s in sets], axis=0))
        oracle = 100 * float(np.mean([max(table.value(name, "auroc", s) for name in singles) for s in sets]))
        gain = mean("fuse") - mean(best)
        found[side] = {"best": best, "gain": gain, "interval": [interval.low, interval.high], "oracle": oracle}
        found[side]["oracle_gain"] = oracle - mean(best)
    return found


def page(name: str, result: Mapping[str, Any]) -> str:
    """One classifier's tables as Markdown, the best mean AUROC first."""
    rows, sizes = result["rows"], result["samples"]
    groups, sets = list(rows[0]["auroc"]), list(rows[0]["sets"])
    cells = []
    for row in rows:
        intervals = [f"{value:.2f} ({low:.1f}, {high:.1f})" for value, low, high in row["auroc"].values()]
        by_set = [f"{values['auroc'][0]:.1f}" for values in row["sets"].values()] if len(sets) > 1 else []
        rest = [row["fpr95_id_positive"], row["fpr95_ood_positive"]]
        label = f"**{row['detector']}**" if row["detector"] == "fuse" else row["detector"]
        cells.append([label, *intervals, *by_set, *(f"{v:.1f}" for v in rest), f"{row['milliseconds']:.3f}"])
    head = ["detector", *(f"AUROC {group}" for group in groups), *(sets if len(sets) > 1 else [])]
    lines = [f"## {name}", "", "Samples: " + ", ".join(f"{s} {n}" for s, n in sizes.items()) + ".", ""]
    lines += markdown([*head, "FPR@95 ID positive", "OOD positive", "ms per sample"], cells)
    if result["fused"]:
        lines += ["", "Fused less the best single method, which nobody knows beforehand: "]
        lines[-1] += "; ".join(
            f"{side} {g['gain']:+.2f} ({g['interval'][0]:+.2f}, {g['interval'][1]:+.2f}; {g['best']})"
            for side, g in result["fused"].items()
        )
        whole = list(result["fused"].values())[-1]
        lines[-1] += f". An oracle that takes the best single method for each set by itself: {whole['oracle']:.2f}, "
        lines[-1] += f"{whole['oracle_gain']:+.2f} to the best single mean."
    lines += [f"\nLeft out: {k}: {v}" for k, v in result["failures"].items()]
    lines += ["", f"Fitted all in {result['fit_seconds']:.0f} s, evaluated all in {result['evaluate_seconds']:.0f} s."]
    lines += published(name, rows)
    return "\n".join([*lines, ""])


def published(name: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What papers printed for this ID set and this network, beside ours on those of their OOD sets that we have.

    Their averages are over sets that are not all here, and with other numbers of images: nearness means something,
    equality nothing.
    """
    ours, cells = {row["detector"]: row["sets"] for row in rows}, []
    for table in published_tables():
        if (table.id, table.network) != (name, "densenet100"):
            continue
        over = f"{len(table.sets)} sets, {len(set(table.sets) - set(SHARED))} not here" if table.sets else "not known"
        for method, values in table.means.items():
            if method in ours:
                pairs = [(ours[method][s]["fpr95"], ours[method][s]["auroc"][0]) for s in SHARED]
                shown = [f"{fpr:.2f} / {auroc:.2f}" for fpr, auroc in (tuple(np.mean(pairs, axis=0)), *pairs)]
                source = f"arXiv {table.arxiv} ({table.certainty})"
                cells.append([method, " / ".join(f"{v:.2f}" for v in values.values()), over, *shown, source])
    if not cells:
        return []
    title = f"FPR@95 ID positive / AUROC, published averages beside ours over {' and '.join(SHARED)}:"
    return ["", title, "", *markdown(["detector", "published", "over", "ours", *SHARED, "source"], cells)]


if __name__ == "__main__":
    app()
