"""Folders of images: find class folders and image files, and warn of what is left out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from PIL import Image

from oodline._util.digests import combine, file_digest
from oodline._util.warning import warn
from oodline.data.class_order import natural_order
from oodline.data.decoding import decode
from oodline.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".avif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".gif")
"""Endings of the files that an image folder is searched for."""

NOT_CLASSES = (
    "__macosx",
    "__pycache__",
    "@eadir",
    "@recycle",
    "@recently-snapshot",
    "#recycle",
    "#snapshot",
    "$recycle.bin",
    "system volume information",
    "lost+found",
)
"""Folders that archive programs, file servers and operating systems leave, in small letters; so are hidden ones."""


class ImageFolder:
    """`root/class/image.jpg`, classes in alphabetical order; or a folder of images, or one image, without labels.

    Every folder in `root` is a class, whether or not an image is in it, and links to folders are followed: the order is
    that of torchvision's `ImageFolder`. Hidden folders and those of `NOT_CLASSES` are left out wherever they lie. Where
    images lie beside class folders that hold more images, the class folders count. A warning names what was left out.

    Parameters
    ----------
    root : str or Path
        A folder, or one image.
    order : {"alphabetical", "natural"}
        Order of the classes; "natural" puts 10 after 2.

    Raises
    ------
    DataError
        The path does not exist, holds no image, or a folder in it cannot be read.
    """

    def __init__(self, root: str | Path, order: str = "alphabetical") -> None:
        self.root = Path(root)
        if order not in ("alphabetical", "natural"):
            raise DataError(f"`order` must be alphabetical or natural; got {order}.")
        if not self.root.exists():
            raise DataError(
                f"there is no file or folder {root}. Check the path, or name a data set, such as torchvision:CIFAR10."
            )
        self.files: list[str] = []
        self.class_names: tuple[str, ...] | None = None
        self.order_is_known = order == "natural"
        """Whether the user has said in which order the classes are."""
        if self.root.is_file():
            self.root, self.files = self.root.parent, [self.root.name]
        else:
            self._scan(natural_order if order == "natural" else sorted)
        names: tuple[str, ...] = self.class_names or ()
        self._places = {name: i for i, name in enumerate(names)}

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
        """Of the names of the classes, the paths below the root and the bytes of the files."""
        return combine([self.class_names, *((file, file_digest(self.root / file)) for file in self.files)])

    def _scan(self, ordered: Callable[[Iterable[str]], Sequence[str]]) -> None:
        files, left_out = _images(self.root)
        beside = [file for file in files if not _folder(file)]
        held = {_folder(file) for file in files if _folder(file)}
        if not files:
            raise DataError(f"{self.root} holds no image: no file ends in {', '.join(SUFFIXES)}. Check the path.")
        # one folder beside as many images is a folder of images; several are classes
        if held and len(files) - len(beside) >= len(beside) + (len(held) == 1 and len(beside) > 0):
            self.class_names = tuple(ordered(_class_folders(self.root)))
            if beside:
                left_out = [*beside, *left_out]
                files = [file for file in files if _folder(file)]
        elif len(held) > 1:
            warn(
                f"{self.root} is read as images without labels: {len(beside)} images are outside its subfolders, more "
                "than inside them. If the subfolders are classes, move these images elsewhere.",
            )
        self.files = files
        if left_out:
            shown = ", ".join(left_out[:5]) + (", ..." if len(left_out) > 5 else "")
            warn(
                f"{len(left_out)} files and folders in {self.root} were left out: they are in no class folder, hidden, "
                f"broken or circular links, or leftovers of an archive or an operating system: {shown}",
            )


def _class_folders(root: Path) -> list[str]:
    with os.scandir(root) as entries:
        return [entry.name for entry in entries if entry.is_dir() and not _is_aside(entry.name)]


def _is_aside(name: str) -> bool:
    return name.startswith(".") or name.lower() in NOT_CLASSES


def _images(root: Path) -> tuple[list[str], list[str]]:
    """Images below `root`, and what was left out; as plain strings, since a Path takes ten times the memory."""
    images: list[str] = []
    left_out: list[str] = []

    def walk(folder: str, below: str, above: frozenset[tuple[int, int]]) -> None:
        try:
            with os.scandir(folder) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(f"the folder {folder} cannot be read: {error.strerror}. Check its permissions.") from error
        for entry in listed:
            place = f"{below}{entry.name}"
            is_image = entry.name[1:].lower().endswith(SUFFIXES)
            if entry.is_dir():
                state = entry.stat()
                identity = (state.st_dev, state.st_ino)
                if _is_aside(entry.name) or identity in above:  # a link to a folder that holds it would never end
                    left_out.append(place + os.sep)
                else:
                    walk(entry.path, place + os.sep, above | {identity})
            elif is_image and entry.is_file() and not entry.name.startswith("."):
                images.append(place)
            elif is_image or (not below and entry.is_symlink() and not entry.is_file()):
                left_out.append(place)

    state = root.stat()
    walk(str(root), "", frozenset({(state.st_dev, state.st_ino)}))
    # folder by folder, as paths are compared: "a/b" before "a-b/c"
    return sorted(images, key=lambda file: file.replace(os.sep, "\0")), left_out


def _folder(file: str) -> str:
    first, separator, _ = file.partition(os.sep)
    return first if separator else ""
