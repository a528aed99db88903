"""Write one row per sample to disk during a pass, in memory that does not grow with the number of samples."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import pyarrow as pa
import torch
from pyarrow import csv, parquet
from torch import Tensor

from oodline._util.digests import digest
from oodline._util.files import GrowingFile, check_writable
from oodline.detectors.base import Detector
from oodline.errors import DataError, SettingError
from oodline.model.activations import Activations
from oodline.model.head_name import Task
from oodline.scoring.class_calibration import AnyCalibration, ClassCalibration
from oodline.scoring.score_collector import GrowingTensor, fingerprint, score_batch

UNFINISHED = "_unfinished"
"""Folder among the rows that says that they are not complete, and how far they are; readers of Parquet pass it by."""

ROW_GROUP = 2**16
"""So many rows are gathered before they are written: 8 bytes each and a detector, and 16 more."""


class RowWriter:
    """A collector that writes the scores of every batch, and keeps only how many there were.

    The columns are `name`, `index`, `label` and `class_name` of the predicted class; `score`, `p_value`, `threshold`
    and `is_ood` of the first detector; and `score_NAME` of each further one. Of a multi-label classifier also
    `labels`: the numbers of those that apply (`Activations.labels`), separated by spaces.

    Parameters
    ----------
    path : Path
        A file ending in .parquet, .csv or .jsonl, which appears when it is whole; or a folder, in which every process
        of an engine writes Parquet files of its own, named after the position of their first sample.
    detectors : mapping of str to Detector
        Fitted; the first one decides.
    calibration : Calibration or ClassCalibration, optional
        Of the first detector. If omitted, there are scores and no verdicts.
    class_names : sequence of str, optional
        In the order of the logits.
    name : callable
        From the position of a sample to what it is called.
    task : {"multiclass", "multilabel"}
        Of the classifier.

    Examples
    --------
    >>> import oodline as ol
    >>> from tempfile import TemporaryDirectory
    >>> from oodline.passes.fit import reads
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> with TemporaryDirectory() as folder:
    ...     with RowWriter(Path(folder, "scores.parquet"), {"msp": ol.MSP()}) as rows:
    ...         ol.Local().fill([rows], classifier, loader, reads([ol.MSP()]), task="scoring")
    ...     rows.count, parquet.read_table(f"{folder}/scores.parquet").num_rows
    (60, 60)
    """

    def __init__(
        self,
        path: Path,
        detectors: Mapping[str, Detector],
        calibration: AnyCalibration | None = None,
        class_names: Sequence[str] | None = None,
        name: Callable[[int], str] = str,
        task: Task = "multiclass",
    ) -> None:
        self.task: Task = task
        self._sets: list[str] = []
        self.path, self.detectors, self.calibration = path, detectors, calibration
        self.class_names, self.name = class_names, name
        self.count = self.flagged = 0
        self._index, self._labels = GrowingTensor(torch.int64), GrowingTensor(torch.int64)
        self._scores = {name: GrowingTensor(torch.float64) for name in detectors}
        self._file: GrowingFile | None = None
        self._writer: Any = None
        others = list(detectors)[1:]
        self.schema = pa.schema(
            [("name", pa.string()), ("index", pa.int64()), ("label", pa.int64()), ("class_name", pa.string())]
            + [("score", pa.float64()), ("p_value", pa.float64()), ("threshold", pa.float64()), ("is_ood", pa.bool_())]
            + [(f"score_{name}", pa.float64()) for name in others]
            + [("labels", pa.string())] * (task == "multilabel")
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: object, _traceback: TracebackType | None) -> None:
        if kind is None:
            self.close()
            for left in [] if self.path.suffix else self.path.glob(".part-*.tmp"):
                left.unlink(missing_ok=True)  # by a process that was killed; all others have written theirs
        elif self._file is not None:
            self._file.discard()

    @property
    def key(self) -> tuple[object, ...]:
        """The class, the detectors with their state, the calibration, and where the rows go."""
        verdicts = None
        if self.calibration is not None:
            scores = digest(self.calibration.scores)
            classes = None
            if isinstance(self.calibration, ClassCalibration):  # other classes are other thresholds
                classes = digest(self.calibration.predicted)
            verdicts = (type(self.calibration).__name__, self.calibration.false_alarm, scores, classes)
        return (type(self).__name__, fingerprint(self.detectors), verdicts, str(self.path))

    def fresh(self) -> Self:
        """A writer of the same rows that has written none."""
        return type(self)(self.path, self.detectors, self.calibration, self.class_names, self.name, self.task)

    def update(self, activations: Activations, labels: Tensor | None) -> None:
        """Score one batch; labels are not used."""
        batch = score_batch(self.detectors, activations)
        if self._file is None:
            self._open(int(activations.samples[0]))
        self._index.append(activations.samples.cpu())
        one = activations.places is None  # an input with several rows has no class of its own
        self._labels.append(activations.predicted.cpu() if one else torch.full((len(activations.samples),), -1))
        if one and (applies := activations.labels) is not None:
            self._sets += [" ".join(map(str, row.nonzero().flatten().tolist())) for row in applies.cpu()]
        for name, values in batch.items():
            self._scores[name].append(values)
        self.count += len(activations.samples)
        if len(self._index) >= ROW_GROUP:
            self._flush()

    def close(self) -> None:
        """Write what is waiting; the file is then in its place. Nothing happens a second time."""
        if self._file is None:
            return
        self._flush()
        self._file.write(lambda _: self._writer.close())
        self._file.commit()
        self._file = self._writer = None

    def state_dict(self) -> dict[str, Tensor]:
        """Close the file, and say how many rows and flagged rows there are."""
        self.close()
        return {"count": torch.tensor(self.count), "flagged": torch.tensor(self.flagged)} if self.count else {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over the counts; no file is touched."""
        self.count, self.flagged = (int(state[name]) if state else 0 for name in ("count", "flagged"))

    def merge(self, other: Self) -> Self:
        """Add the counts of `other`."""
        self.count, self.flagged = self.count + other.count, self.flagged + other.flagged
        return self

    def _open(self, first: int) -> None:
        path = self.path if self.path.suffix else self.path / f"part-{first:012d}.parquet"
        self._file = GrowingFile(path)
        self._file.write(lambda file: setattr(self, "_writer", _WRITERS[path.suffix](file, self.schema)))

    def _flush(self) -> None:
        if self._file is None or len(self._index) == 0:
            return
        table = self._table()
        self._file.write(lambda _: self._writer.write_table(table))
        for column in (self._index, self._labels, *self._scores.values()):
            column.clear()
        self._sets.clear()

    def _table(self) -> pa.Table:
        first, *others = self.detectors
        index, labels, scores = self._index.values, self._labels.values, self._scores[first].values
        nothing = [None] * len(scores)
        known, names = self.calibration, self.class_names
        is_ood = None if known is None else known.is_ood(scores, labels)
        self.flagged += 0 if is_ood is None else int(is_ood.sum())
        columns: dict[str, Any] = {
            "name": [_as_text(self.name(i)) for i in index.tolist()],
            "index": index.numpy(),
            "label": [label if label >= 0 else None for label in labels.tolist()],
            "class_name": [names[label] if names and 0 <= label < len(names) else None for label in labels.tolist()],
            "score": _finite(scores),
            "p_value": nothing if known is None else known.p_value(scores, labels).numpy(),
            "threshold": nothing if known is None else known.threshold_of(labels).numpy(),
            "is_ood": nothing if is_ood is None else is_ood.numpy(),
        }
        columns |= {f"score_{name}": _finite(self._scores[name].values) for name in others}
        columns |= {"labels": self._sets} if self.task == "multilabel" else {}
        return pa.table(columns, self.schema)


def check_output(path: Path, *, divided: bool) -> None:
    """Raise, before the work, where rows cannot be written to `path`.

    Raises
    ------
    SettingError
        One process needs a file of a known ending, several need a folder.
    DataError
        It cannot be written there.
    """
    if divided and path.suffix:
        raise SettingError(
            f"`--output` must be a folder, without an ending, since each process writes a file; got {path.name}."
        )
    if not divided and path.suffix not in _WRITERS:
        raise SettingError(f"`--output` must end in {', '.join(_WRITERS)}; got {path.name}.")
    if not divided:
        check_writable(path)
        return
    try:  # another process may make it at this moment
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise DataError(f"could not write {path}: {error.strerror}. Name a folder that can be made.") from error
    check_writable(path / "part.parquet")
    if any(path.glob("*.parquet")) and not (path / UNFINISHED).is_dir():
        raise DataError(f"the folder {path} holds Parquet files, which would mix with the new ones. Name another.")


class _JsonLines:
    def __init__(self, file: IO[bytes], _schema: pa.Schema) -> None:
        self.file = file

    def write_table(self, table: pa.Table) -> None:
        for row in table.to_pylist():
            self.file.write(json.dumps(row).encode() + b"\n")

    def close(self) -> None:
        pass  # the file is closed by whoever opened it


_WRITERS: dict[str, Callable[[IO[bytes], pa.Schema], Any]] = {
    ".parquet": parquet.ParquetWriter,
    ".csv": csv.CSVWriter,
    ".jsonl": _JsonLines,
}


def _finite(scores: Tensor) -> pa.Array:
    # an input without a row, such as a text without a token to judge, has none
    return pa.array(scores.numpy(), mask=~torch.isfinite(scores).numpy())


def _as_text(name: str) -> str:
    # bytes of a file name that are not UTF-8 are written as \udcNN, since no format of rows holds them
    return name.encode("utf-8", "backslashreplace").decode()
