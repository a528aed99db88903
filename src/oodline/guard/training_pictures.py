"""`TrainingPictures`: small pictures of a few training images, kept in a guard's file to show what excites a neuron."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import torch
from jaxtyping import Int, Int8
from PIL import Image
from torch import Tensor

from oodline._util.pixels import standard_image
from oodline.errors import StatisticsError

SIDE = 48
"""Longest side of a picture, in pixels."""

NAMES = ("picture_index", "picture_ends", "picture_bytes")


@dataclass(frozen=True, eq=False)
class TrainingPictures:
    """JPEG files of K training images, of at most 48 pixels a side: about 1.3 kB each.

    Parameters
    ----------
    index : Tensor (K,), int64
        Positions in the training data, ascending.
    ends : Tensor (K,), int64
        Where each file ends in `content`.
    content : Tensor (B,), int8
        The bytes of the files, one file after the other.

    Examples
    --------
    >>> pictures = TrainingPictures.of(lambda i: Image.new("RGB", (90, 60), (i, 0, 0)), [7, 3])
    >>> pictures.index.tolist(), pictures.image(7).size, pictures.image(8), pictures.uri(3)[:23]
    ([3, 7], (48, 32), None, 'data:image/jpeg;base64,')
    """

    index: Int[Tensor, " k"]
    ends: Int[Tensor, " k"]
    content: Int8[Tensor, " b"]

    @classmethod
    def of(cls, read: Callable[[int], Image.Image], index: Iterable[int]) -> Self:
        """Those of the images at these positions.

        Parameters
        ----------
        read : callable
            From a position in the training data to the image there.
        index : iterable of int
            At least one.
        """
        chosen = sorted(set(index))
        files = [_small(read(i)) for i in chosen]
        ends = torch.tensor([len(file) for file in files]).cumsum(0)
        return cls(torch.tensor(chosen), ends, torch.frombuffer(bytearray(b"".join(files)), dtype=torch.int8))

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors, by name."""
        return dict(zip(NAMES, (self.index, self.ends, self.content), strict=True))

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> Self:
        """Restore from `state_dict()`.

        Raises
        ------
        StatisticsError
            They are not JPEG files of that size, one per position.
        """
        index, ends, content = (state[name] for name in NAMES)
        kinds = [(value.dtype, value.ndim) for value in (index, ends, content)]
        whole = kinds == [(torch.int64, 1), (torch.int64, 1), (torch.int8, 1)] and 0 < len(index) == len(ends)
        if not whole or not all(a < b for column in (index, ends) for a, b in pairwise([-1, *column.tolist()])):
            raise StatisticsError("pictures must have ascending positions, and ends of their files that ascend too.")
        found = cls(index, ends, content)
        if int(ends[-1]) != len(content) or not all(_is_small(found._file(k)) for k in range(len(index))):
            raise StatisticsError(f"pictures must be JPEG files of at most {SIDE} pixels a side.")
        return found

    def image(self, index: int) -> Image.Image | None:
        """The picture of the training image at a position; None where it is not kept."""
        file = self._of(index)
        return None if file is None else Image.open(io.BytesIO(file), formats=["JPEG"])

    def uri(self, index: int) -> str | None:
        """The same as a data URI."""
        file = self._of(index)
        return None if file is None else f"data:image/jpeg;base64,{base64.b64encode(file).decode()}"

    def _of(self, index: int) -> bytes | None:
        k = int(torch.searchsorted(self.index, index))
        return self._file(k) if k < len(self.index) and int(self.index[k]) == index else None

    def _file(self, k: int) -> bytes:
        start = int(self.ends[k - 1]) if k else 0
        return self.content[start : int(self.ends[k])].numpy().tobytes()


def _small(image: Image.Image) -> bytes:
    small = standard_image(image).convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.save(out, "JPEG", quality=82, optimize=True)
    return out.getvalue()


def _is_small(file: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(file), formats=["JPEG"]) as image:  # reads no more than its header
            return max(image.size) <= SIDE
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False
