"""The largest values of each component and whose they are, the lower index first among equals."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from oodline.errors import SettingError, StatisticsError
from oodline.statistics import TopSamples
from oodline.testing import activations_of


def fed(top: TopSamples, features: Tensor, rows: list[int]) -> TopSamples:
    top.update(activations_of(features[rows]).replace(index=torch.tensor(rows)), None)
    return top


@given(
    n=st.integers(1, 50),
    size=st.integers(1, 8),
    levels=st.sampled_from([2, 5, 10**6]),
    shards=st.integers(1, 4),
    random=st.randoms(use_true_random=False),
)
@settings(deadline=None, max_examples=100)
def test_the_largest_are_kept_whatever_the_order_the_batches_and_the_shards(n, size, levels, shards, random):
    generator = torch.Generator().manual_seed(random.randrange(1000))
    features = torch.randint(levels, (n, 3), generator=generator).float() - levels // 2
    order = list(range(n))
    random.shuffle(order)
    parts = [TopSamples(size) for _ in range(shards)]
    while order:
        rows = [order.pop() for _ in range(random.randint(1, len(order)))]
        fed(random.choice(parts), features, rows)
    whole = TopSamples(size)
    for part in parts:
        whole.merge(part)
    for d in range(3):
        expected = sorted(range(n), key=lambda i: (-float(features[i, d]), i))[:size]
        assert whole.index[:, d].tolist() == expected
        assert whole.values[:, d].tolist() == features[expected, d].tolist()


def test_a_shard_counted_twice_is_refused():
    features = torch.randn(20, 3)
    one, other = (fed(TopSamples(4), features, [*range(20)]) for _ in range(2))
    with pytest.raises(StatisticsError, match="is in both, so a shard was counted twice"):
        one.merge(other)


def test_at_least_one_sample_is_kept():
    with pytest.raises(SettingError, match="size=0 is none"):
        TopSamples(0)
