"""Write the TOML file of a benchmark to edit: every entry that it may have, with a comment."""

from __future__ import annotations

import json
import os
import re
import tomllib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from oodline._util.checked import checked
from oodline._util.files import check_writable, write_atomically
from oodline._util.set_names import SAYS_LITTLE, split_name
from oodline.errors import DataError, SettingError
from oodline.evaluation.protocol import place_protocol
from oodline.evaluation.record import safe_name

EDIT = "  # edit this"
"""Follows what nobody has given."""

CALIBRATION = "[calibration]  # held-out ID data for thresholds; a fifth becomes fuse's reference: changes its scores"


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
        OOD data sets by group, such as near and far. Each is a path or reference, or NAME=PATH. Without a name it is
        called by the last part of its path; where another set is too, or that says little, its folder stands before it.
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
    SettingError
        Two data sets have the same name, or what is given cannot be in such a file.

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
    groups = ood or {"near": ["ood/near"], "far": ["ood/far"]}
    ids = {"fit": fit or "train", "calibration": calibration or "", "test": test or "test"}
    specs = [*filter(None, ids.values()), *(spec for specs in groups.values() for spec in specs)]
    _check_texts([str(path), str(folder), model or "", *specs, *groups, *(detectors or ())])
    known = _names(specs, in_distribution=sum(map(bool, ids.values())))

    def entries(spec: str, given: bool) -> list[str]:
        name, data = known[spec], split_name(spec)[1]
        by_path = spec in ids.values() and name == safe_name(data)
        lines = [] if by_path else [f"name = {_quoted(name)}  # in the tables"]
        return [*lines, f"data = {_quoted(_from(base, data))}" + ("" if given else EDIT), ""]

    lines = [
        "# A benchmark: which classifier, which data, which detectors. Run it with: " + run_command(path, model),
        f"name = {_quoted(path.stem)}",
        f"folder = {_quoted(str(folder))}  # where paths of data and weights begin, from here",
        f"batch_size = {batch_size}",
        f"limit = {limit}" if limit else "# limit = 1000  # read at most this many images of each data set",
        "# tpr = 0.95  # of the thresholds: the share of ID images that is kept",
        '# on_error = "skip"  # leave out images that cannot be read, and count them; "raise" stops',
        '# Each as --detector takes it, or LABEL=NAME,setting=value; "all" is the rest. `oodline methods` lists them.',
        f"detectors = [{', '.join(map(_quoted, detectors or ('line', 'energy', 'msp', 'knn')))}]",
        "",
        "[classifier]",
        "# timm:NAME, torchvision:NAME or hf:NAME. A file may not run code: pass python:FILE.py:FACTORY as --model.",
        f"model = {_quoted(model or 'timm:resnet50')}" + ("" if model else EDIT),
        '# weights = "weights.safetensors"',
        '# head = "fc"  # the module that makes the logits, where it is not found',
        "# preprocessing = {resize = 256, crop = 224, mean = [0.5, 0.5, 0.5], std = [0.25, 0.25, 0.25]}",
        "",
        "[fit]  # ID training data with labels, one folder per class, or a Parquet file, torchvision:NAME, hf:NAME",
        *entries(ids["fit"], bool(fit)),
    ]
    if not calibration:
        lines += [f"# {CALIBRATION}", '# data = "held_out"', ""]
    else:
        lines += [CALIBRATION, *entries(calibration, True)]
    lines += ["[test]  # ID test data", *entries(ids["test"], bool(test))]
    lines += ["# [[csid]]  # ID data that looks different, such as with noise: counts as ID in a second table"]
    lines += ['# data = "test_with_noise"', ""]
    for group, of_group in groups.items():
        for spec in of_group:
            lines.append("[[ood]]  # an OOD data set; repeat for several")
            lines += [f"group = {_quoted(group)}  # the tables have a mean by group"] if group else []
            lines += entries(spec, bool(ood))
    text = "\n".join(lines)
    place_protocol(tomllib.loads(text), path, model=model).sets()  # raises what reading it would
    return write_atomically(path, lambda file: file.write(text.encode()))


def run_command(path: Path, model: str | None) -> str:
    """How to run a benchmark file; its own code is named on the command line, since a file may not run any.

    Examples
    --------
    >>> run_command(Path("mine.toml"), "python:net.py:build")
    'oodline bench mine.toml --model python:net.py:build'
    """
    code = f" --model {model}" if model is not None and model.startswith("python:") else ""
    return f"oodline bench {path}{code}"


def _names(specs: Sequence[str], *, in_distribution: int) -> dict[str, str]:
    """A name for each set, the first ones ID; where it is shared or says little, the folder stands before it."""
    stems = Counter(split_name(spec)[0] or safe_name(spec) for spec in specs)
    found = {}
    for i, spec in enumerate(specs):
        name, data = split_name(spec)
        stem = safe_name(data)
        if not name and (stems[stem] > 1 or (stem in SAYS_LITTLE and i >= in_distribution)):
            parts = re.split(r"[/\\:]", data.split(",")[0].rstrip("/\\"))
            stem = "-".join([*filter(None, parts[-2:-1]), stem])
        found[spec] = name or re.sub(r"[^\w .:+-]", "_", stem)
    return found


def _check_texts(texts: Iterable[str]) -> None:
    for text in texts:
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
            raise SettingError(f"a name in a benchmark file must be text without control characters; got {text!r}.")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _from(base: Path, spec: str) -> str:
    """A path that is there, as it is written from the folder; anything else, such as torchvision:SVHN, as it is."""
    file, comma, options = spec.partition(",")
    if not Path(file).exists() or Path(file).is_absolute():
        return spec
    return f"{os.path.relpath(Path(file).resolve(), base.resolve())}{comma}{options}"
