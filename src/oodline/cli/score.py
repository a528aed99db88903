"""`oodline score`: one row an image, by a fitted file."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from oodline.cli.options import (
    DataOptions,
    Json,
    ModelOptions,
    load_classifier,
    open_loader,
    print_json,
    report_skipped,
    show_warnings,
)
from oodline.errors import SettingError

if TYPE_CHECKING:
    import pyarrow as pa

_MODEL, _DATA = ModelOptions(), DataOptions()


def score(
    guard: Path,
    data: str,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    model: ModelOptions = _MODEL,
    reading: DataOptions = _DATA,
    json: Json = False,
) -> None:
    """Judge images with a fitted file and write one row an image.

    The columns are `name`, `index`, `label` and `class_name` of the predicted class; `score`, `p_value`, `threshold`
    and `is_ood` of the file's first detector; and `score_NAME` of each further one.

    Parameters
    ----------
    guard
        A file by `oodline fit` or `Guard.save`.
    data
        Images: a folder, a file, Parquet, torchvision:NAME, hf:NAME. Labels are not needed.
    output
        The file to write; its ending chooses the format: .parquet, .csv or .jsonl.
    json
        Print one JSON document on standard output, and nothing else there.
    """
    from oodline.artifact import read_artifact
    from oodline.files import check_writable
    from oodline.scoring import score_all

    show_warnings()
    if output.suffix not in _WRITERS:
        raise SettingError(f"--output must end in {', '.join(_WRITERS)}; {output.name} does not.")
    check_writable(output)
    artifact = read_artifact(guard)
    loaded = load_classifier(model, artifact)
    loader = open_loader(data, loaded.preprocessing, reading)
    found = score_all(artifact.detectors, loaded.classifier, loader, progress=True)
    skipped = report_skipped({"data": loader})
    first, *others = artifact.detectors
    calibration = artifact.calibrations.get(first)
    names = artifact.class_names or loaded.class_names
    labels, scores = found.predicted.tolist(), found.scores[first]
    unknown = [None] * len(scores)
    columns: dict[str, list[Any]] = {
        "name": [loader.source.name(i) for i in found.index.tolist()],
        "index": found.index.tolist(),
        "label": labels,
        "class_name": [names[label] if names and label < len(names) else None for label in labels],
        "score": scores.tolist(),
        "p_value": unknown if calibration is None else calibration.p_value(scores, found.predicted).tolist(),
        "threshold": unknown if calibration is None else calibration.threshold_of(found.predicted).tolist(),
        "is_ood": unknown if calibration is None else calibration.is_ood(scores, found.predicted).tolist(),
    }
    columns |= {f"score_{name}": found.scores[name].tolist() for name in others}
    write_columns(columns, output)
    flagged = None if calibration is None else sum(columns["is_ood"])
    if json:
        print_json(
            {"output": str(output), "images": len(scores), "detector": first, "flagged": flagged, "skipped": skipped}
        )
        return
    verdict = (
        "no threshold in the file" if flagged is None else f"{flagged} flagged as OOD ({flagged / len(scores):.1%})"
    )
    print(f"scored {len(scores)} images by {', '.join(artifact.detectors)}: {verdict} by {first}")
    print(f"wrote {output}")


def write_columns(columns: dict[str, list[Any]], path: Path) -> Path:
    """Write columns of equal length as .parquet, .csv or .jsonl, whole or not at all."""
    import pyarrow as pa

    from oodline.files import write_atomically

    types = {"class_name": pa.string(), "p_value": pa.float64(), "threshold": pa.float64(), "is_ood": pa.bool_()}
    table = pa.table({name: pa.array(values, types.get(name)) for name, values in columns.items()})
    return write_atomically(path, lambda file: _WRITERS[path.suffix](table, file))


def _parquet(table: pa.Table, file: Any) -> None:
    from pyarrow import parquet

    parquet.write_table(table, file)


def _csv(table: pa.Table, file: Any) -> None:
    from pyarrow import csv

    csv.write_csv(table, file)


def _jsonl(table: pa.Table, file: Any) -> None:
    for row in table.to_pylist():
        file.write(json_module.dumps(row).encode() + b"\n")


_WRITERS = {".parquet": _parquet, ".csv": _csv, ".jsonl": _jsonl}
