"""Data sets of torchvision and Hugging Face `datasets`, opened by name."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from oodline._util.digests import combine, digest, file_digest, image_digest
from oodline._util.spec import Reference
from oodline.data.columns import IMAGES, LABELS, class_numbers, find_column, image_content
from oodline.data.decoding import decode, image_error, read_image
from oodline.errors import DataError, ImageError, missing_extra, unknown_name


class TorchvisionImages:
    """A torchvision data set whose items are (PIL image, integer label).

    Parameters
    ----------
    dataset : torchvision.datasets.VisionDataset
        Built without a transform.
    name : str
        What to call it.
    """

    def __init__(self, dataset: Any, name: str | None = None) -> None:
        self.dataset = dataset
        self.title = name or type(dataset).__name__
        classes = getattr(dataset, "classes", None)
        synonyms = [c if isinstance(c, tuple) else (c,) for c in classes or ()]  # ImageNet's classes have several names
        self.class_names = tuple(", ".join(map(str, names)) for names in synonyms) or None
        labels = getattr(dataset, "targets", getattr(dataset, "labels", getattr(dataset, "_labels", None)))
        self._labels = None if labels is None else [int(v) for v in labels]

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, i: int) -> str:
        """Data set and position."""
        return f"{self.title}#{i}"

    def label(self, i: int) -> int | None:
        """The label, from the list of labels where the data set has one, else with the image."""
        return self._labels[i] if self._labels is not None else int(self.dataset[i][1])

    def read(self, i: int) -> Image.Image:
        """The image, as the data set decodes it."""
        image: Image.Image = self.dataset[i][0]
        return image

    def fingerprint(self) -> str:
        """Of the array of all images, where the data set holds one, else of every decoded image; and of the labels."""
        labels = [self.label(i) for i in range(len(self))]
        data: Any = getattr(self.dataset, "data", None)
        if hasattr(data, "shape") and len(data) == len(self):
            pixels = np.ascontiguousarray(data)
            return combine([pixels.shape, pixels.dtype, digest(pixels), labels])
        return combine((_content(self, i), label) for i, label in enumerate(labels))


class HuggingFaceImages:
    """A Hugging Face `datasets.Dataset` with an image column.

    Raises
    ------
    DataError
        There is no such column, or several that may be meant.
    """

    def __init__(self, dataset: Any, image: str | None = None, label: str | None = None, name: str = "dataset") -> None:
        from datasets import ClassLabel
        from datasets import Image as ImageColumn

        features, columns = dataset.features, dataset.column_names
        images = [c for c in columns if isinstance(features[c], ImageColumn)]
        column = find_column(columns, image, IMAGES, images, name)
        if column is None:
            raise DataError(
                f"{name} has no column 'image'; its columns are {', '.join(columns)}. Name it: image=COLUMN."
            )
        # not decoded by `datasets`, which tries every format that PIL knows
        self.dataset = dataset.cast_column(column, ImageColumn(decode=False)) if column in images else dataset
        self.title, self.image = name, column
        self.class_names: tuple[str, ...] | None = None
        self._labels = None
        classes = [c for c in columns if isinstance(features[c], ClassLabel)]
        column = None if label == "" else find_column(columns, label, LABELS, classes, name, column)
        if column is not None:
            values = pa.chunked_array([pa.array(dataset[column][:])])
            names = getattr(features[column], "names", None)
            labels = class_numbers(values, tuple(names) if names else None, f"column '{column}' of {name}")
            self._labels, self.class_names = labels.values, labels.names

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, i: int) -> str:
        """Data set and row."""
        return f"{self.title}#{i}"

    def label(self, i: int) -> int | None:
        """Value of the label column, None for -1 (unlabelled)."""
        value = -1 if self._labels is None else int(self._labels[i])
        return None if value < 0 else value

    def read(self, i: int) -> Image.Image:
        """Decode the image of the row."""
        try:
            content = image_content(self.dataset[i][self.image], Path())
        except Exception as error:
            raise image_error(self.name(i), error) from error
        return decode(content, self.name(i))

    def fingerprint(self) -> str:
        """Of the bytes of every image as they are stored, not decoded, and of the labels."""
        return combine((self._stored(i), self.label(i)) for i in range(len(self)))

    def _stored(self, i: int) -> str:
        try:
            content = image_content(self.dataset[i][self.image], Path())
        except OSError:
            return "unreadable"
        return digest(content) if isinstance(content, bytes) else file_digest(content)


def _content(source: TorchvisionImages, i: int) -> str:
    try:
        return image_digest(read_image(source, i))
    except ImageError:
        return "unreadable"


def open_torchvision(reference: Reference) -> TorchvisionImages:
    """Build a torchvision data set from `NAME` and its constructor's options; `root` is `data` unless said.

    Raises
    ------
    UnknownNameError, DataError
        No such data set; or torchvision cannot build it, for instance without `download=true`.
    """
    from torchvision import datasets

    options = dict(reference.options)
    if reference.name not in datasets.__all__:
        raise unknown_name("torchvision data set", reference.name, datasets.__all__)
    cls = getattr(datasets, reference.name)
    if "root" in inspect.signature(cls).parameters:
        options.setdefault("root", "data")
    try:
        dataset = cls(**options)
        if issubclass(cls, datasets.DatasetFolder):
            dataset.loader = decode  # torchvision's own tries every format that PIL knows
        return TorchvisionImages(dataset, reference.name)
    except (RuntimeError, TypeError, ValueError, OSError) as error:
        raise DataError(f"torchvision:{reference.name} could not be opened with {options}: {error}") from error


def open_hugging_face(reference: Reference) -> HuggingFaceImages:
    """Load a Hugging Face data set from `NAME` and options of `load_dataset`; `split` is `train` unless said.

    Raises
    ------
    MissingExtraError, DataError
        The package `datasets` is not installed; or it cannot load the data set.
    """
    try:
        import datasets
    except ImportError as error:
        raise missing_extra("datasets", "transformers", "hf: data sets") from error
    options = dict(reference.options)
    columns = {key: str(options.pop(key)) for key in ("image", "label") if key in options}
    options.setdefault("split", "train")
    try:
        dataset = datasets.load_dataset(reference.name, **options)
    except Exception as error:
        raise DataError(f"hf:{reference.name} could not be opened with {options}: {error}") from error
    return HuggingFaceImages(dataset, **columns, name=reference.name)
