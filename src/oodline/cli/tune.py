"""`oodline tune`: choose a detector's settings from ID data alone."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from oodline._util.digests import checksum
from oodline._util.files import check_writable
from oodline.cli.checks import check_data, check_detectors, check_least, check_model, check_reading, load_detectors
from oodline.cli.options import (
    DataOptions,
    DetectorsFrom,
    Json,
    ModelOptions,
    load_classifier,
    open_loader,
    print_json,
    report_skipped,
    table_console,
)
from oodline.cli.parameters import DETECTOR, OUTPUT
from oodline.cli.printing import say
from oodline.cli.running import RunOptions
from oodline.errors import SettingError

if TYPE_CHECKING:
    from oodline.data import ImageSource, TensorSample, TensorSource, TextSource
    from oodline.detectors.base import Detector
    from oodline.tuning.search import Tuned

_MODEL, _DATA, _RUN = ModelOptions(), DataOptions(), RunOptions()


def tune(
    *,
    data: str,
    held_out: str,
    output: Annotated[Path | None, OUTPUT] = None,
    detector: Annotated[str, DETECTOR] = "line",
    try_: Annotated[list[str] | None, Parameter(name="--try", negative="")] = None,
    held_out_limit: int = 1000,
    seed: int = 0,
    model: ModelOptions = _MODEL,
    reading: DataOptions = _DATA,
    running: RunOptions = _RUN,
    detectors_from: DetectorsFrom = None,
    json: Json = False,
) -> None:
    """Choose a detector's settings from ID data alone; no OOD data is read.

    Pseudo-outliers are made from held-out images: near ones (rotated, blended, parts of several) and far ones
    (magnified, blurred, noisy, shuffled). All combinations of settings are fitted in one pass over the training data;
    the one whose scores separate held-out images from pseudo-outliers best is chosen.

    Parameters
    ----------
    data
        ID training data with labels, in any form that `oodline fit` accepts.
    held_out
        ID data that the model was not trained on, such as a validation split.
    output
        Also write the chosen settings, all candidates, and which data was read to this JSON file.
    detector
        A detector, with settings that are to stay fixed: line,contribution=absolute.
    try_
        Values to try for one setting: p_a=0.1,0.5,0.9; repeat for several settings. If omitted, the detector's default
        search grid.
    held_out_limit
        Use at most this many held-out images, evenly spaced over the data set.
    seed
        Random seed for the pseudo-outliers and the choice of images.
    json
        Print one JSON document on standard output and nothing else.
    """
    check_reading(reading)
    check_least("--held-out-limit", held_out_limit, 2)
    check_least("--seed", seed, 0)
    load_detectors(detectors_from)
    check_detectors([detector])
    grid = _grid(try_ or [])
    check_model(model)
    check_data(data, held_out)
    if output is not None:
        check_writable(output)

    from oodline._util.files import write_atomically
    from oodline.data import TensorLoader, TensorSample, TensorSource, TextLoader, image_loader, sample
    from oodline.detectors.catalog import create_detector
    from oodline.tuning.search import tune as search

    running.show_warnings()
    wanted = create_detector(detector)
    if not grid and not wanted.tunable:
        raise SettingError(_nothing_to_try(wanted))
    loaded = load_classifier(model, data=data, running=running)
    fit_loader = open_loader(data, loaded, reading, class_names=loaded.class_names)
    theirs = fit_loader.source.class_names or loaded.class_names
    held_out_loader = open_loader(held_out, loaded, reading, class_names=theirs)
    source = held_out_loader.source
    if isinstance(held_out_loader, TensorLoader):
        assert isinstance(held_out_loader.source, TensorSource)
        picked = TensorSample(held_out_loader.source, held_out_limit, seed)
        held_out_loader = TensorLoader(picked, reading.batch_size, label_offset=reading.label_offset)
    elif isinstance(held_out_loader, TextLoader):
        held_out_loader = TextLoader(
            sample(held_out_loader.source, held_out_limit, seed),
            held_out_loader.preprocessing,
            reading.batch_size,
            on_error=reading.on_error,
            label_offset=reading.label_offset,
        )
    else:
        held_out_loader = image_loader(
            sample(held_out_loader.source, held_out_limit, seed),
            held_out_loader.dataset.preprocessing,
            batch_size=reading.batch_size,
            workers=reading.workers,
            on_error=reading.on_error,
            label_offset=reading.label_offset,
        )
    tuned = search(
        wanted,
        loaded.classifier,
        fit_loader,
        held_out_loader,
        grid={**wanted.tunable, **grid} if grid else None,
        limit=held_out_limit,
        seed=seed,
        progress=running.progress,
    )
    skipped = report_skipped({"data": fit_loader, "held-out": held_out_loader}, running)
    document = {
        **describe(tuned),
        "model": {
            "reference": loaded.reference,
            "weights": loaded.weights,
            "weights_sha256": None if loaded.weights is None else checksum(loaded.weights),
            "head_sha256": loaded.classifier.head.fingerprint,
        },
        "data": {
            "fit": {"source": data, **asdict(tuned.fit_data), "files": _files(fit_loader.source)},
            "held_out": {"source": held_out, **asdict(tuned.held_out_data), "files": _files(source)},
            "ood": [],
        },
        "skipped": skipped,
    }
    if output is not None:
        text = _dump(document)
        write_atomically(output, lambda file: file.write(text.encode()))
    if json:
        print_json(document)
        return
    print_table(tuned)
    say(f"\nchosen: --detector {tuned.reference}")
    for note in tuned.notes:
        say(note)
    say(f"from {tuned.fit_data.samples} training and {tuned.held_out_data.samples} held-out images, and no OOD image")
    if output is not None:
        say(f"wrote {output}")


def describe(tuned: Tuned) -> dict[str, Any]:
    """Chosen settings and all candidates, ready for JSON."""
    from oodline._version import __version__

    return {
        "format": "oodline settings",
        "format_version": 1,
        "oodline_version": __version__,
        "detector": tuned.reference,
        "settings": dict(tuned.best.settings),
        "criterion": tuned.best.value,
        "notes": list(tuned.notes),
        "seed": tuned.seed,
        "candidates": [
            {
                "settings": dict(candidate.settings),
                "criterion": None if candidate.failure else candidate.value,
                "auroc": {group: dict(areas) for group, areas in candidate.areas.items()},
                "failure": candidate.failure,
            }
            for candidate in tuned.candidates
        ],
    }


def print_table(tuned: Tuned, most: int = 10) -> None:
    """Print the best candidates, and the settings that the detector had before."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    ranked = sorted(tuned.candidates, key=lambda candidate: -candidate.value)
    shown = [c for c in ranked if not c.failure][:most]
    if tuned.candidates[0] not in shown:
        shown.append(tuned.candidates[0])
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("settings", overflow="fold")
    for group in [*tuned.best.areas, "mean"]:
        table.add_column(group, justify="right")
    table.add_column("")
    for candidate in shown:
        settings = ", ".join(f"{name}={value}" for name, value in candidate.settings.items())
        values = [f"{100 * value:.2f}" for value in (*candidate.groups.values(), candidate.value)]
        note = "chosen" if candidate is tuned.best else "as given" if candidate is tuned.candidates[0] else ""
        table.add_row(settings, *(["-"] * (len(tuned.best.areas) + 1) if candidate.failure else values), note)
    table_console().print("AUROC of held-out ID images against pseudo-outliers, %", table)
    say(f"{len(tuned.candidates)} candidates, the best {len(shown)} are shown")
    for candidate in tuned.candidates:
        if candidate.failure:
            say(f"left out {dict(candidate.settings)}: {candidate.failure}")


def _grid(written: list[str]) -> dict[str, list[Any]]:
    from oodline._util.spec import parse_value

    grid = {}
    for text in written:
        name, equals, values = text.partition("=")
        if not equals or not values:
            raise SettingError(f"`--try` must be a setting and its values, such as p_a=0.1,0.5,0.9; got {text}.")
        grid[name] = [parse_value(value) for value in values.split(",")]
    return grid


def _nothing_to_try(detector: Detector) -> str:
    """Why there is nothing to tune, with a `--try` of the detector's own settings where one is a number."""
    why = f"{type(detector).__name__} declares no setting to tune. "
    numbers = {name: v for name, v in detector.settings.items() if isinstance(v, float | int) and v and v is not True}
    if not numbers:
        return why + "Choose another detector."
    name, value = next(iter(numbers.items()))
    return why + f"Name values with `--try`, such as --try {name}={value:g},{2 * value:g}, or choose another detector."


def _files(source: ImageSource | TextSource | TensorSource | TensorSample) -> dict[str, str]:
    from oodline.data import ParquetImages, TensorSample, TensorSource, TextFile
    from oodline.data.class_order import Relabelled

    plain: object = source.source if isinstance(source, Relabelled) else source
    files = [str(plain.path)] if isinstance(plain, TensorSource | TensorSample) and plain.path else []
    files += plain.files if isinstance(plain, ParquetImages | TextFile) else []
    return {file: checksum(file) for file in files}


def _dump(document: dict[str, Any]) -> str:
    import json

    return json.dumps(document, indent=2, allow_nan=False) + "\n"
