"""Check that a head's `W f + b` equals the logits that the model returned, up to rounding."""

from __future__ import annotations

import torch
from torch import Tensor

from oodline.model.linear_modules import Affine
from oodline.model.precision import full_precision

ROUNDINGS = 8
"""Standard errors of one rounding, of the lowest precision involved, that two results may lie apart."""

MOST_VALUES = 2**25
"""Outputs that are compared at once."""


def precision(*tensors: Tensor) -> float:
    """Relative rounding of the coarsest arithmetic that may have made any of these.

    Examples
    --------
    >>> precision(torch.zeros(1), torch.zeros(1, dtype=torch.bfloat16))
    0.0078125
    """
    eps = max(torch.finfo(t.dtype).eps for t in tensors if t.is_floating_point())
    if torch.get_float32_matmul_precision() != "highest" and any(t.dtype == torch.float32 for t in tensors):
        # products of TF32 on a GPU; of bfloat16 where "medium" is asked for
        eps = max(eps, 2**-10 if torch.get_float32_matmul_precision() == "high" else 2**-7)
    kind = tensors[0].device.type
    if torch.is_autocast_enabled(kind):
        eps = max(eps, torch.finfo(torch.get_autocast_dtype(kind)).eps)
    return eps


def gap(affine: Affine, features: Tensor, outputs: Tensor, eps: float) -> Tensor | None:
    """Largest difference between `W f + b` and `outputs`, (N, C); None where rounding explains all of it.

    Rows that hold NaN or infinity are left out; of no rows, nothing differs.

    Examples
    --------
    >>> features, head = torch.ones(2, 3), Affine(torch.ones(4, 3), torch.zeros(4))
    >>> gap(head, features, torch.full((2, 4), 3.0), 1e-7), gap(head, features, torch.full((2, 4), 3.5), 1e-7)
    (None, tensor(0.5000))
    """
    if outputs.numel() > MOST_VALUES and len(outputs) > 1:  # such as tokens of a large vocabulary
        rows = max(MOST_VALUES // outputs.shape[1], 1)
        parts = zip(torch.split(features, rows), torch.split(outputs, rows), strict=True)
        found = [off for part in parts if (off := gap(affine, *part, eps)) is not None]
        return torch.stack(found).max() if found else None
    if len(outputs) == 0:
        return None
    wide = torch.float64 if features.dtype == torch.float64 else torch.float32
    features, outputs = features.detach().to(wide), outputs.detach().to(wide)
    with torch.no_grad(), full_precision(features.device.type):
        difference = (affine(features) - outputs).abs()
        if bool(difference.max() <= 16 * eps * outputs.abs().max()):  # False with NaN: look closer
            return None
        finite = torch.isfinite(features).all(1) & torch.isfinite(outputs).all(1)
        features, outputs, difference = features[finite], outputs[finite], difference[finite]
        if len(outputs) == 0:
            return None
        # the error of a sum of rounded products grows as the root of the sum of their squares
        squares = Affine(affine.weight.to(wide).square(), affine.bias.to(wide).square())
        length = features.shape[1] ** 0.5
        allowed = (ROUNDINGS * eps + ROUNDINGS * length * torch.finfo(wide).eps) * squares(features.square()).sqrt()
        return None if bool((difference <= allowed).all()) else difference.max()
