"""Write the TOML file of a benchmark to edit: every entry that it may have, with a comment."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from oodline._util.checked import checked
from oodline._util.files import check_writable, write_atomically
from oodline.errors import DataError
from oodline.evaluation.record import safe_name

EDIT = "  # edit this"
"""Follows what nobody has given."""


@checked
def write_template(
    path: str | Path,
    *,
    model: str | None = None,
    fit: str | None = None,
    calibration: str | None = None,
    test: str | None = None,
    ood: Mapping[str, Sequence[str]] | None = None,
    detectors: Sequence[str] | None = None,
    folder: str | Path = ".",
    batch_size: int = 64,
    limit: int | None = None,
) -> Path:
    """Write a commented benchmark file that `read_protocol` and `oodline bench` read.

    Parameters
    ----------
    path : str or Path
        The file to write; never one that is there.
    model : str, optional
        The classifier; what is omitted becomes an example that is marked "edit this".
    fit, calibration, test : str, optional
        ID data: to fit on, to choose thresholds on, and to test with.
    ood : mapping of str to sequence of str, optional
        OOD data sets by group, such as near and far.
    detectors : sequence of str, optional
        As `--detector` takes them.
    folder : str or Path
        What paths of data begin in. Those that are there from the working folder are written from here.
    batch_size, limit : int
        Images per batch, and at most how many of each data set.

    Raises
    ------
    DataError
        The file is there already, or cannot be written.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from oodline.evaluation.protocol import read_protocol
    >>> with TemporaryDirectory() as place:
    ...     path = write_template(f"{place}/mine.toml", model="timm:resnet18", ood={"near": ["ssb.parquet"]})
    ...     [name for _, name, _ in read_protocol(path).sets()]
    ['train', 'test', 'ssb']
    """
    path = Path(path)
    if path.exists():
        raise DataError(f"{path} is there already, and is not overwritten. Name another file.")
    check_writable(path)
    base = path.parent / folder

    def entry(key: str, value: str | None, example: str, *, of_data: bool = True) -> str:
        if value is None:
            return f"{key} = {json.dumps(example)}{EDIT}"
        return f"{key} = {json.dumps(_from(base, value) if of_data else value, ensure_ascii=False)}"

    groups = ood or {"near": ["ood/near"], "far": ["ood/far"]}
    lines = [
        "# A benchmark: which classifier, which data, which detectors. Run it with: oodline bench " + str(path),
        f"name = {json.dumps(path.stem, ensure_ascii=False)}",
        f"folder = {json.dumps(str(folder), ensure_ascii=False)}  # where paths of data and weights begin, from here",
        f"batch_size = {batch_size}",
        f"limit = {limit}" if limit else "# limit = 1000  # read at most this many images of each data set",
        "# tpr = 0.95  # of the thresholds: the share of ID images that is kept",
        '# on_error = "skip"  # leave out images that cannot be read, and count them; "raise" stops',
        '# Each as --detector takes it, or LABEL=NAME,setting=value; "all" is the rest. `oodline methods` lists them.',
        f"detectors = {json.dumps(list(detectors or ('line', 'energy', 'msp', 'knn')), ensure_ascii=False)}",
        "",
        "[classifier]",
        "# timm:NAME, torchvision:NAME or hf:NAME. A file may not run code: pass python:FILE.py:FACTORY as --model.",
        entry("model", model, "timm:resnet50", of_data=False),
        '# weights = "weights.safetensors"',
        '# head = "fc"  # the module that makes the logits, where it is not found',
        "# preprocessing = {resize = 256, crop = 224, mean = [0.5, 0.5, 0.5], std = [0.25, 0.25, 0.25]}",
        "",
        "[fit]  # ID training data with labels, one folder per class, or a Parquet file, torchvision:NAME, hf:NAME",
        entry("data", fit, "train"),
        "",
    ]
    if calibration is None:
        lines += ["# [calibration]  # held-out ID data for thresholds", '# data = "held_out"', ""]
    else:
        lines += ["[calibration]  # held-out ID data for thresholds", entry("data", calibration, ""), ""]
    lines += ["[test]  # ID test data", entry("data", test, "test"), ""]
    lines += ["# [[csid]]  # ID data that looks different, such as with noise: counts as ID in a second table"]
    lines += ['# data = "test_with_noise"', ""]
    for group, specs in groups.items():
        for spec in specs:
            lines.append("[[ood]]  # an OOD data set; repeat for several")
            lines += (
                [f"group = {json.dumps(group, ensure_ascii=False)}  # the tables have a mean by group"] if group else []
            )
            lines += [f"name = {json.dumps(safe_name(spec), ensure_ascii=False)}  # in the tables"]
            lines += [entry("data", spec if ood else None, spec), ""]
    return write_atomically(path, lambda file: file.write("\n".join(lines).encode()))


def _from(base: Path, spec: str) -> str:
    """A path that is there, as it is written from the folder; anything else, such as torchvision:SVHN, as it is."""
    file, comma, options = spec.partition(",")
    if not Path(file).exists() or Path(file).is_absolute():
        return spec
    return f"{os.path.relpath(Path(file).resolve(), base.resolve())}{comma}{options}"
