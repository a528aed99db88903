"""From a source to batches: decode, prepare, and skip or refuse what cannot be read."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from oodline.batch import Batch
from oodline.data.sources import ImageSource
from oodline.errors import DataError, InputError


class ImageDataset(Dataset[tuple[int, Tensor | None, int | None, str]]):
    """A source behind a preprocessing: items are (index, input, label, why it could not be read).

    Parameters
    ----------
    source : ImageSource
        Where images come from.
    preprocessing : callable
        From a PIL image to a tensor.
    on_error : {"raise", "skip"}
        Raise `DataError` for an unreadable image, or give None in its place.
    label_offset : int
        Added to every label.
    """

    def __init__(
        self,
        source: ImageSource,
        preprocessing: Callable[[Image.Image], Tensor],
        on_error: Literal["raise", "skip"] = "raise",
        label_offset: int = 0,
    ) -> None:
        self.source, self.preprocessing = source, preprocessing
        self.on_error, self.label_offset = on_error, label_offset

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> tuple[int, Tensor | None, int | None, str]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                image = self.source.read(i)
                image.load()
        except (
            OSError,
            SyntaxError,
            ValueError,
            Image.DecompressionBombError,
            Image.DecompressionBombWarning,
        ) as error:
            if self.on_error == "skip":
                return i, None, None, str(error)
            raise DataError(
                f"image {self.source.name(i)} (number {i}) cannot be read: {error}. Repair or remove it, or skip such "
                "images with --on-error skip."
            ) from error
        label = self.source.label(i)
        return i, self.preprocessing(image), None if label is None else label + self.label_offset, ""


class ImageLoader:
    """Batches of a source in its order, with the position of every image.

    Parameters
    ----------
    dataset : ImageDataset
        What to read.
    batch_size : int
        Images a batch; fewer where some were skipped, and in the last one.
    workers : int
        Processes that read beside the main one.
    limit : int, optional
        Read only the first so many images.

    Raises
    ------
    DataError
        While iterating: an unreadable image, or images of different sizes.
    """

    def __init__(self, dataset: ImageDataset, batch_size: int = 64, workers: int = 0, limit: int | None = None) -> None:
        if batch_size < 1 or (limit is not None and limit < 1):
            raise InputError(f"batch_size and limit must be at least 1; they are {batch_size} and {limit}.")
        self.dataset = dataset
        self.source = dataset.source
        self.num_samples = len(dataset) if limit is None else min(limit, len(dataset))
        self.skipped: list[str] = []
        """Names of the images that could not be read in the last iteration."""
        self._loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_size,
            sampler=range(self.num_samples),
            num_workers=workers,
            collate_fn=list,
        )

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        self.skipped = []
        for items in self._loader:
            read = [(i, image, label) for i, image, label, _ in items if image is not None]
            self.skipped += [self.source.name(i) for i, image, _, _ in items if image is None]
            if read:
                yield self._collate(read)

    def _collate(self, items: Sequence[tuple[int, Tensor, int | None]]) -> Batch:
        index, images, labels = zip(*items, strict=True)
        for i, image in zip(index, images, strict=True):
            if image.shape != images[0].shape:
                raise DataError(
                    f"images have different sizes after preprocessing: {self.source.name(index[0])} is "
                    f"{tuple(images[0].shape)}, {self.source.name(i)} is {tuple(image.shape)}. Set a crop in the "
                    "preprocessing."
                )
        labelled = None if None in labels else torch.tensor(labels)
        return Batch(torch.stack(images), labelled, torch.tensor(index))


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
    >>> from oodline.preprocessing import Preprocessing
    >>> with TemporaryDirectory() as folder:
    ...     Image.new("RGB", (8, 8)).save(f"{folder}/black.png")
    ...     [batch] = image_loader(open_images(folder), Preprocessing())
    >>> batch.inputs.shape, batch.labels, batch.index
    (torch.Size([1, 3, 8, 8]), None, tensor([0]))
    """
    return ImageLoader(ImageDataset(source, preprocessing, on_error, label_offset), batch_size, workers, limit)
