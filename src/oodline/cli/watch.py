"""`oodline watch`: compare a stream of scores with the calibration, and raise an alarm when they drift."""

from __future__ import annotations

import csv
import json as json_module
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from oodline._util.files import check_writable, write_atomically
from oodline.cli.checks import check_fraction, check_guard, check_least, load_detectors
from oodline.cli.options import DetectorsFrom, Json
from oodline.cli.parameters import FLAG, FileDetector
from oodline.cli.printing import say
from oodline.cli.running import RunOptions
from oodline.cli.watch_answers import AnswerRows, answers_of, print_stop, print_stop_json, taken_apart, with_answers
from oodline.errors import ArtifactError, DataError, SettingError, unknown_name

if TYPE_CHECKING:
    from oodline.scoring.answers import Answers
    from oodline.scoring.class_calibration import AnyCalibration
    from oodline.scoring.drift import DriftMonitor, DriftReport

ALARM = 3
"""Exit code after an alarm."""


def watch(
    scores: Annotated[str, Parameter(allow_leading_hyphen=True)],
    *,
    guard: Path,
    detector: FileDetector = None,
    alpha: float | None = None,
    window: int | None = None,
    state: Path | None = None,
    again: Annotated[bool, FLAG] = False,
    answer: str | None = None,
    prometheus: int | None = None,
    detectors_from: DetectorsFrom = None,
    json: Json = False,
) -> None:
    """Watch a stream of scores for drift towards OOD: one line per window, and an alarm when the evidence suffices.

    The alarm is a sequential test: on ID data, the probability that it is ever raised is at most alpha, however long
    the stream. Exit code: 0 without an alarm, 3 after one, 1 for an error, 130 after Ctrl-C, which saves the state.

    Parameters
    ----------
    scores
        A file written by `oodline score` (.parquet, .csv, .jsonl, or a folder of .parquet), or - for standard input:
        CSV with a header line, or one JSON value per line, either a number or an object with "score", and also "label"
        if the file was fitted with --by predicted.
    guard
        The guard file that the scores were made with; it must hold a threshold (`oodline fit --calibrate`).
    alpha
        Largest probability that a false alarm is ever raised, between 0 and 1; 0.01 if omitted.
    window
        Number of scores per line; 500 if omitted.
    state
        A JSON file that keeps the monitor's state: read at the start if it exists, written after each window and at the
        end. A file of scores that is already counted in it is refused. If omitted, every run starts anew.
    again
        Accept a file of scores that is already counted in the state, and count it again.
    answer
        The scores are of tokens, and this column says of which answer: print a line where an answer is to be stopped,
        which happens to at most the promised share of ID answers, and watch one score per answer that has ended, by a
        row whose "end" is true or by the end of the file. The guard's rows must be tokens that are judged while they
        come. If omitted, each score is of an input.
    prometheus
        Also serve Prometheus metrics on this port of 127.0.0.1 while the command runs. If omitted, none.
    json
        Print one JSON object per window on standard output, one per line, and nothing else.
    """
    check_fraction("--alpha", alpha)
    check_least("--window", window, 1)
    check_least("--prometheus", prometheus, 0, 65535)
    check_guard(guard)
    if scores != "-":
        check_scores(Path(scores))
    if state is not None:
        check_writable(state)
    load_detectors(detectors_from)

    from oodline.guard.artifact import read_artifact
    from oodline.scoring.drift_metrics import serve_drift_metrics

    RunOptions().show_warnings()
    artifact = read_artifact(guard)
    first = next(iter(artifact.detectors), "")
    name = detector or first
    if name not in artifact.detectors:
        raise unknown_name(f"detector in {guard}", name, artifact.detectors)
    calibration = artifact.calibrations.get(name)
    if calibration is None:
        raise ArtifactError(f"{guard} holds no calibration of '{name}'. Fit it with --calibrate HELD_OUT_ID_DATA.")
    column = "score" if name == first else f"score_{name}"
    say = _print_json if json else _print_line
    # a file of scores says the threshold of its first detector alone
    thresholds = _thresholds(calibration) if column == "score" else None
    answers = None if answer is None else answers_of(calibration, artifact.rows)
    monitor = _monitor(calibration, state, alpha, window, answers)
    close = state is None

    def rows(source: str, *, silent: bool = False) -> Iterator[Any]:
        found = _rows(source)
        if artifact.rows is not None and answers is None:
            return (row for row in found if not (isinstance(row, dict) and row.get(column, 0) in (None, "")))
        if answers is None or answer is None:
            return found
        of = answers_of(calibration, artifact.rows) if silent else answers
        told = None if silent else print_stop_json if json else print_stop
        return AnswerRows(of, answer, column, told).of(found, close=close)

    if scores != "-":
        if state is not None and not again and (known := monitor.already(_values(rows(scores, silent=True), column))):
            raise DataError(
                f"{scores} has been watched before: its first {known.count:,} scores are those of {known.name}, which "
                f"{state} has taken in. Name a file of new scores, or pass --again to count these twice."
            )
        monitor.begin(scores)
    metrics = None if prometheus is None else serve_drift_metrics(prometheus)
    said = None
    try:
        for values, labels in _read(rows(scores), scores, column, monitor, thresholds):
            alarmed = monitor.alarm_at is not None
            report = monitor.update(values, labels)
            if metrics is not None:
                metrics.show(report)
            if report.seen % monitor.window == 0 or (report.alarm_at is not None and not alarmed):
                say(report, not alarmed)
                said = report.seen
                _save(monitor, state, answers)
    except KeyboardInterrupt:
        stopped = True  # how a stream without end is ended
    else:
        stopped = False
    report = monitor.report
    if said != report.seen:
        say(report, False)
    _save(monitor, state, answers)
    if report.alarm_at is not None or stopped:
        sys.exit(ALARM if report.alarm_at is not None else 130)


def _monitor(
    calibration: AnyCalibration, state: Path | None, alpha: float | None, window: int | None, answers: Answers | None
) -> DriftMonitor:
    from oodline.scoring.drift import DriftMonitor

    if state is None or not state.exists():
        return DriftMonitor(
            calibration, alpha=0.01 if alpha is None else alpha, window=500 if window is None else window
        )
    from oodline._util.json_text import parse_json

    try:
        document = parse_json(state.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{state} is not a state of a drift monitor: {error}.") from error
    monitor = DriftMonitor.from_state_dict(calibration, taken_apart(document, answers, state))
    for name, asked, kept in (("alpha", alpha, monitor.alpha), ("window", window, monitor.window)):
        if asked is not None and asked != kept:
            raise SettingError(
                f"`--{name}` must be {kept}, as in {state}; got {asked}. Leave it out, or name another state file."
            )
    return monitor


def _save(monitor: DriftMonitor, state: Path | None, answers: Answers | None) -> None:
    if state is not None:
        kept = monitor.state_dict() if answers is None else with_answers(monitor.state_dict(), answers)
        document = json_module.dumps(kept, allow_nan=False).encode()
        write_atomically(state, lambda file: file.write(document))


def _print_json(report: DriftReport, _new: bool) -> None:
    say(json_module.dumps(report.to_dict(), allow_nan=False), flush=True)


def _print_line(report: DriftReport, new: bool) -> None:
    standing = f"; drifting since the alarm at input {report.alarm_at}" if report.alarm_at and not new else ""
    interval = f"95 % interval {report.low:.1%} to {report.high:.1%}, promised {report.promised:.3g}"
    say(
        f"inputs {report.seen - report.window + 1} to {report.seen}: {report.rate:.1%} flagged ({interval}); "
        f"evidence of drift {report.evidence:.3g} of {report.limit:.3g}{standing}",
        flush=True,
    )
    if report.alarm_at is not None and new:
        say(f"ALARM: scores have drifted towards OOD (at input {report.alarm_at})", flush=True)


def _read(
    rows: Iterable[Any], source: str, column: str, monitor: DriftMonitor, thresholds: Sequence[float] | None
) -> Iterator[tuple[Any, Any]]:
    """Tensors of scores and of labels, where there are any; a line at a time from standard input, else by windows.

    Scores beside another threshold than those of the guard, where they are given, are of another guard.
    """
    import torch

    size = 1 if source == "-" else monitor.window
    scores, labels = [], []
    for number, row in enumerate(rows, start=1):
        value, label = (row.get(column), row.get("label")) if isinstance(row, dict) else (row, None)
        try:
            scores.append(float(value))  # type: ignore[arg-type]
            labels.append(None if label in (None, "") else _label(label))
        except (TypeError, ValueError, OverflowError):
            raise DataError(
                f"row {number} of {'standard input' if source == '-' else source} has no number as '{column}'"
                f"{' or no integer as label' if label is not None else ''}: {str(row)[:80]}."
            ) from None
        if thresholds is not None and isinstance(row, dict) and row.get("threshold") not in (None, ""):
            _check_threshold(row["threshold"], thresholds, number)
        if len(scores) == size - (monitor.seen % size):
            yield torch.tensor(scores, dtype=torch.float64), None if None in labels else torch.tensor(labels)
            scores, labels = [], []
    if scores:
        yield torch.tensor(scores, dtype=torch.float64), None if None in labels else torch.tensor(labels)


def _thresholds(calibration: AnyCalibration) -> list[float]:
    from oodline.scoring.class_calibration import ClassCalibration

    each = calibration.classes if isinstance(calibration, ClassCalibration) else ()
    return [calibration.threshold, *(one.threshold for one in each)]


def _check_threshold(given: Any, thresholds: Sequence[float], number: int) -> None:
    try:
        value = float(given)
    except (TypeError, ValueError):
        return  # a column of that name which is none of `oodline score`
    if not any(math.isclose(value, known, rel_tol=1e-6, abs_tol=1e-9) for known in thresholds):
        raise DataError(
            f"the scores must be of this guard, whose threshold is {thresholds[0]:.6g}; row {number} has the threshold "
            f"{value:.6g}. Name the guard file that they were made with, or score the inputs again."
        )


def _values(rows: Iterable[Any], column: str) -> Iterator[float]:
    try:
        for row in rows:
            value: Any = row.get(column) if isinstance(row, dict) else row
            yield float(value)
    except (TypeError, ValueError, OverflowError, DataError):
        return  # whoever reads the file for its scores will say what is wrong


def _label(value: Any) -> int:
    number = float(value) if isinstance(value, str) else value  # "3.0" is how tables with gaps are written
    label = int(number)
    if label != number or not 0 <= label < 2**31:
        raise ValueError(f"{value} is not a class")
    return label


def _rows(source: str) -> Iterator[Any]:
    if source == "-":
        yield from _stream(sys.stdin)
        return
    path = Path(source)
    kind = check_scores(path)
    try:
        if kind == ".parquet":
            from pyarrow import parquet

            from oodline.data.columns import check_columns

            for part in sorted(path.glob("*.parquet")) if path.is_dir() else [path]:
                with parquet.ParquetFile(part) as file:
                    check_columns(file.schema_arrow.names, str(part))
                    for batch in file.iter_batches():
                        yield from batch.to_pylist()
        elif kind == ".csv":
            with path.open(newline="", encoding="utf-8-sig") as file:
                yield from _csv(file, source)
        else:
            with path.open(encoding="utf-8-sig") as file:
                yield from _lines(file)
    except DataError:
        raise
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{source} cannot be read: {error}.") from error


def check_scores(path: Path) -> str:
    """The kind of a file of scores, by its ending.

    Raises
    ------
    SettingError, DataError
        It is of no known kind, or not there.
    """
    kind = ".parquet" if path.is_dir() else path.suffix.lower()
    if kind not in (".parquet", ".csv", ".jsonl"):
        raise SettingError(f"`scores` must be a .parquet, .csv or .jsonl file, or - for standard input; got {path}.")
    if path.is_dir() and not any(path.glob("*.parquet")):
        raise DataError(f"the folder {path} holds no .parquet file of scores. Check the path.")
    if not path.exists():
        raise DataError(f"{path} cannot be read: there is no such file. Check the path.")
    return kind


def _stream(file: Any) -> Iterator[Any]:
    """JSON lines, or CSV: told apart by the first line that is not empty."""
    lines = (line for line in file if line.strip())
    first = next(lines, "").removeprefix("\ufeff")
    if "score" in first and not first.lstrip().startswith("{"):
        try:
            yield from _csv(chain([first], lines), "standard input")
        except csv.Error as error:
            raise DataError(f"standard input cannot be read: {error}.") from error
    else:
        yield from _lines(chain([first], lines))


def _csv(file: Any, where: str) -> Iterator[Any]:
    from oodline.data.columns import check_columns

    # strict: else a quote that is not closed joins two rows
    rows = csv.DictReader(file, strict=True)
    rows.fieldnames = [name.strip() for name in rows.fieldnames or []]
    check_columns(rows.fieldnames, where)
    yield from rows


def _lines(file: Any) -> Iterator[Any]:
    from oodline._util.json_text import parse_json

    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            yield parse_json(line)
        except ValueError:
            raise DataError(f"line {number} is not JSON: {line.strip()[:80]}.") from None
