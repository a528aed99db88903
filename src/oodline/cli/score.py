"""`oodline score`: score a data set with a guard file and write one row per input."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from oodline._util.files import check_writable
from oodline.cli.checks import (
    check_data,
    check_engine,
    check_guard,
    check_model,
    check_reading,
    check_suffix,
    load_detectors,
)
from oodline.cli.engine import open_engine
from oodline.cli.options import (
    DataOptions,
    DetectorsFrom,
    EngineName,
    Json,
    ModelOptions,
    load_classifier,
    open_loader,
    print_json,
    report_skipped,
)
from oodline.cli.parameters import OUTPUT
from oodline.cli.printing import say
from oodline.cli.running import RunOptions

ROWS = (".parquet", ".csv", ".jsonl")
"""File formats for rows of scores."""

_MODEL, _DATA, _RUN = ModelOptions(), DataOptions(), RunOptions()


def score(
    guard: Path,
    data: str,
    *,
    output: Annotated[Path, OUTPUT],
    engine: EngineName = None,
    model: ModelOptions = _MODEL,
    reading: DataOptions = _DATA,
    running: RunOptions = _RUN,
    detectors_from: DetectorsFrom = None,
    json: Json = False,
) -> None:
    """Score images or texts with a guard file and write one row per input.

    The columns are `name` and `index` of the input; `label` and `class_name` of its predicted class; `score`,
    `p_value`, `threshold` and `is_ood` by the file's first detector; and `score_NAME` by each further one. Of a
    multi-label classifier also `labels`, the numbers of those whose probability is above one half.

    Parameters
    ----------
    guard
        A guard file, written by `oodline fit` or `Guard.save`.
    data
        Images: a folder, an image file, Parquet files, torchvision:NAME or hf:NAME; or a file of tensors: .npz, .npy,
        .pt or .safetensors. For a model of texts: CSV, TSV, JSON lines, JSON or Parquet. Labels are not needed.
    output
        The file to write: .parquet, .csv or .jsonl. With several processes (--engine), a folder, in which each process
        writes Parquet files.
    engine
        How to run the forward pass: local (one process), torchrun (one process per rank), or ray with settings, such as
        ray,workers=8,block=100000. If omitted, torchrun if it started this process, else local. An interrupted ray run
        resumes when the command is repeated.
    json
        Print one JSON document on standard output and nothing else.
    """
    check_engine(engine)
    check_reading(reading)
    check_guard(guard)
    check_model(model, needed=False)
    check_data(data)
    if output.suffix and "RANK" not in os.environ and engine is None:
        check_suffix("--output", output, ROWS)
        check_writable(output)
    load_detectors(detectors_from)

    from oodline.guard.artifact import read_artifact
    from oodline.passes.fit import reads
    from oodline.scoring.row_writer import UNFINISHED, RowWriter, check_output
    from oodline.scoring.score import check_fitted_on

    running.show_warnings()
    with open_engine(engine, output / UNFINISHED) as passes:
        with passes.synchronised():
            check_output(output, divided=passes.is_distributed)
            artifact = read_artifact(guard)
            loaded = load_classifier(model, artifact, data, running=running)
            detectors, classifier = artifact.detectors, loaded.classifier
            check_fitted_on(detectors, classifier)
            loader = open_loader(data, loaded, reading, labelled=False)
        if passes.is_main:
            running.say_change(classifier, loader, detectors)
        first = next(iter(detectors))
        calibration = artifact.calibrations.get(first)
        names = artifact.class_names or loaded.class_names
        with RowWriter(output, detectors, calibration, names, loader.source.name, classifier.task) as rows:
            passes.fill(
                [rows], classifier, loader, reads(detectors.values()), task="scoring", progress=running.progress
            )
        passes.finish()
        skipped = report_skipped({"data": loader}, running)
    if not passes.is_main:
        return
    flagged = None if calibration is None else rows.flagged
    if json:
        print_json(
            {"output": str(output), loader.unit: rows.count, "detector": first, "flagged": flagged, "skipped": skipped}
        )
    if json or running.quiet:
        return
    verdict = (
        "no threshold in the file" if flagged is None else f"{flagged} flagged as OOD ({flagged / rows.count:.1%})"
    )
    say(f"scored {rows.count} {loader.unit} by {', '.join(detectors)}: {verdict} by {first}")
    say(f"wrote {output}")
