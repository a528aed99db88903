"""A finished run as a folder: what was done, every score, the fitted detectors, and the tables for people.

    RUN/
      run.json            what was done (`record.RunRecord`), with a checksum of every other data file
      scores/NAME.parquet one row per image of set NAME: index, label, predicted, a float64 column per detector
      guard.safetensors   the fitted detectors and their thresholds, as `oodline fit` writes them
      table.md, table.csv the tables

Nothing in it is code. The folder is written whole or not at all.
"""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pyarrow import ArrowException, parquet
from pydantic import ValidationError

from oodline._util.digests import checksum, digest
from oodline._util.folders import write_folder
from oodline._util.validation import problem
from oodline._version import __version__
from oodline.errors import ArtifactError, InputError, unknown_name
from oodline.evaluation.bootstrap import Bootstrap
from oodline.evaluation.evaluate import tabulate_spectra
from oodline.evaluation.record import FORMAT_VERSION, SETS, SETS_IN_WORDS, RunRecord, SetRecord, timestamp
from oodline.evaluation.scored_sets import image_columns
from oodline.evaluation.table import Column, Table
from oodline.evaluation.writing import to_markdown
from oodline.guard.artifact import Artifact, read_artifact, write_artifact
from oodline.scoring.score import Scores

RECORD, GUARD = "run.json", "guard.safetensors"
IMAGE_COLUMNS = ("index", "label", "predicted")


@dataclass(frozen=True)
class Run:
    """A finished run, as read from its folder.

    Parameters
    ----------
    folder : Path
        Where it is.
    record : RunRecord
        What was done: classifier, sets, detectors with their settings and costs, failures, metrics.
    columns : dict of str to pyarrow.Table
        By data set: index, label, predicted, and one column of scores a detector.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from oodline.testing import toy_run
    >>> with TemporaryDirectory() as folder:
    ...     run = toy_run(f"{folder}/run")
    ...     again = read_run(f"{folder}/run")
    >>> again.sets("ood"), list(again.scores("origin")), again.scores("origin")["energy"].shape
    (['halved', 'origin'], ['energy', 'msp'], (60,))
    >>> again.table().value("energy", "auroc", "origin") == run.table().value("energy", "auroc", "origin")
    True
    """

    folder: Path
    record: RunRecord
    columns: Mapping[str, pa.Table] = field(repr=False)

    def sets(self, *roles: str) -> list[str]:
        """Names of the data sets that have scores, of these roles or (none given) of any."""
        return [s.name for s in self.record.scored if not roles or s.role in roles]

    @property
    def groups(self) -> dict[str | None, list[str]]:
        """The OOD sets by group, such as near and far; None holds those without one."""
        found: dict[str | None, list[str]] = {}
        for s in self.record.scored:
            if s.role == "ood":
                found.setdefault(s.group, []).append(s.name)
        return found

    def scores(self, name: str) -> dict[str, NDArray[np.float64]]:
        """Scores of a data set by detector, each (N,), float64, higher = more in-distribution.

        Raises
        ------
        UnknownNameError
            There is no such set, or it has no scores.
        """
        table = self._columns(name)
        return {label: table.column(label).to_numpy() for label in self.record.detectors}

    def index(self, name: str) -> NDArray[np.int64]:
        """Position of each image in its data set (N,), by which its source gives the image and its name."""
        return np.asarray(self._columns(name).column("index").to_numpy(), dtype=np.int64)

    def predicted(self, name: str) -> NDArray[np.int64]:
        """Class with the largest logit of each image (N,)."""
        return np.asarray(self._columns(name).column("predicted").to_numpy(), dtype=np.int64)

    def labels(self, name: str) -> NDArray[np.int64] | None:
        """Label of each image (N,); None where one is missing."""
        column = self._columns(name).column("label")
        return None if column.null_count else np.asarray(column.to_numpy(), dtype=np.int64)

    def table(self, bootstrap: Bootstrap | None = None, *, progress: bool = False) -> Table:
        """Metrics of every detector on every OOD set, computed from the scores, with the means of each group.

        Covariate-shifted ID sets count as ID in its `full_spectrum` (Yang et al., IJCV 2023). With `bootstrap`, every
        value has an interval, which may take minutes.

        Raises
        ------
        InputError
            The run has no OOD set, or no ID set.
        """
        theirs = {name: _tensors(self.scores(name)) for name in self.sets("ood")}
        if not theirs:
            raise InputError("the run has no OOD set, so there is no table of it.")
        groups = {group: names for group, names in self.groups.items() if group is not None}
        milliseconds = {label: d.milliseconds for label, d in self.record.detectors.items()}
        table = tabulate_spectra(
            _tensors(self.pooled(("id",))),
            theirs,
            {name: _tensors(self.scores(name)) for name in self.sets("csid")},
            {label: ms for label, ms in milliseconds.items() if ms is not None},
            groups=groups,
            bootstrap=bootstrap,
            progress=progress,
        )
        right = self.correct()
        return replace(table, accuracy=None if right is None else float(right.mean()))

    def correct(self) -> NDArray[np.bool_] | None:
        """Whether the classifier is right about each ID sample (N,); None where a label is missing."""
        labels = {name: self.labels(name) for name in self.sets("id")}
        right = [known == self.predicted(name) for name, known in labels.items() if known is not None]
        return np.concatenate(right) if right and len(right) == len(labels) else None

    def artifact(self) -> Artifact:
        """The fitted detectors, read when they are asked for: they may be large.

        Raises
        ------
        ArtifactError
            The file is damaged, or is that of another run.
        """
        path = self.folder / GUARD
        if checksum(path) != self.record.guard_sha256:
            raise ArtifactError(f"{path} is not the one that {self.folder / RECORD} was written with. Run it again.")
        return read_artifact(path)

    def pooled(self, roles: Collection[str]) -> dict[str, NDArray[np.float64]]:
        """Scores by detector of all sets of these roles together.

        Raises
        ------
        InputError
            There is no such set.
        """
        names = self.sets(*roles)
        if not names:
            raise InputError(f"the run has no data set of the role {' or '.join(roles)}.")
        parts = [self.scores(name) for name in names]
        return {label: np.concatenate([part[label] for part in parts]) for label in self.record.detectors}

    def _columns(self, name: str) -> pa.Table:
        if name not in self.columns:
            raise unknown_name("data set with scores", name, self.columns)
        return self.columns[name]


def write_run(folder: str | Path, record: RunRecord, scores: Mapping[str, Scores], artifact: Artifact) -> Run:
    """Write a run's folder; metrics, checksums and tables are computed here.

    Parameters
    ----------
    folder : str or Path
        Made anew; one that holds an earlier run is replaced.
    record : RunRecord
        Without metrics and checksums.
    scores : mapping of str to Scores
        By the name of each set of the record that is not only fitted on, by the labels of the record's detectors.
    artifact : Artifact
        The fitted detectors.

    Raises
    ------
    ArtifactError
        Scores and record do not belong together, or a detector cannot be saved.
    DataError
        The folder cannot be written, or holds something else; nothing is left half-written.
    """
    columns = {name: _as_table(of_set, list(record.detectors)) for name, of_set in scores.items()}
    if set(columns) != {s.name for s in record.scored}:
        raise ArtifactError(f"a run has the sets {[s.name for s in record.scored]}, but scores of {list(columns)}.")
    for s in record.scored:
        if columns[s.name].num_rows != s.samples:
            raise ArtifactError(f"{s.name} has {s.samples} samples, but {columns[s.name].num_rows} scores.")
    files = {name: _as_parquet(table) for name, table in columns.items()}

    def write(new: Path) -> None:
        (new / "scores").mkdir()
        for name, content in files.items():
            (new / "scores" / f"{name}.parquet").write_bytes(content)
        write_artifact(artifact, new / GUARD)
        sets = [s.model_copy(update={"sha256": digest(files[s.name])} if s.name in files else {}) for s in record.sets]
        run = Run(new, record.model_copy(update={"sets": sets, "guard_sha256": checksum(new / GUARD)}), columns)
        table = run.table() if run.sets("ood") else None
        finished = run.record.model_copy(update={"metrics": [] if table is None else metric_rows(table)})
        document = finished.model_dump(mode="json", exclude={"sha256"})
        document["sha256"] = _signed(document)
        (new / RECORD).write_text(json.dumps(document, indent=1, allow_nan=False))
        (new / "table.md").write_text(markdown(record, table))
        (new / "table.csv").write_text("" if table is None else table.to_csv())

    return read_run(write_folder(folder, write, marker=RECORD))


def read_run(folder: str | Path) -> Run:
    """Read and check a folder that `write_run` wrote; nothing in it is run.

    Raises
    ------
    ArtifactError
        A file is missing, damaged, changed after it was written, of a newer format, or does not belong to the others;
        the message says which.
    """
    folder = Path(folder)
    record = _read_record(folder / RECORD)
    if not (folder / GUARD).is_file():
        raise ArtifactError(f"{folder} has no {GUARD}: it is not complete. Copy it again, or run it again.")
    columns = {s.name: _read_scores(folder / "scores" / f"{s.name}.parquet", s, record) for s in record.scored}
    return Run(folder, record, columns)


def metric_rows(table: Table) -> list[dict[str, Any]]:
    """Every metric of every detector on every OOD set, as flat dicts; full-spectrum rows follow where there are any."""
    return [
        {"detector": label, "set": name, "group": each.group(Column(name, (name,))), "id": roles, **asdict(row[name])}
        for roles, each in zip(("id", "id+csid"), table.spectra.values(), strict=False)
        for name in each.ood_sets
        for label, row in each.cells.items()
    ]


def markdown(record: RunRecord, table: Table | None) -> str:
    """The tables as a Markdown page: each metric with its convention, full spectrum where the run has it."""
    lines = [
        f"# {record.name}",
        "",
        f"{timestamp(record.created)}, oodline {record.versions.get('oodline', '?')}, {record.classifier.reference}",
        "",
    ]
    if table is not None and record.detectors:
        lines.append(to_markdown(table))
    lines += [f"- left out `{label}`: {reason}" for label, reason in record.failures.items()]
    lines += [f"- without `{name}`: {reason}" for name, reason in record.missing.items()]
    return "\n".join(lines).rstrip() + "\n"


def _tensors(scores: Mapping[str, NDArray[np.float64]]) -> dict[str, torch.Tensor]:
    return {label: torch.tensor(values) for label, values in scores.items()}  # a copy: arrays of Parquet are read-only


def _as_table(scores: Scores, labels: list[str]) -> pa.Table:
    if missing := [label for label in labels if label not in scores.scores]:
        raise ArtifactError(f"there are no scores of {missing[0]}, which the run's record names.")
    return pa.table(image_columns(scores)).select([*IMAGE_COLUMNS, *labels])


def _as_parquet(table: pa.Table) -> bytes:
    out = io.BytesIO()
    parquet.write_table(table, out)
    return out.getvalue()


def _read_record(path: Path) -> RunRecord:
    if not path.is_file():
        raise ArtifactError(f"{path.parent} is not a finished run: it has no {path.name}. Name a folder of `bench -o`.")
    try:
        document = json.loads(path.read_bytes())
    except ValueError:
        document = None
    if not isinstance(document, dict) or document.get("format") != "oodline-run":
        raise ArtifactError(f"{path} is not the record of a run that oodline wrote, or is truncated. Run it again.")
    version = document.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise ArtifactError(
            f"{path} has format {version}; this oodline {__version__} reads up to {FORMAT_VERSION}. Upgrade oodline."
        )
    if document.get("sha256") != _signed(document):
        raise ArtifactError(f"{path} was changed after it was written: it does not match its digest. Run it again.")
    try:
        return RunRecord.model_validate(document)
    except ValidationError as error:
        raise ArtifactError(f"{path} does not describe a run: {problem(error, {SETS: SETS_IN_WORDS})}.") from error


def _read_scores(path: Path, known: SetRecord, record: RunRecord) -> pa.Table:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"the scores of {known.name} cannot be read: {error}. Copy or run it again.") from error
    if digest(content) != known.sha256:
        raise ArtifactError(f"{path} was changed after it was written, or is truncated: its digest differs.")
    try:
        table = parquet.read_table(io.BytesIO(content))
    except ArrowException as error:
        raise ArtifactError(f"{path} is not a Parquet file: {error}.") from error
    expected = [*IMAGE_COLUMNS, *record.detectors]
    if table.column_names != expected or table.num_rows != known.samples:
        raise ArtifactError(
            f"{path} has {table.num_rows} rows of {', '.join(table.column_names)}; {RECORD} says {known.samples} of "
            f"{', '.join(expected)}."
        )
    return table


def _signed(document: Mapping[str, Any]) -> str:
    return digest(json.dumps({k: v for k, v in document.items() if k != "sha256"}, sort_keys=True))
