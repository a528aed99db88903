"""Some images of a source, in an order of one's own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from oodline.data.digests import combine
from oodline.data.sources import ImageSource


class Subset:
    """The images of a source at these positions.

    Parameters
    ----------
    source : ImageSource
        Whose images.
    positions : sequence of int
        Which, in which order.
    """

    def __init__(self, source: ImageSource, positions: Sequence[int]) -> None:
        self.source, self.positions = source, list(positions)
        self.class_names = source.class_names

    def __len__(self) -> int:
        return len(self.positions)

    def name(self, i: int) -> str:
        """As the source calls it."""
        return self.source.name(self.positions[i])

    def label(self, i: int) -> int | None:
        """As the source says."""
        return self.source.label(self.positions[i])

    def read(self, i: int) -> Image.Image:
        """As the source reads it."""
        return self.source.read(self.positions[i])

    def fingerprint(self) -> str:
        """Of the source's content and the positions."""
        return combine([self.source.fingerprint(), self.positions])


def sample(source: ImageSource, most: int, seed: int = 0) -> Subset:
    """At most `most` images, evenly spaced over the source and shuffled: of all classes also where they are sorted.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from oodline.data import open_images
    >>> with TemporaryDirectory() as folder:
    ...     for i in range(9):
    ...         Image.new("L", (1, 1)).save(f"{folder}/{i}.png")
    ...     sorted(sample(open_images(folder), 3).positions)
    [0, 3, 6]
    """
    size = min(most, len(source))
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed)).tolist()
    return Subset(source, [i * len(source) // size for i in order])
