"""A soft cap on logits, `a tanh(z / a)`, as Gemma has it after its head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from oodline.model.agreement import precision
from oodline.model.reading import at_least_float32
from oodline.model.search import weights

NAMES = ("final_logit_softcapping", "logits_soft_cap", "logit_softcap", "softcap")
"""What configurations of transformers call it."""


class SoftCap(nn.Module):
    """`cap tanh(z / cap)`.

    Examples
    --------
    >>> SoftCap(30.0)(torch.tensor([1.0, 300.0]))
    tensor([ 0.9996, 30.0000])
    """

    cap: Tensor

    def __init__(self, cap: float) -> None:
        super().__init__()
        self.register_buffer("cap", torch.tensor(float(cap)))

    def forward(self, logits: Tensor) -> Tensor:
        """The logits, capped."""
        cap = self.cap.to(logits)
        return cap * torch.tanh(logits / cap)


def caps_in_config(model: nn.Module) -> list[float]:
    """The caps that a model's configuration states."""
    return [*dict.fromkeys(_caps(getattr(model, "config", None)))]


def with_cap(model: nn.Module, logits: Tensor, heads: Mapping[str, Tensor]) -> tuple[Tensor, SoftCap] | None:
    """The output of a head times a factor, and the cap that makes these logits (N, T, C) of it; None without one."""
    for cap in caps_in_config(model):
        after = SoftCap(cap)
        for value in heads.values():
            if value.shape != logits.shape:
                continue
            wide, target = at_least_float32(value), at_least_float32(logits)
            close = max(1e-4, 8 * precision(value, logits)) * target.abs().max()
            if bool((after(wide) - target).abs().max() <= close):
                return value, after
            flat, inverse = wide.flatten(0, 1)[:64], cap * torch.atanh(target.flatten(0, 1)[:64].double() / cap)
            factors = weights([flat], inverse)
            if factors and bool((after(factors[0] * wide) - target).abs().max() <= close):
                return factors[0] * value, after
    return None


def _caps(config: Any) -> Iterator[float]:
    for part in (config, getattr(config, "text_config", None)):
        for name in NAMES:
            value = getattr(part, name, None)
            if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
                yield float(value)
