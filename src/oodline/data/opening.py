"""One way to name a data set: a path, or a library and a name."""

from __future__ import annotations

from pathlib import Path

from oodline.data.hub import open_hugging_face, open_torchvision
from oodline.data.listing import ImageList
from oodline.data.parquet import ParquetImages
from oodline.data.sources import ImageFolder, ImageSource
from oodline.errors import DataError
from oodline.references import parse_reference

SCHEMES = ("list", "torchvision", "hf")
"""What may stand before the colon of a name; all others are paths."""


def open_images(spec: str | Path) -> ImageSource:
    """Open images by path or name.

    Parameters
    ----------
    spec : str or Path
        A folder, an image, a Parquet file, a folder or pattern of Parquet files; `torchvision:CIFAR10,root=data,
        train=false`; `hf:NAME,split=test`; or `list:FILE.txt,root=FOLDER`, lines of path and label.

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
        options = dict(reference.options)
        root = options.pop("root", None)
        if options:
            raise DataError(f"list:{reference.name} takes root=FOLDER and nothing else; not {', '.join(options)}.")
        return ImageList(reference.name, None if root is None else str(root))
    path = Path(spec)
    if path.suffix == ".parquet" or (path.is_dir() and any(path.glob("*.parquet"))):
        return ParquetImages(path)
    return ImageFolder(path)
