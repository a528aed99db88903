"""Call the function whose number is explained, and check what it returns: one finite number per image."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from oodline.errors import SettingError

Value = Callable[[Tensor], Tensor]
"""From images (N, C, H, W) to one number each (N,)."""


def numbers_of(value: Value, images: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
    """What `value` gives for these images (N,), float64, on the CPU.

    Raises
    ------
    SettingError
        It gives another shape, which would broadcast to wrong numbers, or NaN or infinity.

    Examples
    --------
    >>> numbers_of(lambda images: images.sum((1, 2, 3)), torch.ones(2, 1, 2, 2))
    tensor([4., 4.], dtype=torch.float64)
    """
    found = torch.as_tensor(value(images)).detach().to("cpu", torch.float64)
    if found.shape != (len(images),):
        flat = " Take one number out of each row, such as `[:, 0]`." if found.ndim > 1 else ""
        raise SettingError(
            f"`value` must return one number per image, shape ({len(images)},); got {tuple(found.shape)}.{flat}"
        )
    if not bool(found.isfinite().all()):
        raise SettingError(
            f"`value` must return finite numbers; got {int((~found.isfinite()).sum())} of {len(found)} NaN or "
            "infinite, of images with replaced regions. Try another `baseline`, or explain another number."
        )
    return found
