"""A reservoir keeps the samples whose index hashes lowest, and so a uniform sample."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from oodline.errors import SettingError, StatisticsError
from oodline.statistics import Reservoir
from oodline.testing import activations_of


def fed(reservoir: Reservoir, features: Tensor, rows: list[int], labels: Tensor | None = None) -> Reservoir:
    activations = activations_of(features[rows]).replace(index=torch.tensor(rows))
    reservoir.update(activations, None if labels is None else labels[rows])
    return reservoir


def splitmix(i: int, seed: int) -> int:
    mask = 2**64 - 1
    x = (i + (seed + 1) * 0x9E3779B97F4A7C15) & mask
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & mask
    x = (x ^ x >> 27) * 0x94D049BB133111EB & mask
    return x ^ x >> 31


@given(n=st.integers(1, 60), size=st.integers(1, 20), seed=st.integers(0, 1), random=st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=60)
def test_a_reservoir_keeps_exactly_the_lowest_hashes(n, size, seed, random):
    assert splitmix(0, 0) == 0xE220A8397B1DCDAF  # the first output of the published generator
    features, labels = torch.randn(n, 3), torch.arange(n) % 3
    order = list(range(n))
    random.shuffle(order)
    reservoir = Reservoir(size, by="label", seed=seed)
    while order:
        reservoir = fed(reservoir, features, [order.pop() for _ in range(random.randint(1, len(order)))], labels)
    lowest = sorted(range(n), key=lambda i: splitmix(i, seed))[:size]
    assert reservoir.index.tolist() == lowest
    assert torch.equal(reservoir.rows, features[lowest])
    assert torch.equal(reservoir.groups, labels[lowest])


def test_a_reservoir_takes_any_seed():
    assert len(fed(Reservoir(5, seed=2), torch.zeros(20, 1), [*range(20)]).rows) == 5


def test_a_reservoir_is_uniform():
    n, size = 100_000, 10_000
    reservoir = fed(Reservoir(size), torch.zeros(n, 1), [*range(n)])
    for cell in (reservoir.index // 1000, reservoir.index % 100):
        counts = cell.bincount(minlength=100).double()
        # chi-square of 99 degrees of freedom, less a tenth since a tenth is drawn without replacement: 89 +- 13
        assert 50 < float((counts - 100).square().sum() / 100) < 140


def test_a_shard_counted_twice_is_refused():
    one, other = (fed(Reservoir(5), torch.zeros(20, 1), [*range(20)]) for _ in range(2))
    with pytest.raises(StatisticsError, match="in both reservoirs, so a shard was counted twice"):
        one.merge(other)
    with pytest.raises(StatisticsError, match="counted twice"):
        one.merge(one)


def test_a_reservoir_of_nothing_is_refused():
    with pytest.raises(SettingError, match="at least one sample; size=0"):
        Reservoir(0)
    with pytest.raises(StatisticsError, match="the reservoir is empty"):
        _ = Reservoir(3).rows
