"""Load batches of images from a source: decode, preprocess, and skip or refuse unreadable images."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from PIL import Image
from pydantic import BaseModel
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from oodline._util.digests import combine
from oodline.data.batch import Batch, labels_of_batch
from oodline.data.decoding import read_image
from oodline.data.masks import MaskedImages
from oodline.data.sources import ImageSource
from oodline.data.subset import evenly, labels_of
from oodline.errors import DataError, ImageError, InputError
from oodline.preprocessing.geometry import IGNORED
from oodline.preprocessing.preprocessing import Preprocessing

Label = int | Tensor | None
"""The class of an image, or of each of its pixels (H, W)."""


class ImageDataset(Dataset[tuple[int, Tensor | None, Label, str]]):
    """A source behind a preprocessing: items are (index, input, label, why it could not be read).

    An image that cannot be read is an item without input, so that the reason comes out of a worker as it went in.

    Parameters
    ----------
    source : ImageSource
        Where images come from.
    preprocessing : callable
        From a PIL image to a tensor. For `MaskedImages`, a `Preprocessing`, which says where pixels go.
    label_offset : int
        Added to every label, but 255 of masks; what falls below 0 is left out.

    Raises
    ------
    InputError
        The source has masks, and the preprocessing does not say where pixels go.
    """

    def __init__(
        self, source: ImageSource, preprocessing: Callable[[Image.Image], Tensor], label_offset: int = 0
    ) -> None:
        self.source, self.preprocessing, self.label_offset = source, preprocessing, label_offset
        if isinstance(source, MaskedImages) and not isinstance(where := _owner(preprocessing), Preprocessing):
            raise InputError(f"masks need an oodline.Preprocessing, to go where pixels go; got {type(where).__name__}.")

    def __len__(self) -> int:
        return len(self.source)

    def recipe(self) -> str:
        """The preprocessing as text: JSON of a `Preprocessing`, or the `fingerprint` that a callable has.

        Raises
        ------
        InputError
            It is neither.
        """
        if isinstance(self.preprocessing, BaseModel):
            return f"{type(self.preprocessing).__name__} {self.preprocessing.model_dump_json()}"
        stated = getattr(self.preprocessing, "fingerprint", None)
        if isinstance(stated, str):
            return stated
        raise InputError(
            f"the preprocessing, a {type(self.preprocessing).__name__}, has no `fingerprint`, so stored activations "
            "could not be told from those of another preprocessing. Use oodline.Preprocessing, or add an attribute "
            "`fingerprint`: a text that changes when the preprocessing does."
        )

    def __getitem__(self, i: int) -> tuple[int, Tensor | None, Label, str]:
        try:
            image = read_image(self.source, i)
            label: Label = self._mask(i, image) if isinstance(self.source, MaskedImages) else self.source.label(i)
        except ImageError as error:
            return i, None, None, error.reason
        if isinstance(label, int):
            label += self.label_offset
        return i, self.preprocessing(image), label, ""

    def _mask(self, i: int, image: Image.Image) -> Tensor:
        assert isinstance(self.source, MaskedImages)
        mask = self.source.mask(i)
        if tuple(mask.shape) != (image.height, image.width):
            raise DataError(
                f"the mask of {self.source.name(i)} is {mask.shape[1]} x {mask.shape[0]} pixels, and the image, turned "
                f"as its EXIF says, {image.width} x {image.height}. A mask must have the size of its image, upright."
            )
        if self.label_offset:
            mask = torch.where(mask == IGNORED, mask, mask + self.label_offset)
        prepared: Preprocessing = _owner(self.preprocessing)
        return prepared.mask(mask)


class ImageLoader:
    """Batches of a source in its order, with the position of every image.

    Parameters
    ----------
    dataset : ImageDataset
        What to read.
    batch_size : int
        Images per batch; fewer if some were skipped, and in the last one.
    workers : int
        Processes that read beside the main one.
    limit : int, optional
        Read at most this many images, evenly over classes; of images without labels the first ones.
    on_error : {"raise", "skip"}
        Raise `ImageError` for an unreadable image, or leave it out and remember its name.

    Raises
    ------
    DataError
        While iterating: an unreadable image, images of different sizes, a worker that died.
    """

    unit = "images"
    """What its samples are, in words."""

    def __init__(
        self,
        dataset: ImageDataset,
        batch_size: int = 64,
        workers: int = 0,
        limit: int | None = None,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> None:
        if batch_size < 1 or (limit is not None and limit < 1):
            raise InputError(f"`batch_size` and `limit` must be at least 1; got {batch_size} and {limit}.")
        self.dataset, self.batch_size, self.workers, self.on_error = dataset, batch_size, workers, on_error
        self.source = dataset.source
        self.skipped: list[str] = []
        """Names of the images that could not be read in the last iteration."""
        everything = limit is None or limit >= len(dataset)
        self._read_only(range(len(dataset)) if everything else evenly(labels_of(self.source), limit or 1))

    def _read_only(self, rows: Sequence[int]) -> None:
        self.rows = rows
        self._loader: DataLoader[Any] = DataLoader(
            self.dataset, self.batch_size, sampler=rows, num_workers=self.workers, collate_fn=list
        )

    @property
    def num_samples(self) -> int:
        """Number of images, readable or not."""
        return len(self.rows)

    def over(self, batches: Sequence[Sequence[int]]) -> ImageLoader:
        """The same images cut into these batches of positions, which need not be all."""
        part = copy.copy(self)
        part.skipped = []
        part._loader = DataLoader(
            self.dataset, batch_sampler=[list(b) for b in batches], num_workers=self.workers, collate_fn=list
        )
        return part

    def name(self, i: int) -> str:
        """What to call image `i` in messages."""
        return self.source.name(i)

    def identity(self) -> dict[str, str]:
        """All that the batches' content depends on, by name: what a cache knows them by.

        Raises
        ------
        InputError
            The preprocessing is code that cannot say what it does.
        """
        return {
            "data": self.source.fingerprint(),
            **self.preparation(),
            "unreadable images": self.on_error,
        }

    def preparation(self) -> dict[str, str]:
        """What each image becomes, and which of them: not the data itself, nor what is done where one is unreadable.

        Raises
        ------
        InputError
            As `identity`.
        """
        return {
            "preprocessing": self.dataset.recipe(),
            "label offset": str(self.dataset.label_offset),
            "images": describe_rows(self.rows),
        }

    def __len__(self) -> int:
        return len(self._loader)

    def part(self, i: int, n: int) -> ImageLoader:
        """The i-th of `n` shares: a run of whole batches, which keep the positions that they have here."""
        first, end = (math.ceil(k * len(self) / n) * self.batch_size for k in (i, i + 1))
        part = copy.copy(self)
        part.skipped = []
        part._read_only(self.rows[first:end])
        return part

    def __iter__(self) -> Iterator[Batch]:
        self.skipped = []
        for items in self._fetch():
            read = [(i, image, label) for i, image, label, _ in items if image is not None]
            for i, image, _, reason in items:
                if image is None and self.on_error == "raise":
                    raise ImageError(
                        f"image {self.source.name(i)} (number {i}) cannot be read: {reason}. Repair or remove it, or "
                        "skip such images with --on-error skip."
                    )
            self.skipped += [self.source.name(i) for i, image, _, _ in items if image is None]
            if read:
                yield self._collate(read)

    def _fetch(self) -> Iterator[Any]:
        try:
            yield from self._loader
        except RuntimeError as error:
            if "worker" not in str(error):
                raise
            raise DataError(
                f"a worker process that read images died ({str(error).splitlines()[0]}). It may have run out of "
                "memory: try fewer --workers or a smaller --batch-size."
            ) from error

    def _collate(self, items: Sequence[tuple[int, Tensor, Label]]) -> Batch:
        index, images, labels = zip(*items, strict=True)
        for i, image in zip(index, images, strict=True):
            if image.shape != images[0].shape:
                raise DataError(
                    f"images have different sizes after preprocessing: {self.source.name(index[0])} is "
                    f"{tuple(images[0].shape)}, {self.source.name(i)} is {tuple(image.shape)}. Set a crop in the "
                    "preprocessing."
                )
        return Batch(torch.stack(images), _together(labels), torch.tensor(index))


def _together(labels: Sequence[Label]) -> Tensor | None:
    if isinstance(labels[0], Tensor):
        return torch.stack(list(labels))  # type: ignore[arg-type]
    return labels_of_batch(labels)  # type: ignore[arg-type]


def _owner(preprocessing: Any) -> Any:
    return getattr(preprocessing, "__self__", preprocessing)  # of `Preprocessing.pixels`, too


def describe_rows(rows: Sequence[int]) -> str:
    """Positions as a text that differs where they do.

    >>> describe_rows(range(3, 9))
    '3 to 9'
    """
    return f"{rows.start} to {rows.stop}" if isinstance(rows, range) else f"{len(rows)}: {combine(rows)}"


def image_loader(
    source: ImageSource,
    preprocessing: Callable[[Image.Image], Tensor],
    *,
    batch_size: int = 64,
    workers: int = 0,
    on_error: Literal["raise", "skip"] = "raise",
    limit: int | None = None,
    label_offset: int = 0,
) -> ImageLoader:
    """Batches of a source in its order; see `ImageDataset` and `ImageLoader`.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from oodline.data import open_images
    >>> from oodline.preprocessing.preprocessing import Preprocessing
    >>> with TemporaryDirectory() as folder:
    ...     Image.new("RGB", (8, 8)).save(f"{folder}/black.png")
    ...     [batch] = image_loader(open_images(folder), Preprocessing())
    >>> batch.inputs.shape, batch.labels, batch.index
    (torch.Size([1, 3, 8, 8]), None, tensor([0]))
    """
    return ImageLoader(ImageDataset(source, preprocessing, label_offset), batch_size, workers, limit, on_error)
