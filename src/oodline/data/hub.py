"""Data sets that torchvision and Hugging Face `datasets` know by name."""

from __future__ import annotations

import hashlib
import inspect
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from oodline.data.digests import combine, file_digest, image_digest
from oodline.errors import DataError, missing_extra, unknown_name
from oodline.references import Reference


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
        self.class_names = tuple(str(c) for c in classes) if classes else None
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
            return combine([pixels.shape, pixels.dtype, hashlib.sha256(pixels.data).hexdigest(), labels])
        return combine((_content(self, i), label) for i, label in enumerate(labels))


class HuggingFaceImages:
    """A Hugging Face `datasets.Dataset` with an image column.

    Raises
    ------
    DataError
        There is no such column.
    """

    def __init__(self, dataset: Any, image: str = "image", label: str = "label", name: str = "dataset") -> None:
        names = {"image": (image, "img"), "label": (label, "labels", "fine_label")}
        # usual names stand in for the default, never for a column that was asked for
        names = {k: v if k == v[0] else v[:1] for k, v in names.items()}
        found = {k: next((c for c in v if c in dataset.column_names), None) for k, v in names.items()}
        for kind, column in (("image", image), ("label", label)):
            if found[kind] is None and (kind == "image" or column != "label"):
                raise DataError(f"{name} has no column '{column}'; its columns are {', '.join(dataset.column_names)}.")
        self.dataset, self.title, self.image = dataset, name, found["image"]
        self._raw: Any = None
        self._labels = None if found["label"] is None else dataset[found["label"]]
        feature = None if found["label"] is None else dataset.features[found["label"]]
        self.class_names: tuple[str, ...] | None = tuple(getattr(feature, "names", None) or ()) or None

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, i: int) -> str:
        """Data set and row."""
        return f"{self.title}#{i}"

    def label(self, i: int) -> int | None:
        """Value of the label column, None for -1 (unlabelled)."""
        value = None if self._labels is None else self._labels[i]
        return None if value is None or value < 0 else int(value)

    def read(self, i: int) -> Image.Image:
        """The image, as the data set decodes it."""
        image = self.dataset[i][self.image]
        if not isinstance(image, Image.Image):
            raise UnidentifiedImageError(f"the row holds {type(image).__name__}, not an image")
        return image

    def fingerprint(self) -> str:
        """Of the bytes of every image as they are stored, not decoded, and of the labels."""
        return combine((self._stored(i), self.label(i)) for i in range(len(self)))

    def _stored(self, i: int) -> str:
        from datasets import Image as ImageColumn

        if self._raw is None:
            plain = isinstance(self.dataset.features[self.image], ImageColumn)
            self._raw = self.dataset.cast_column(self.image, ImageColumn(decode=False)) if plain else self.dataset
        value = self._raw[i][self.image]
        if isinstance(value, dict) and value.get("bytes") is not None:
            return hashlib.sha256(value["bytes"]).hexdigest()
        return file_digest(value["path"]) if isinstance(value, dict) and value.get("path") else _content(self, i)


def _content(source: TorchvisionImages | HuggingFaceImages, i: int) -> str:
    try:
        return image_digest(source.read(i))
    except (OSError, SyntaxError, ValueError):
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
        return TorchvisionImages(cls(**options), reference.name)
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
