"""Per-image scores of an evaluation: from which every table is computed, and which one Parquet file holds."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import torch
from pyarrow import ArrowException, parquet
from torch import Tensor

from oodline._util.files import write_atomically
from oodline.data.batch import UNLABELLED
from oodline.data.columns import check_columns
from oodline.errors import DataError, SettingError
from oodline.scoring.score import Scores

COLUMNS = ("set", "role", "group", "index", "label", "predicted")
"""What stands before the scores, one column per detector."""


@dataclass(frozen=True, eq=False)
class ScoredSets:
    """What one pass over each data set of an evaluation gave.

    Parameters
    ----------
    id : Scores
        In-distribution test data.
    ood : dict of str to Scores
        OOD sets by name.
    csid : dict of str to Scores
        Covariate-shifted ID sets by name: the classes of the classifier, under another style, blur or noise.
    groups : mapping of str to sequence of str
        Names of OOD sets by group, such as near and far.

    Raises
    ------
    SettingError
        Two sets have the same name, or a group names no OOD set.
    """

    id: Scores
    ood: dict[str, Scores]
    csid: dict[str, Scores] = field(default_factory=dict)
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_names(self.ood, self.csid, self.groups)

    @property
    def milliseconds(self) -> dict[str, float]:
        """Wall time of each detector's own part for one sample, over all sets; empty where it was not measured."""
        every = [self.id, *self.ood.values(), *self.csid.values()]
        samples = sum(len(found.index) for found in every)
        return {n: 1000 * sum(found.seconds.get(n, 0.0) for found in every) / samples for n in self.id.seconds}

    def correct(self) -> Tensor | None:
        """Whether the classifier is right about each ID sample (N,); None where a label is missing, or all logits."""
        if self.id.labels is None or bool((self.id.labels < 0).any()) or bool((self.id.predicted < 0).all()):
            return None
        return self.id.predicted == self.id.labels


def check_names(ood: Collection[str], csid: Collection[str], groups: Mapping[str, Sequence[str]]) -> None:
    """Raise `SettingError` where two data sets have the same name, or a group names no OOD set.

    Examples
    --------
    >>> check_names(["svhn", "textures"], ["blur"], {"far": ["svhn"]})
    """
    if twice := [name for name in csid if name in ood] or [name for name in (*ood, *csid) if name == "id"]:
        raise SettingError(f"two data sets are called '{twice[0]}'; 'id' is the ID test data. Name them apart.")
    if strange := [name for names in groups.values() for name in names if name not in ood]:
        raise SettingError(f"a group names '{strange[0]}', which is not an OOD set: {', '.join(ood)}.")


def write_scores(sets: ScoredSets, path: str | Path) -> Path:
    """One row per image: `set`, `role`, `group`, `index`, `label`, `predicted`, a float64 column per detector.

    `role` is id, csid or ood. `label` is null where there is none.

    Raises
    ------
    DataError
        The file cannot be written; nothing is left half-written.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from oodline import Energy
    >>> from oodline.evaluation.evaluate import score_sets
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> found = score_sets(Energy(), classifier, loader, {"zeros": [torch.zeros(5, 4)]})
    >>> with TemporaryDirectory() as folder:
    ...     again = read_scores(write_scores(found, f"{folder}/scores.parquet"))
    >>> torch.equal(again.id.scores["energy"], found.id.scores["energy"]), list(again.ood)
    (True, ['zeros'])
    """
    home = {name: group for group, names in sets.groups.items() for name in names}
    parts = [_as_table("id", "id", None, sets.id)]
    parts += [_as_table(name, "csid", None, found) for name, found in sets.csid.items()]
    parts += [_as_table(name, "ood", home.get(name), found) for name, found in sets.ood.items()]
    table = pa.concat_tables(parts)
    return write_atomically(path, lambda file: parquet.write_table(table, file))


def read_scores(path: str | Path) -> ScoredSets:
    """Read a file that `write_scores` wrote; own times of the detectors are not in it.

    Raises
    ------
    DataError
        The file cannot be read, is no such file, or has no ID or no OOD rows.
    """
    try:
        table = parquet.read_table(path)
    except (OSError, ArrowException) as error:
        raise DataError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
    check_columns(table.column_names, str(path))
    if absent := [name for name in COLUMNS if name not in table.column_names]:
        raise DataError(f"{path} is not a file of scores by `oodline evaluate`: it has no column '{absent[0]}'.")
    keys = zip(*(table[name].to_pylist() for name in ("set", "role", "group")), strict=True)
    rows: dict[tuple[str, str, str | None], list[int]] = {}
    for row, key in enumerate(keys):
        rows.setdefault(key, []).append(row)
    by_role: dict[str, dict[str, Scores]] = {"id": {}, "csid": {}, "ood": {}}
    groups: dict[str, list[str]] = {}
    for (name, role, group), places in rows.items():
        if role not in by_role:
            raise DataError(f"{path} has rows of the role '{role}'; it knows id, csid and ood.")
        by_role[role][name] = _from_table(table.take(places))
        if group is not None:
            groups.setdefault(group, []).append(name)
    if len(by_role["id"]) != 1 or not by_role["ood"]:
        raise DataError(
            f"{path} has {len(by_role['id'])} ID sets and {len(by_role['ood'])} OOD sets; one ID set and at least one "
            "OOD set are needed."
        )
    return ScoredSets(next(iter(by_role["id"].values())), by_role["ood"], by_role["csid"], groups)


def image_columns(scores: Scores) -> dict[str, pa.Array]:
    """One value per image: `index`, `label` (null where there is none), `predicted`, and each detector's scores."""
    label = pa.nulls(len(scores.index), pa.int64())
    if scores.labels is not None:
        label = pa.array(scores.labels.numpy(), mask=(scores.labels < 0).numpy())
    known = {"index": pa.array(scores.index.numpy()), "label": label, "predicted": pa.array(scores.predicted.numpy())}
    return known | {detector: pa.array(column.numpy()) for detector, column in scores.scores.items()}


def _as_table(name: str, role: str, group: str | None, scores: Scores) -> pa.Table:
    said = {"set": name, "role": role, "group": group}
    same = {key: pa.array([value] * len(scores.index), pa.string()) for key, value in said.items()}
    return pa.table(same | image_columns(scores))


def _from_table(table: pa.Table) -> Scores:
    def tensor(name: str) -> Tensor:
        return torch.from_numpy(table[name].to_numpy().copy())

    known = table["label"].null_count < len(table)
    labels = torch.from_numpy(table["label"].fill_null(UNLABELLED).to_numpy().copy()) if known else None

    return Scores(
        scores={name: tensor(name) for name in table.column_names if name not in COLUMNS},
        predicted=tensor("predicted"),
        index=tensor("index"),
        labels=labels,
        seconds={},
    )
