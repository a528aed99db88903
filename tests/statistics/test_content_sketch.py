"""A content sketch knows what it was made of, in any order, and estimates how much of other data that was."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oodline._util.hashing import splitmix64
from oodline.errors import SettingError
from oodline.statistics import ContentSketch
from oodline.statistics.content_sketch import content_hash, was_seen
from oodline.testing import activations_of


def sketch_of(features, size, batch=1000):
    sketch = ContentSketch(size)
    for part in features.split(batch):
        sketch.update(activations_of(part), None)
    return sketch.hashes


@given(n=st.integers(1, 80), size=st.integers(1, 30), batch=st.integers(1, 40), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_a_sketch_is_the_lowest_hashes_each_once(n, size, batch, seed):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, 3, generator=generator)[torch.randint(n, (2 * n,), generator=generator)]
    assert sketch_of(features, size, batch).tolist() == sorted(set(content_hash(features).tolist()))[:size]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_the_share_of_known_samples_is_estimated(share):
    old, other = torch.randn(20_000, 8), torch.randn(10_000, 8)
    known = int(share * 10_000)
    found = was_seen(sketch_of(old, 2000), content_hash(torch.cat([old[:known], other[known:]])), 2000)
    assert 800 < len(found) < 1200  # a tenth of the hashes is kept, so a tenth of the samples can be compared
    assert abs(float(found.double().mean()) - share) <= 4 * math.sqrt(share * (1 - share) / len(found))


@pytest.mark.parametrize("width", [1, 2, 16, 512, 4096])
def test_a_hash_survives_rounding_errors_and_tells_samples_apart(width):
    features = torch.randn(1000, width).relu()
    features = features[features.sum(1) > 0]
    noisy = features * (1 + 1e-6 * torch.randn_like(features))
    assert (content_hash(features) == content_hash(noisy)).double().mean() > 0.85
    distinct = features.unique(dim=0)
    assert len(content_hash(distinct).unique()) > (0.9 if width <= 2 else 0.999) * len(distinct)
    assert (content_hash(features) == content_hash(features.double())).double().mean() > 0.85


def test_features_of_any_size_have_a_hash():
    features = torch.tensor([[0.0, 0.0], [1e-45, 0.0], [3e38, -3e38], [-3e38, 3e38]])
    assert len(content_hash(features).unique()) >= 3


def test_a_sketch_of_nothing_is_refused():
    with pytest.raises(SettingError, match="at least one hash; size=0"):
        ContentSketch(0)


@pytest.mark.parametrize("width", [3, 500, 2**16])
def test_a_hash_is_that_of_earlier_files(width):
    features = torch.randn(4, width) * torch.tensor([[1.0], [1e-30], [-1e30], [0.0]])
    steps = max(100_000 // width, 16)
    expected = []
    for row in features.numpy():
        largest = max(abs(row).max(), np.finfo(np.float32).tiny)
        units = [*np.round(row / largest * np.float32(steps)), np.round(np.log2(largest) * np.float32(steps / 64))]
        odd = splitmix64(np.arange(width + 1, dtype=np.uint64)) | np.uint64(1)
        total = sum(int(unit) * int(factor) for unit, factor in zip(units, odd, strict=True)) % 2**64
        expected.append(int(splitmix64(np.array([total], dtype=np.uint64)).view(np.int64)[0]))
    assert content_hash(features).tolist() == expected
