"""Which data was touched: a fingerprint of what a loader yielded, and samples that two loaders share."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from oodline._util.digests import Digest, short_digest
from oodline.data.batch import Inputs

VALUES = 1024
"""About this number of values of each input tensor stand for it: equal inputs always agree, others hardly ever."""


@dataclass(frozen=True)
class DataFingerprint:
    """How much of a data set was read, and a fingerprint of it.

    Parameters
    ----------
    samples : int
        How many samples were read.
    sha256 : str
        Over the prepared inputs in their order (about `VALUES` evenly spaced values of each): the same data, prepared
        in the same way, gives the same one.
    """

    samples: int
    sha256: str


class Fingerprinter:
    """Takes note of every batch that is read.

    Examples
    --------
    >>> import torch
    >>> one, two = Fingerprinter(), Fingerprinter()
    >>> images = torch.rand(4, 3, 8, 8)
    >>> one.see(images)
    >>> two.see(images[:1])
    >>> two.see(images[1:])
    >>> one.touched == two.touched, one.shared(images[2:])
    (True, 2)
    """

    def __init__(self) -> None:
        self._digest = Digest()
        self._samples = 0
        self._known: set[bytes] = set()

    def see(self, inputs: Inputs, *, remember: bool = True) -> None:
        """Take in a batch; without `remember` in memory that does not grow."""
        keys = sample_keys(inputs)
        for key in keys:
            self._digest.add(key)
        self._samples += len(keys)
        if remember:
            self._known.update(keys)

    def shared(self, inputs: Inputs) -> int:
        """How many samples of a batch were seen and remembered before."""
        return sum(key in self._known for key in sample_keys(inputs))

    @property
    def touched(self) -> DataFingerprint:
        """What was seen so far."""
        return DataFingerprint(self._samples, self._digest.hex())


def sample_keys(inputs: Inputs) -> list[bytes]:
    """Something short that tells samples apart, one per sample; padding with zeros at the end does not count."""
    tensors = (
        [inputs] if isinstance(inputs, Tensor) else [v for _, v in sorted(inputs.items()) if isinstance(v, Tensor)]
    )
    columns = [_rows(tensor) for tensor in tensors]
    return [short_digest(b"|".join(parts)) for parts in zip(*columns, strict=True)]


def _rows(tensor: Tensor) -> list[bytes]:
    flat = tensor.detach().cpu().reshape(len(tensor), -1)
    flat = flat[:, :: max(1, flat.shape[1] // VALUES)].contiguous()
    flat = flat.float() if flat.is_floating_point() else flat.long()
    return [row.numpy().tobytes().rstrip(b"\0") for row in flat]
