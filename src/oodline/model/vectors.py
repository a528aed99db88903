"""Read vectors of words or classes, one per row, from an array or a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from oodline.data.tensor_formats import open_rows, rows_of
from oodline.errors import DataError


def read_vectors(source: Any, name: str) -> Float[Tensor, "n d"]:
    """Vectors (N, D) of unit length, float32.

    Parameters
    ----------
    source : Tensor, array, str or Path
        One row per vector; or a file that holds one such array (.safetensors, .npz, .npy, .pt).
    name : str
        What to call them in messages.

    Raises
    ------
    DataError
        The file cannot be read or holds several arrays; or a row is not a vector of finite numbers other than zero.

    Examples
    --------
    >>> read_vectors([[3.0, 4.0], [0.0, 2.0]], "words")
    tensor([[0.6000, 0.8000],
            [0.0000, 1.0000]])
    """
    where = f"`{name}`"
    if isinstance(source, str | Path):
        rows, _ = open_rows(Path(source))
        if len(rows) != 1:
            raise DataError(f"{source} must hold one array of vectors (N, D); it holds {', '.join(rows) or 'none'}.")
        where, [array] = str(source), rows.values()
    else:
        array = rows_of(name, source)
    shape = tuple(array.shape)
    if len(shape) != 2 or not all(shape):
        raise DataError(f"{where} must be vectors, one per row, (N, D); got shape {shape}.")
    vectors = array.read(0, shape[0]).detach().to("cpu", torch.float64)
    length = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    bad = torch.nonzero(~torch.isfinite(length.flatten()) | (length.flatten() == 0)).flatten()
    if len(bad):
        raise DataError(f"{where} must be vectors of finite numbers, not all 0; got others in row {int(bad[0])}.")
    unit: Tensor = vectors / length
    return unit.float()
