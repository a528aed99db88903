"""Data sets given by a text file with one `PATH LABEL` per line, as benchmarks publish them."""

from __future__ import annotations

import json
import re
from pathlib import Path

from PIL import Image

from oodline._util.digests import combine, file_digest
from oodline.data.decoding import decode
from oodline.errors import DataError


class ImageList:
    """The images of a list, such as OpenOOD's `benchmark_imglist/cifar10/test_tin.txt`, in its order.

    Parameters
    ----------
    path : str or Path
        A text file of `PATH LABEL` lines; a label below 0, or none, means no label. In place of the label may stand
        a dict with one, `{'label': 3, ...}`, of which nothing else is read.
    root : str or Path, optional
        Where the paths begin. If omitted, the folder of the list.

    Raises
    ------
    DataError
        No such file, an empty one, or one that is not a list.
    """

    class_names: tuple[str, ...] | None = None

    def __init__(self, path: str | Path, root: str | Path | None = None) -> None:
        self.path = Path(path)
        self.root = self.path.parent if root is None else Path(root)
        try:
            lines = re.split(r"\r\n?|\n", self.path.read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"the list of images {path} cannot be read: {error}. Check the path.") from error
        self.files: list[str] = []
        self.labels: list[int | None] = []
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            file, space, label = _split(line.strip())
            try:
                value = _label(label) if space else -1
            except (ValueError, RecursionError):
                raise DataError(
                    f"line {number} of {path} must be PATH LABEL, with an integer label; got {line!r}."
                ) from None
            self.files.append(file if space else label)
            self.labels.append(value if value >= 0 else None)
        if not self.files:
            raise DataError(f"the list {path} is empty.")
        if not (self.root / self.files[0]).is_file():
            raise DataError(f"{path} lists {self.files[0]}, which is not in {self.root}. Pass root=FOLDER.")

    def __len__(self) -> int:
        return len(self.files)

    def name(self, i: int) -> str:
        """Path as the list has it."""
        return self.files[i]

    def label(self, i: int) -> int | None:
        """Label as the list has it."""
        return self.labels[i]

    def read(self, i: int) -> Image.Image:
        """Decode the file."""
        return decode(self.root / self.files[i], self.files[i])

    def fingerprint(self) -> str:
        """Of the paths and labels of the list and the bytes of the files."""
        files = (file_digest(self.root / file) for file in self.files)
        return combine(zip(self.files, self.labels, files, strict=True))


def _split(line: str) -> tuple[str, str, str]:
    return line.partition(" {") if line.endswith("}") else line.rpartition(" ")  # a path may hold spaces


def _label(text: str) -> int:
    if text.endswith("}"):  # a dict in single quotes, read as JSON: data alone, and no code of Python
        label = json.loads("{" + text.replace("'", '"').replace("None", "null")).get("label", -1)
    else:
        label = int(text) if re.fullmatch(r"[+-]?[0-9]{1,20}", text) else None
    if type(label) is not int or not -(2**63) <= label < 2**63:
        raise ValueError("it is not a whole number of 64 bits")
    return label
