"""Open a data set by its reference: a path, or a library and a name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from oodline._util.spec import parse_reference
from oodline._util.warning import warn
from oodline.data.class_order import compare_classes, in_order_of
from oodline.data.folder import ImageFolder
from oodline.data.hub import open_hugging_face, open_torchvision
from oodline.data.listing import ImageList
from oodline.data.loader import ImageLoader, image_loader
from oodline.data.masks import MaskedImages
from oodline.data.parquet import ParquetImages
from oodline.data.sources import ImageSource
from oodline.data.tensor_formats import SUFFIXES
from oodline.data.tensors import TensorFile, TensorLoader
from oodline.data.text_loader import TextLoader
from oodline.data.texts import open_texts
from oodline.errors import DataError
from oodline.preprocessing.text import TextPreprocessing

AnyLoader = ImageLoader | TensorLoader | TextLoader
"""What `open_loader` gives: each knows its content, its size and what it skipped."""

SCHEMES = ("list", "torchvision", "hf")
"""What may stand before the colon of a name; all others are paths."""


def open_images(spec: str | Path) -> ImageSource:
    """Open images by path or name.

    Parameters
    ----------
    spec : str or Path
        A folder, an image, a Parquet file, a folder or pattern of Parquet files; `torchvision:CIFAR10,root=data,
        train=false`; `hf:NAME,split=test`; or `FILE.txt,root=FOLDER`, lines of path and label as OpenOOD's image lists
        have them (`list:FILE,root=FOLDER` where the name ends in something else). Columns of Parquet
        and `hf:` follow as options where they are not found by their names: `FILE.parquet,image=img,label=fine_label`.
        Class folders are classes in alphabetical order, or `FOLDER,order=natural`. For classes of pixels,
        `FOLDER,masks=FOLDER_OF_MASKS`; see `MaskedImages`.

    Raises
    ------
    DataError
        Nothing there, or not readable.
    UnknownNameError
        torchvision has no data set of that name.
    """
    reference = parse_reference(str(spec), SCHEMES)
    if reference.scheme == "torchvision":
        return open_torchvision(reference)
    if reference.scheme == "hf":
        return open_hugging_face(reference)
    if reference.scheme == "list":
        return _open_list(Path(reference.name), reference.options)
    if is_tensors(spec):
        raise DataError(f"{spec} holds tensors, and images are needed here.")
    # a path may itself hold commas and equals signs
    path, options = (Path(spec), {}) if Path(spec).exists() else (Path(reference.name), dict(reference.options))
    if path.suffix == ".txt":
        return _open_list(path, options)
    if path.suffix == ".parquet" or (path.is_dir() and any(path.glob("*.parquet"))):
        _check_options(path, options, ("image", "label"))
        return ParquetImages(path, **{key: str(value) for key, value in options.items()})
    _check_options(path, options, ("order", "masks"))
    folder = ImageFolder(path, **{key: str(value) for key, value in options.items() if key != "masks"})
    return MaskedImages(folder, str(options["masks"])) if "masks" in options else folder


def _open_list(path: Path, options: Mapping[str, object]) -> ImageSource:
    _check_options(path, options, ("root", "masks"))
    listed = ImageList(path, str(options["root"]) if "root" in options else None)
    return MaskedImages(listed, str(options["masks"])) if "masks" in options else listed


def _check_options(path: Path, options: Mapping[str, object], known: Sequence[str]) -> None:
    for option in options:
        if option not in known:
            takes = " and ".join(f"{key}=..." for key in known)
            raise DataError(f"{path} takes {takes}; got {option}={options[option]}.")


def is_tensors(spec: str | Path) -> bool:
    """Whether a data set's name is that of a `TensorFile`: a path ending in .safetensors, .npz, .npy, .pt or .pth."""
    reference = parse_reference(str(spec), SCHEMES)
    name = spec if Path(spec).exists() else reference.name
    return reference.scheme is None and Path(name).suffix in SUFFIXES


def open_loader(
    spec: str | Path,
    preprocessing: Callable[[Image.Image], Tensor] | TextPreprocessing,
    *,
    batch_size: int = 64,
    workers: int = 0,
    on_error: Literal["raise", "skip"] = "raise",
    limit: int | None = None,
    label_offset: int = 0,
    class_names: Sequence[str] | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    labelled: bool = True,
) -> AnyLoader:
    """Batches of a data set by its path or name, as the model reads it: images, or texts by its tokenizer.

    Parameters
    ----------
    spec : str or Path
        Images, as `open_images` takes them, or texts, as `open_texts` does where `preprocessing` is a
        `TextPreprocessing`; or a file of other inputs, see `TensorFile`, which reach the model without preprocessing.
    preprocessing, batch_size, workers, on_error, limit, label_offset
        See `ImageLoader` and `TextLoader`. Tensors and texts need no workers, and no tensor is unreadable.
    class_names : sequence of str, optional
        Of the classifier, in the order of its logits. Where the data has names too, labels are matched by name, and a
        warning says what differs.
    text_column, label_column, labelled
        Columns of a file of texts that are not found by their names, and whether that of labels must be there; see
        `open_texts`.

    Raises
    ------
    DataError, UnknownNameError
        As `open_images`, `open_texts` and `TensorFile`.
    """
    if is_tensors(spec):
        tensors = TensorLoader(TensorFile(spec), batch_size, limit, label_offset)
        order = compare_classes(None if label_offset else tensors.source.class_names, class_names)
        if order.warning:
            warn(order.warning)
        if order.positions not in (None, tuple(range(len(order.positions or ())))):
            tensors.positions = torch.tensor(order.positions)
        return tensors
    if isinstance(preprocessing, TextPreprocessing):
        texts = open_texts(spec, text_column, label_column, labelled=labelled)
        source = in_order_of(texts, class_names, label_offset)
        return TextLoader(source, preprocessing, batch_size, limit, on_error, label_offset)
    return image_loader(
        in_order_of(open_images(spec), class_names, label_offset),
        preprocessing,
        batch_size=batch_size,
        workers=workers,
        on_error=on_error,
        limit=limit,
        label_offset=label_offset,
    )
