"""The masked layer on a GPU, in one kernel that never writes a masked weight to memory.

Imported only where the tensors are on a GPU and Triton is installed. On a CPU the masked tiles fit the cache; a GPU is
limited by the memory it reads, so here every weight is compared, multiplied and added while it is in a register, for a
few samples at a time that share the load.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

SAMPLES, ROWS, COLUMNS = 4, 32, 64
"""Samples, rows of the weights and features that a program holds at a time: 8192 products."""


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _kernel(  # type: ignore[no-untyped-def]
    features, weight, bias, threshold, classes, products, n, k, d, N: tl.constexpr, K: tl.constexpr, D: tl.constexpr
):
    i = tl.program_id(1) * N + tl.arange(0, N)
    row = tl.program_id(0) * K + tl.arange(0, K)
    c = tl.load(classes + i, mask=i < n, other=0)
    total = tl.zeros((N, K), dtype=tl.float32)
    for start in range(0, d, D):
        column = start + tl.arange(0, D)
        inside = column < d
        w = tl.load(weight + row[:, None] * d + column, mask=(row < k)[:, None] & inside, other=0.0)
        h = tl.load(features + i[:, None] * d + column, mask=(i < n)[:, None] & inside, other=0.0)
        t = tl.load(threshold + c[:, None] * d + column, mask=(i < n)[:, None] & inside, other=0.0)
        kept = tl.where(w[None] > t[:, None], w[None], 0.0)
        total += tl.sum(kept * h[:, None], axis=2)
    total += tl.load(bias + row, mask=row < k, other=0.0)[None]
    tl.store(products + i[:, None] * k + row, total, mask=(i < n)[:, None] & (row < k))


def masked_linear_triton(features: Tensor, weight: Tensor, bias: Tensor, threshold: Tensor, classes: Tensor) -> Tensor:
    """As `oodline.detectors.parts.masked_linear.masked_linear`, for float32 tensors on one GPU."""
    n, (k, d) = len(features), weight.shape
    products = torch.empty(n, k, device=features.device)
    arguments = [tensor.contiguous() for tensor in (features, weight, bias, threshold, classes)]
    grid = (triton.cdiv(k, ROWS), triton.cdiv(n, SAMPLES))
    _kernel[grid](*arguments, products, n, k, d, N=SAMPLES, K=ROWS, D=COLUMNS)
    return products
