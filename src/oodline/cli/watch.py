"""`oodline watch`: a stream of scores against the calibration, window by window, and an alarm when they drift."""

from __future__ import annotations

import csv
import json as json_module
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from oodline.cli.options import Json, show_warnings
from oodline.errors import ArtifactError, DataError, SettingError, unknown_name
from oodline.files import check_writable, write_atomically
from oodline.tensor_file import parse_json

if TYPE_CHECKING:
    from oodline.class_calibration import AnyCalibration
    from oodline.drift import DriftMonitor, DriftReport

ALARM = 3
"""Exit code after an alarm."""


def watch(
    scores: Annotated[str, Parameter(allow_leading_hyphen=True)],
    *,
    guard: Path,
    detector: str | None = None,
    alpha: float | None = None,
    window: int | None = None,
    state: Path | None = None,
    prometheus: int | None = None,
    json: Json = False,
) -> None:
    """Watch scores for a drift towards OOD: a line a window, and an alarm as soon as the evidence is enough.

    The alarm is a sequential test: on ID data it comes, ever, with probability at most alpha, however long it runs.
    Exit code: 0 without an alarm, 3 after one, 1 for an error, 130 for Ctrl-C, which also ends a stream in good order.

    Parameters
    ----------
    scores
        A file that `oodline score` wrote (.parquet, .csv, .jsonl), or - for JSON lines on standard input as they come:
        each an object with "score", and "label" where the calibration is by class, or a bare number.
    guard
        The file that the scores were made with; it must hold a calibration.
    detector
        Which of several detectors of the file; the first if not given.
    alpha
        Probability of a false alarm; 0.01 if not given.
    window
        Inputs a line; 500 if not given.
    state
        A JSON file in which the monitor remembers: it goes on from there, and is saved there after each window and at
        the end.
    prometheus
        Also serve metrics on this port of 127.0.0.1 while it runs.
    json
        Print one JSON document a line, and nothing else on standard output.
    """
    from oodline.artifact import read_artifact
    from oodline.drift_metrics import serve_drift_metrics

    show_warnings()
    artifact = read_artifact(guard)
    first = next(iter(artifact.detectors), "")
    name = detector or first
    if name not in artifact.detectors:
        raise unknown_name(f"detector in {guard}", name, artifact.detectors)
    calibration = artifact.calibrations.get(name)
    if calibration is None:
        raise ArtifactError(f"{guard} holds no calibration of '{name}'. Fit it with --calibrate HELD_OUT_ID_DATA.")
    if state is not None:
        check_writable(state)
    monitor = _monitor(calibration, state, alpha, window)
    metrics = None if prometheus is None else serve_drift_metrics(prometheus)
    say = _print_json if json else _print_line
    said = None
    try:
        for values, labels in _read(scores, "score" if name == first else f"score_{name}", monitor):
            alarmed = monitor.alarm_at is not None
            report = monitor.update(values, labels)
            if metrics is not None:
                metrics.show(report)
            if report.seen % monitor.window == 0 or (report.alarm_at is not None and not alarmed):
                say(report)
                said = report.seen
                _save(monitor, state)
    except KeyboardInterrupt:
        stopped = True  # how a stream without end is ended
    else:
        stopped = False
    report = monitor.report
    if said != report.seen:
        say(report)
    _save(monitor, state)
    if report.alarm_at is not None or stopped:
        sys.exit(ALARM if report.alarm_at is not None else 130)


def _monitor(calibration: AnyCalibration, state: Path | None, alpha: float | None, window: int | None) -> DriftMonitor:
    from oodline.drift import DriftMonitor

    if state is None or not state.exists():
        return DriftMonitor(
            calibration, alpha=0.01 if alpha is None else alpha, window=500 if window is None else window
        )
    try:
        document = parse_json(state.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{state} is no state of a drift monitor: {error}.") from error
    monitor = DriftMonitor.restore(calibration, document)
    for name, asked, kept in (("alpha", alpha, monitor.alpha), ("window", window, monitor.window)):
        if asked is not None and asked != kept:
            raise SettingError(
                f"--{name} {asked} does not fit {state}, which was begun with {kept}. Leave it out, or begin another."
            )
    return monitor


def _save(monitor: DriftMonitor, state: Path | None) -> None:
    if state is not None:
        document = json_module.dumps(monitor.state(), allow_nan=False).encode()
        write_atomically(state, lambda file: file.write(document))


def _print_json(report: DriftReport) -> None:
    print(json_module.dumps(report.row(), allow_nan=False), flush=True)


def _print_line(report: DriftReport) -> None:
    interval = f"95 % interval {report.low:.1%} to {report.high:.1%}, promised {report.promised:.3g}"
    print(
        f"inputs {report.seen - report.window + 1} to {report.seen}: {report.rate:.1%} flagged ({interval}); "
        f"evidence of drift {report.evidence:.3g} of {report.limit:.3g}",
        flush=True,
    )
    if report.alarm_at is not None:
        print(f"ALARM: scores have drifted towards OOD (at input {report.alarm_at})", flush=True)


def _read(source: str, column: str, monitor: DriftMonitor) -> Iterator[tuple[Any, Any]]:
    """Tensors of scores and of labels, where there are any; a line at a time from standard input, else by windows."""
    import torch

    size = 1 if source == "-" else monitor.window
    scores, labels = [], []
    for number, row in enumerate(_rows(source), start=1):
        value, label = (row.get(column), row.get("label")) if isinstance(row, dict) else (row, None)
        try:
            scores.append(float(value))  # type: ignore[arg-type]
            labels.append(None if label in (None, "") else _label(label))
        except (TypeError, ValueError, OverflowError):
            raise DataError(
                f"row {number} of {'standard input' if source == '-' else source} has no number as '{column}'"
                f"{' or no integer as label' if label is not None else ''}: {str(row)[:80]}."
            ) from None
        if len(scores) == size - (monitor.seen % size):
            yield torch.tensor(scores, dtype=torch.float64), None if None in labels else torch.tensor(labels)
            scores, labels = [], []
    if scores:
        yield torch.tensor(scores, dtype=torch.float64), None if None in labels else torch.tensor(labels)


def _label(value: Any) -> int:
    label = int(value)
    if (not isinstance(value, str) and label != value) or not 0 <= label < 2**31:
        raise ValueError(f"{value} is no class")
    return label


def _rows(source: str) -> Iterator[Any]:
    if source == "-":
        yield from _lines(sys.stdin)
        return
    path = Path(source)
    if path.suffix not in (".parquet", ".csv", ".jsonl"):
        raise SettingError(f"scores are read from .parquet, .csv, .jsonl, or - for standard input; not {source}.")
    try:
        if path.suffix == ".parquet":
            from pyarrow import parquet

            with parquet.ParquetFile(path) as file:
                for batch in file.iter_batches():
                    yield from batch.to_pylist()
        elif path.suffix == ".csv":
            with path.open(newline="") as file:
                yield from csv.DictReader(file)
        else:
            with path.open() as file:
                yield from _lines(file)
    except DataError:
        raise
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{source} cannot be read: {error}.") from error


def _lines(file: Any) -> Iterator[Any]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            yield parse_json(line)
        except ValueError:
            raise DataError(f"line {number} is not JSON: {line.strip()[:80]}.") from None
