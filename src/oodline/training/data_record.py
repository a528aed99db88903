"""What the record of a fine-tuning says of a data set: its name, size, batches and content."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from oodline.data.batch import KnownLoader
from oodline.training.shuffled import Shuffled


def data_record(loader: Iterable[Any], name: str | None = None, content: str | None = None) -> dict[str, Any]:
    """All that is known of a loader, None where it does not say.

    Parameters
    ----------
    loader : iterable
        Batches.
    name : str, optional
        By which it can be opened again, such as a path.
    content : str, optional
        The identity of what it yields.

    Examples
    --------
    >>> from torch import zeros
    >>> data_record([zeros(3, 4)], "train.npz")
    {'name': 'train.npz', 'samples': None, 'batch_size': None}
    """
    inner = loader.loader if isinstance(loader, Shuffled) else loader
    size = getattr(loader, "batch_size", None)
    found: dict[str, Any] = {
        "name": name,
        "samples": len(inner.rows) if isinstance(inner, KnownLoader) else None,
        "batch_size": size if isinstance(size, int) else None,
    }
    if isinstance(loader, Shuffled):
        found |= {"flip": loader.flip, "shift": loader.shift}
    return found if content is None else found | {"content": content}
