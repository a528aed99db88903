"""Activations on disk: shards of a fixed number of images, each with its SHA-256 in an index beside them.

A shard is a safetensors file, mapped into memory when it is read. Its name holds its digest, and files are renamed into
place, so that two processes that write the same activations at once cannot spoil each other's. A shard that is missing,
truncated or changed is as good as not there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from oodline.data.digests import combine
from oodline.files import write_atomically

FORMAT_VERSION = 1


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


class _Shard(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    file: Annotated[str, StringConstraints(pattern=r"^\d{6,}-[0-9a-f]{16}\.safetensors$")]
    sha256: str
    sizes: list[int]
    """Images of each batch; fewer in sum than the shard covers where some could not be read."""
    labelled: list[bool]
    """Whether each batch has labels."""


class _Index(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    parts: dict[str, str]
    """What the key was made of, for people who wonder why something was computed again."""
    size: int
    """Images a shard."""
    shards: dict[int, _Shard]


class Shards:
    """The activations of one data set by one classifier, as far as they were computed.

    Parameters
    ----------
    folder : Path
        Where keys are folders; made when something is written.
    parts : mapping of str to str
        All that the activations depend on; their digest is the key.
    rows : range
        Positions of the images.
    size : int
        Images a shard, at least 1; the size of what is already there wins.

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

    def __init__(self, folder: Path, parts: Mapping[str, str], rows: range, size: int) -> None:
        self.parts = {**parts, "format": str(FORMAT_VERSION)}
        self.key = combine(sorted(self.parts.items()))
        self.folder = folder / self.key
        self.rows = rows
        known = self._index()
        self.size = size if known is None else known.size

    def __len__(self) -> int:
        return -(-len(self.rows) // self.size)

    def number(self, position: int) -> int:
        """The shard of the image at a position."""
        return (position - self.rows.start) // self.size

    def batches(self, numbers: Sequence[int], batch_size: int) -> list[range]:
        """Positions of the images of these shards in batches, none of which reaches into two shards."""
        covered = [self.rows[n * self.size : (n + 1) * self.size] for n in numbers]
        return [part[i : i + batch_size] for part in covered for i in range(0, len(part), batch_size)]

    def missing(self) -> list[int]:
        """Numbers of the shards that are not there, or whose bytes are not those that were written."""
        known = self._index()
        there = {} if known is None else known.shards
        return [n for n in range(len(self)) if n not in there or not self._sound(there[n])]

    def read(self, number: int) -> Iterator[Block]:
        """The batches of a shard that is there, as they were written."""
        known = self._index()
        if known is None:
            return
        shard = known.shards[number]
        with safe_open(self.folder / shard.file, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        start = labels_start = 0
        for n, labelled in zip(shard.sizes, shard.labelled, strict=True):
            labels = tensors["labels"][labels_start : labels_start + n] if labelled else None
            features, logits, index = (tensors[name][start : start + n] for name in ("features", "logits", "index"))
            yield Block(features, logits, labels, index)
            start, labels_start = start + n, labels_start + n * labelled

    def write(self, number: int, blocks: Sequence[Block]) -> None:
        """Write a shard, then the index that knows it; other processes may be doing the same."""
        columns: dict[str, list[Tensor]] = {"features": [], "logits": [], "index": [], "labels": []}
        for block in blocks:
            for name, value in vars(block).items():
                columns[name] += [] if value is None else [value.cpu()]
        content = save({name: torch.cat(values).contiguous() for name, values in columns.items() if values})
        digest = hashlib.sha256(content).hexdigest()
        shard = _Shard(
            file=f"{number:06}-{digest[:16]}.safetensors",
            sha256=digest,
            sizes=[len(block.index) for block in blocks],
            labelled=[block.labels is not None for block in blocks],
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        # another process may have begun the same data set with shards of another size: what is there wins
        known = self._index()
        if known is not None and known.size != self.size:
            return
        write_atomically(self.folder / shard.file, lambda file: file.write(content))
        # read again, so that what was added since is kept; what is lost in the moment between is only computed again
        known = self._index()
        before = {} if known is None else known.shards
        index = _Index(parts=self.parts, size=self.size, shards={**before, number: shard})
        text = json.dumps(index.model_dump(), indent=1)
        write_atomically(self.folder / "index.json", lambda file: file.write(text.encode()))

    def _index(self) -> _Index | None:
        try:
            found = _Index.model_validate_json((self.folder / "index.json").read_bytes())
        except (OSError, ValidationError):
            return None  # absent or damaged: the shards are computed again
        return found if found.parts == self.parts and found.size >= 1 else None

    def _sound(self, shard: _Shard) -> bool:
        try:
            with (self.folder / shard.file).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == shard.sha256
        except OSError:
            return False
