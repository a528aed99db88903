"""Images with a mask each: a file of the same name in another folder, whose pixels are numbers of classes."""

from __future__ import annotations

from pathlib import Path, PurePath

import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor

from oodline._util.digests import combine, file_digest
from oodline.data.decoding import decode_mask
from oodline.data.sources import ImageSource
from oodline.errors import DataError

SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".pgm")
"""Endings of mask files, the first that is there counts: those of formats that keep numbers as they are."""

RENUMBERED = ".gif"
"""Ending of a format whose writers number colours anew: 0, 5 and 9 become 0, 1 and 2, which no reader can undo."""


class MaskedImages:
    """Images of a source, with the mask of each: `images/a/1.jpg` has `masks/a/1.png`.

    A mask is of the image as it is seen: upright, where EXIF of the image states an orientation.

    Parameters
    ----------
    images : ImageSource
        A folder of images or a list of files, which names images by their paths.
    folder : str or Path
        Masks, in folders and under names as the images have them.

    Raises
    ------
    DataError
        There is no such folder, or an image has no mask, or one in GIF.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from oodline.data import open_images
    >>> with TemporaryDirectory() as home:
    ...     for folder, mode, value in (("images", "RGB", "red"), ("masks", "L", 3)):
    ...         Path(home, folder).mkdir()
    ...         Image.new(mode, (2, 1), value).save(f"{home}/{folder}/one.png")
    ...     open_images(f"{home}/images,masks={home}/masks").mask(0)
    tensor([[3, 3]])
    """

    class_names: tuple[str, ...] | None = None
    """None: folders of the images are not their classes."""

    def __init__(self, images: ImageSource, folder: str | Path) -> None:
        self.images, self.folder = images, Path(folder)
        if not self.folder.is_dir():
            raise DataError(f"there is no folder of masks {folder}. Check the path.")
        self._masks = [self._found(images.name(i)) for i in range(len(images))]

    def __len__(self) -> int:
        return len(self.images)

    def name(self, i: int) -> str:
        """As the images are named."""
        return self.images.name(i)

    def label(self, i: int) -> int | None:
        """None: an image has a mask in place of a label."""
        return None

    def read(self, i: int) -> Image.Image:
        """The image."""
        return self.images.read(i)

    def mask(self, i: int) -> Int[Tensor, "h w"]:
        """The class of each pixel, as the file has it; raises `ImageError` where it cannot be read."""
        return torch.from_numpy(decode_mask(self.folder / self._masks[i], self._masks[i]))

    def fingerprint(self) -> str:
        """Of the images, and the bytes of all masks."""
        return combine([self.images.fingerprint(), *(file_digest(self.folder / mask) for mask in self._masks)])

    def _found(self, name: str) -> str:
        for suffix in SUFFIXES:
            mask = str(PurePath(name).with_suffix(suffix))
            if (self.folder / mask).is_file():
                return mask
        if (self.folder / PurePath(name).with_suffix(RENUMBERED)).is_file():
            raise DataError(
                f"the mask of {name} is a GIF file, and writers of GIF number classes anew. Write masks as PNG again, "
                "from what they were made of."
            )
        raise DataError(
            f"{self.folder} has no mask for {name}: no {PurePath(name).with_suffix('.png')}, nor one that ends in "
            f"{', '.join(SUFFIXES[1:])}. Masks must have the names of their images."
        )
