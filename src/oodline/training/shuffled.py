"""`Shuffled`: the samples of a loader in a new order each time it is read, flipped and shifted if wanted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor, nn

from oodline._util.checked import checked
from oodline._util.ranges import Count, Range
from oodline.data.batch import Batch, KnownLoader
from oodline.errors import InputError

Pixels = Annotated[int, Range(0)]


class Shuffled:
    """Batches of a loader's samples in random order, by torch's own random numbers; a last batch of one is left out.

    Parameters
    ----------
    loader : KnownLoader
        Such as `oodline.data.open_loader` gives.
    batch_size : int, optional
        That of the loader if omitted.
    flip : bool
        Mirror each image, left to right, with probability 1/2.
    shift : int
        Move each image by up to this many pixels in both directions; what comes in is 0, the mean of prepared images.

    Raises
    ------
    InputError
        While iterating: images are to be flipped or shifted, and samples are not images.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from oodline.testing import toy_images
    >>> with TemporaryDirectory() as folder:
    ...     _, loader = toy_images(folder)
    ...     [len(batch.labels) for batch in Shuffled(loader, batch_size=5)]
    [5, 5, 2]
    """

    @checked
    def __init__(
        self, loader: KnownLoader, batch_size: Count | None = None, *, flip: bool = False, shift: Pixels = 0
    ) -> None:
        self.loader, self.batch_size = loader, batch_size or loader.batch_size
        self.flip, self.shift = flip, shift

    def __len__(self) -> int:
        return len(self._cut(list(self.loader.rows)))

    def __iter__(self) -> Iterator[Batch]:
        rows = list(self.loader.rows)
        order = [rows[i] for i in torch.randperm(len(rows)).tolist()]
        for batch in self.loader.over(self._cut(order)):
            inputs = batch.inputs
            if self.flip or self.shift:
                if not isinstance(inputs, Tensor) or inputs.ndim != 4:
                    raise InputError("`flip` and `shift` are for images (N, C, H, W). Leave them out.")
                inputs = augmented(inputs, flip=self.flip, shift=self.shift)
            yield Batch(inputs, batch.labels, batch.index)

    def _cut(self, rows: list[int]) -> list[list[int]]:
        batches = [rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)]
        return batches[:-1] if len(batches) > 1 and len(batches[-1]) == 1 else batches


def augmented(images: Float[Tensor, "n c h w"], *, flip: bool, shift: int) -> Float[Tensor, "n c h w"]:
    """Each image mirrored with probability 1/2, and moved by up to `shift` pixels.

    Examples
    --------
    >>> augmented(torch.ones(1, 1, 4, 4), flip=True, shift=0).sum()
    tensor(16.)
    """
    size, height, width = len(images), *images.shape[2:]
    if flip:
        images = torch.where(torch.rand(size, 1, 1, 1) < 0.5, images.flip(3), images)
    if shift:
        down, right = torch.randint(0, 2 * shift + 1, (2, size, 1))
        rows, columns = down + torch.arange(height), right + torch.arange(width)
        padded = nn.functional.pad(images, (shift,) * 4).permute(0, 2, 3, 1)
        which = torch.arange(size)
        images = padded[which[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return images
