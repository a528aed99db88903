"""Settings without OOD data: what each way to choose LINe's settings reaches, beside an oracle and the papers' own.

    python -m benchmarks.studies.tune_study [--shared ../shared] [--output docs/results/tune.md] [--cache DIR]

The network runs once over the fit data, held-out ID data with all its pseudo-outliers, ID test data and the OOD sets.
The last two serve the columns of the table only: every way to choose sees the fit data and held-out ID data and nothing
else, but for the oracle, which takes the best of the grid on the OOD sets themselves.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from benchmarks.studies.tune_passes import SETUPS, Passes, Setup, run_network
from cyclopts import App
from torch import Generator

from oodline._util.files import write_atomically
from oodline.cli.options import Json, print_json
from oodline.detectors.base import Detector
from oodline.detectors.catalog import create_detector
from oodline.errors import FewSamplesWarning, OodlineError
from oodline.evaluation.metrics import auroc
from oodline.evaluation.rendering import markdown
from oodline.model.activations import Activations
from oodline.tuning.candidates import combinations, with_settings
from oodline.tuning.cases import Case
from oodline.tuning.feature_space import MADE_UP, strangers, with_features
from oodline.tuning.leave_classes_out import folds
from oodline.tuning.pseudo_outliers import FAR, NEAR
from oodline.tuning.trial import Trial


def crossed(ids: Activations, generator: Generator) -> Activations:
    """Each feature of a sample from itself or, by a coin, from one that is taken for another class."""
    own = torch.rand(ids.features.shape, generator=generator) < 0.5
    return with_features(ids, torch.where(own, ids.features, ids.features[strangers(ids, generator)]))


def halved(ids: Activations, generator: Generator) -> Activations:
    """Half of every feature: weak evidence."""
    return with_features(ids, ids.features / 2)


IN_FEATURE_SPACE: dict[str, Callable[[Activations, Generator], Activations]] = {
    **MADE_UP,
    "crossed features": crossed,
    "halved features": halved,
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
    "without images: mixed, uncoupled, left-out classes (what `tune` does then)": [[*MADE_UP, LEFT_OUT]],
    "mixed features": [["mixed features"]],
    "uncoupled features": [["uncoupled features"]],
    "crossed features": [["crossed features"]],
    "halved features": [["halved features"]],
    "uncoupled and halved features": [["uncoupled features", "halved features"]],
}

OTHERS = ("react", "dice", "ash-s", "scale", "knn", "gen", "vra")
"""Other detectors: whether the criterion, chosen for LINe, serves them too."""

app = App()


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
    choices = {f"grid {i}": c for i, c in enumerate(combinations(detector))} | dict(extra)
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
            candidate._settle(main.requests[i], head)
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
        rows = judge(setup, passes, detector, {}, leave_out=False)
        grid = [row for row in rows if row.label.startswith("grid")]
        tuned = choose(rows, CRITERIA["near + far (what `tune` does)"])
        as_is = next((row for row in rows if row.label == "grid 0"), None)
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
        text = begin + MARK + "\n\n" + "\n\n".join(page(name, part) for name, part in found.items()) + "\n"
        write_atomically(output, lambda file: file.write(text.encode()))


MARK = "<!-- below: printed by benchmarks/studies/tune_study.py -->"


def page(name: str, found: dict[str, Any]) -> str:
    """The tables of one classifier as Markdown."""
    sides = [side for side in ("near", "far", "mean") if side in found["line"][0]]
    checks = "" if SETUPS[name].chosen_on else ", not looked at when the criterion was chosen"
    lines = [f"## {name}{checks}", "", "Images: " + ", ".join(f"{k} {v}" for k, v in found["sizes"].items()) + ".", ""]
    line, others = [], []
    for row in found["line"]:
        numbers = [f"{row[side]:.2f}" for side in sides] + [f"{row['to oracle']:+.2f}"]
        line.append([row["way"], *numbers, ", ".join(str(v) for v in row["settings"].values())])
    for row in found["others"]:
        values = ["-" if row[k] is None else f"{row[k]:.2f}" for k in ("as it comes", "tuned", "oracle")]
        chosen = ", ".join(f"{key}={value}" for key, value in row["settings"].items())
        others.append([f"`{row['detector']}`", *values, chosen])
    lines += [*markdown(["LINe's settings by", *sides, "to the oracle", "p_a, p_w, clip"], line), ""]
    lines += markdown(["mean AUROC of", "as it comes", "tuned", "oracle", "chosen"], others)
    return "\n".join(lines)


if __name__ == "__main__":
    app()
