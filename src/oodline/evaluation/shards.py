"""Activations on disk: shards of a fixed number of images, each named by the SHA-256 of its bytes.

A shard is a safetensors file, mapped into memory when it is read. Its name is its checksum and files are renamed into
place, so a shard that is missing, truncated or changed is as good as not there, and two processes that write the same
activations at once cannot spoil each other's.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from oodline._util.digests import checksum, combine, digest
from oodline._util.files import write_atomically

FORMAT_VERSION = 1
ABOUT = "about.json"
_NAME = re.compile(r"(\d{6,})-([0-9a-f]{64})\.safetensors")


@dataclass(frozen=True, eq=False)
class Block:
    """What is kept of one batch of N images."""

    features: Tensor
    """(N, D)"""
    logits: Tensor
    """(N, C)"""
    labels: Tensor | None
    """(N,), None where the batch had none."""
    index: Tensor
    """(N,), int64: position of each image in its data set."""


class _Layout(BaseModel):
    """What a shard says of itself: which images it covers, counted among those that are read, in which batches."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: int
    stop: int
    sizes: list[int]
    """Images of each batch; fewer in sum than are covered where some could not be read."""
    labelled: list[bool]
    """Whether each batch has labels."""


class _About(BaseModel):
    """What the shards of a folder have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    parts: dict[str, str]
    """What the key was made of, for people who wonder why something was computed again."""
    size: PositiveInt
    """Images per shard."""


class Shards:
    """The activations of one data set by one classifier, as far as they were computed.

    Parameters
    ----------
    folder : Path
        Where keys are folders; made when something is written.
    parts : mapping of str to str
        All that the activations depend on; their digest is the key.
    rows : sequence of int
        Positions of the images, ascending.
    size : int
        Images per shard, at least 1; the size of what is already there wins.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> block = Block(torch.ones(2, 3), torch.ones(2, 5), None, torch.arange(2))
    >>> with TemporaryDirectory() as folder:
    ...     shards = Shards(Path(folder), {"weights": "abc"}, range(4), size=2)
    ...     shards.write(0, [block])
    ...     shards.missing(), next(shards.read(0)).features.shape
    ([1], torch.Size([2, 3]))
    """

    def __init__(self, folder: Path, parts: Mapping[str, str], rows: Sequence[int], size: int) -> None:
        self.parts = {**parts, "format": str(FORMAT_VERSION)}
        self.key = combine(sorted(self.parts.items()))
        self.folder = folder / self.key
        self.rows = rows
        known = self._about()
        self.size = size if known is None else known.size
        self._sound: dict[int, Path] = {}

    def __len__(self) -> int:
        return -(-len(self.rows) // self.size)

    def number(self, position: int) -> int:
        """The shard of the image at a position."""
        return bisect_left(self.rows, position) // self.size

    def batches(self, numbers: Sequence[int], batch_size: int) -> list[Sequence[int]]:
        """Positions of the images of these shards in batches, none of which reaches into two shards."""
        covered = [self._covered(number) for number in numbers]
        return [part[i : i + batch_size] for part in covered for i in range(0, len(part), batch_size)]

    def missing(self) -> list[int]:
        """Numbers of the shards that are not there, or whose bytes are not those that were written."""
        found = [(match, path) for path in self._files() if (match := _NAME.fullmatch(path.name))]
        self._sound = {int(match[1]): path for match, path in found if self._is_sound(path, int(match[1]), match[2])}
        return [number for number in range(len(self)) if number not in self._sound]

    def read(self, number: int) -> Iterator[Block]:
        """The batches of a shard that `missing` did not name, as they were written."""
        path = self._sound[number]
        layout = _layout(path)
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        start = labels_start = 0
        for n, labelled in zip(layout.sizes, layout.labelled, strict=True):
            labels = tensors["labels"][labels_start : labels_start + n] if labelled else None
            features, logits, index = (tensors[name][start : start + n] for name in ("features", "logits", "index"))
            yield Block(features, logits, labels, index)
            start, labels_start = start + n, labels_start + n * labelled

    def write(self, number: int, blocks: Sequence[Block]) -> None:
        """Write a shard; other processes may be doing the same."""
        columns: dict[str, list[Tensor]] = {"features": [], "logits": [], "index": [], "labels": []}
        for block in blocks:
            for name, value in vars(block).items():
                columns[name] += [] if value is None else [value.cpu()]
        layout = _Layout(
            start=number * self.size,
            stop=number * self.size + len(self._covered(number)),
            sizes=[len(block.index) for block in blocks],
            labelled=[block.labels is not None for block in blocks],
        )
        tensors = {name: torch.cat(values).contiguous() for name, values in columns.items() if values}
        content = save(tensors, {"oodline": layout.model_dump_json()})
        self.folder.mkdir(parents=True, exist_ok=True)
        about = _About(parts=self.parts, size=self.size)
        known = self._about()
        if known is None:
            text = json.dumps(about.model_dump(), indent=1)
            write_atomically(self.folder / ABOUT, lambda file: file.write(text.encode()))
        elif known != about:
            return  # another process began with shards of another size in the meantime: those stay
        path = self.folder / f"{number:06}-{digest(content)}.safetensors"
        self._sound[number] = write_atomically(path, lambda file: file.write(content))

    def _covered(self, number: int) -> Sequence[int]:
        return self.rows[number * self.size : (number + 1) * self.size]

    def _files(self) -> list[Path]:
        return sorted(self.folder.iterdir()) if self.folder.is_dir() else []

    def _about(self) -> _About | None:
        try:
            found = _About.model_validate_json((self.folder / ABOUT).read_bytes())
        except (OSError, ValidationError):
            return None  # absent or damaged: shards of the wanted size count, and it is written anew
        return found if found.parts == self.parts else None

    def _is_sound(self, path: Path, number: int, written: str) -> bool:
        try:
            if checksum(path) != written:
                return False
            layout, start = _layout(path), number * self.size
        except (OSError, ValidationError):
            return False
        return (layout.start, layout.stop) == (start, start + len(self._covered(number)))


def _layout(path: Path) -> _Layout:
    with safe_open(path, framework="pt") as file:
        return _Layout.model_validate_json((file.metadata() or {}).get("oodline", ""))
