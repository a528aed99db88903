"""Result tables as OpenOOD writes and reads them; its image lists are data sets of every command (`FILE.txt,root=DIR`).

OpenOOD writes one CSV file per method: a row for each OOD set, and one for the mean of near and of far sets.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from oodline._util.checked import checked
from oodline._util.files import write_atomically
from oodline.errors import DataError, SettingError
from oodline.evaluation.table import Column, Table

__all__ = ["COLUMNS", "read_openood_csv", "to_openood_csv"]

COLUMNS: Mapping[str, str] = {
    "FPR@95": "fpr95_ood_positive",
    "AUROC": "auroc",
    "AUPR_IN": "aupr_in",
    "AUPR_OUT": "aupr_out",
}
"""OpenOOD's columns, and our names for them; beside them stands ACC, the accuracy on the ID data."""


@checked
def to_openood_csv(table: Table, path: str | Path, detector: str | None = None) -> Path:
    """Write the results of a detector in OpenOOD's columns: percent, two digits, rows `nearood` and `farood`.

    FPR@95 is OpenOOD's convention, `fpr95_ood_positive`. Our AUPRs are average precision, and OpenOOD's a trapezoid
    under the same curve, so the last digit may differ from its own run. ACC is empty where the data has no labels.

    Parameters
    ----------
    table : Table
        Of `oodline.evaluate`; a group GROUP gets a row `GROUPood`, its mean.
    path : str or Path
        The file to write.
    detector : str, optional
        Which one; needed where the table has several.

    Raises
    ------
    SettingError
        The table has several detectors, and none is named.
    UnknownNameError
        It has no such detector.
    DataError
        The file cannot be written; nothing is left half-written.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from torch import tensor
    >>> from oodline.evaluation.evaluate import tabulate
    >>> scores, of_tin = {"energy": tensor([2.0, 3.0])}, {"energy": tensor([1.0, 2.5])}
    >>> table = tabulate(scores, {"tin": of_tin}, groups={"near": ["tin"]})
    >>> with TemporaryDirectory() as folder:
    ...     print(to_openood_csv(table, f"{folder}/energy.csv").read_text())
    dataset,FPR@95,AUROC,AUPR_IN,AUPR_OUT,ACC
    tin,50.00,75.00,83.33,83.33,
    nearood,50.00,75.00,83.33,83.33,
    <BLANKLINE>
    """
    if detector is None:
        if len(table.cells) != 1:
            raise SettingError(
                f"`detector` must be one of {', '.join(table.cells)}; got None. OpenOOD has a file each."
            )
        [detector] = table.cells
    rows: list[tuple[str, Column]] = []
    for group, names in table.groups.items():
        rows += [(name, Column(name, (name,))) for name in names]
        rows.append((f"{group}ood", Column(group, tuple(names))))
    grouped = {name for names in table.groups.values() for name in names}
    rows += [(name, Column(name, (name,))) for name in table.ood_sets if name not in grouped]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["dataset", *COLUMNS, "ACC"])
    accuracy = "" if table.accuracy is None else f"{100 * table.accuracy:.2f}"
    for name, column in rows:
        values = [f"{100 * table.value(detector, metric, column):.2f}" for metric in COLUMNS.values()]
        writer.writerow([name, *values, accuracy])
    return write_atomically(path, lambda file: file.write(out.getvalue().encode()))


@checked
def read_openood_csv(path: str | Path) -> dict[str, dict[str, float]]:
    """Read a CSV file by OpenOOD or by `to_openood_csv`: rates in [0, 1] by row and by our name, and `accuracy`.

    Of a mean with its deviation, `95.10 ± 0.20`, the mean is read.

    Raises
    ------
    DataError
        It cannot be read, has other columns, or a value is not a percentage.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> lines = [",FPR@95,AUROC,AUPR_IN,AUPR_OUT,ACC", "nearood,48.17,88.03,0,0,95.06"]
    >>> with TemporaryDirectory() as folder:
    ...     _ = Path(folder, "msp.csv").write_text(chr(10).join(lines))
    ...     read_openood_csv(f"{folder}/msp.csv")["nearood"]["auroc"]
    0.8803
    """
    try:
        lines = list(csv.reader(Path(path).read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}. Check the path.") from error
    names = {**COLUMNS, "ACC": "accuracy"}
    head = lines[0] if lines else []
    if not head or head[0] not in ("", "dataset") or not set(COLUMNS) <= set(head):
        raise DataError(f"{path} must have the columns dataset, {', '.join(names)}; got {', '.join(head) or 'none'}.")
    found: dict[str, dict[str, float]] = {}
    for number, line in enumerate(lines[1:], start=2):
        cells = dict(zip(head, line, strict=False))
        rates = {names[column]: _rate(text) for column, text in cells.items() if column in names and text.strip()}
        if len(line) != len(head) or any(rate is None for rate in rates.values()):
            raise DataError(f"line {number} of {path} must hold a name and percentages; got {','.join(line)!r}.")
        found[line[0]] = {name: rate for name, rate in rates.items() if rate is not None}
    return found


def _rate(text: str) -> float | None:
    try:
        percent = float(text.partition("±")[0])
    except ValueError:
        return None
    return round(percent / 100, 10) if 0 <= percent <= 100 else None
