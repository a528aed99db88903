"""One way to name a data set: a path, or a library and a name."""

from __future__ import annotations

from pathlib import Path

from oodline.data.hub import open_hugging_face, open_torchvision
from oodline.data.parquet import ParquetImages
from oodline.data.sources import ImageFolder, ImageSource
from oodline.references import parse_reference


def open_images(spec: str | Path) -> ImageSource:
    """Open images by path or name.

    Parameters
    ----------
    spec : str or Path
        A folder, an image, a Parquet file, a folder or pattern of Parquet files; `torchvision:CIFAR10,root=data,
        train=false`; or `hf:NAME,split=test`.

    Raises
    ------
    DataError
        Nothing there, or not readable.
    UnknownNameError
        torchvision has no data set of that name.
    """
    reference = parse_reference(str(spec), {"torchvision", "hf"})
    if reference.scheme == "torchvision":
        return open_torchvision(reference)
    if reference.scheme == "hf":
        return open_hugging_face(reference)
    path = Path(spec)
    if path.suffix == ".parquet" or (path.is_dir() and any(path.glob("*.parquet"))):
        return ParquetImages(path)
    return ImageFolder(path)
