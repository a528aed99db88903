"""What an image data set is to oodline: images by position, each with a name and perhaps a label."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from PIL import Image

from oodline.data.decoding import decode
from oodline.data.digests import combine, file_digest
from oodline.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif")
"""Endings of the files that an image folder is searched for."""


class ImageSource(Protocol):
    """Images by position."""

    class_names: tuple[str, ...] | None
    """Names of the classes in the order of the labels, where the source knows them."""

    def __len__(self) -> int:
        """Number of images."""
        ...

    def name(self, i: int) -> str:
        """What to call image `i` in messages and tables."""
        ...

    def label(self, i: int) -> int | None:
        """Class of image `i`, None where it has none."""
        ...

    def read(self, i: int) -> Image.Image:
        """Image `i`; raises where it cannot be read. Call `oodline.data.decoding.read_image`, which names the image."""
        ...

    def fingerprint(self) -> str:
        """SHA-256 of the content, images and labels, by which a cache knows it: the same wherever the data lies."""
        ...


def names_of_logits(names: Sequence[str] | None, label_offset: int, num_classes: int) -> tuple[str, ...] | None:
    """A source's class names in the order of a classifier's logits.

    Parameters
    ----------
    names : sequence of str, optional
        In the order of the source's labels.
    label_offset : int
        What is added to a label to make it the position of a logit.
    num_classes : int
        Number of logits; 0 where it is not known.

    Returns
    -------
    tuple of str, or None
        A logit before the first name is `class` and its number. None where there are no names, or not one a class.

    Examples
    --------
    >>> names_of_logits(["cat", "dog"], 1, 3)
    ('class 0', 'cat', 'dog')
    >>> names_of_logits(["cat", "dog"], 0, 3) is None
    True
    """
    if names is None:
        return None
    moved = (*(f"class {i}" for i in range(label_offset)), *names[max(-label_offset, 0) :])
    return moved if num_classes in (0, len(moved)) else None


class ImageFolder:
    """`root/class/image.jpg`, classes in alphabetical order; or a folder of images, or one image, without labels.

    Raises
    ------
    DataError
        The path does not exist, or holds no image.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not self.root.exists():
            raise DataError(f"there is no file or folder {root}. Check the path, or name a set: torchvision:CIFAR10.")
        if self.root.is_file():
            self.root, files = self.root.parent, [self.root.name]
        else:
            files = list(_images(self.root))
        if not files:
            raise DataError(f"{root} holds no image; files ending in {', '.join(SUFFIXES)} were looked for.")
        self.files = files
        folders = {_folder(file) for file in files}
        self.class_names = None if "" in folders else tuple(sorted(folders))
        self._places = {name: i for i, name in enumerate(self.class_names or ())}

    def __len__(self) -> int:
        return len(self.files)

    def name(self, i: int) -> str:
        """Path below the root."""
        return self.files[i]

    def label(self, i: int) -> int | None:
        """Position of its folder among the class folders."""
        return self._places.get(_folder(self.files[i]))

    def read(self, i: int) -> Image.Image:
        """Decode the file."""
        return decode(self.root / self.files[i], self.files[i])

    def fingerprint(self) -> str:
        """Of the paths below the root and the bytes of the files."""
        return combine((file, file_digest(self.root / file)) for file in self.files)


def _images(root: Path) -> list[str]:
    # plain strings: a Path takes ten times the memory, and a data set may hold millions
    found = []
    for folder, _, names in os.walk(root):
        below = os.path.relpath(folder, root)
        kept = [n for n in names if Path(n).suffix.lower() in SUFFIXES and Path(folder, n).is_file()]
        found += kept if below == "." else [f"{below}{os.sep}{n}" for n in kept]
    # folder by folder, as paths are compared: "a/b" before "a-b/c"
    return sorted(found, key=lambda file: file.replace(os.sep, "\0"))


def _folder(file: str) -> str:
    first, separator, _ = file.partition(os.sep)
    return first if separator else ""
