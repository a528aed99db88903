"""What an image data set is to oodline: images by position, each with a name and perhaps a label."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from PIL import Image

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
        """Image `i`; raises what PIL raises where it cannot be read."""
        ...

    def fingerprint(self) -> str:
        """SHA-256 of the content, images and labels, by which a cache knows it: the same wherever the data lies."""
        ...


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
            self.root, files = self.root.parent, [self.root]
        else:
            files = sorted(p for p in self.root.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if not files:
            raise DataError(f"{root} holds no image; files ending in {', '.join(SUFFIXES)} were looked for.")
        self.files = [str(file.relative_to(self.root)) for file in files]
        folders = [Path(file).parts[0] if len(Path(file).parts) > 1 else None for file in self.files]
        classes = None if None in folders else sorted({f for f in folders if f is not None})
        self.class_names = None if classes is None else tuple(classes)
        places = {} if classes is None else {name: i for i, name in enumerate(classes)}
        self.labels = [places.get(f) if f is not None else None for f in folders]

    def __len__(self) -> int:
        return len(self.files)

    def name(self, i: int) -> str:
        """Path below the root."""
        return self.files[i]

    def label(self, i: int) -> int | None:
        """Position of its folder among the class folders."""
        return self.labels[i]

    def read(self, i: int) -> Image.Image:
        """Decode the file."""
        with Image.open(self.root / self.files[i]) as image:
            image.load()  # here, so that the file is closed whether or not it can be decoded
            return image

    def fingerprint(self) -> str:
        """Of the paths below the root and the bytes of the files."""
        return combine((file, file_digest(self.root / file)) for file in self.files)
