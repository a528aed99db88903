"""How many samples a method keeps that remembers as many numbers of each as there are classes."""

from __future__ import annotations

NUMBERS = 2**26
"""Numbers that a sample holds at most: 268 MB in float32."""


def sample_size(samples: int, numbers: int) -> int:
    """How many samples to keep, of `numbers` numbers each: `samples`, or fewer so that `NUMBERS` suffice; at least 1.

    Examples
    --------
    >>> sample_size(10_000, 1_000), sample_size(10_000, 21_841)
    (10000, 3072)
    """
    return max(1, min(samples, NUMBERS // max(1, numbers)))
