"""The percentile of products that are not formed is NumPy's percentile of those that are, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oodline.detectors.parts import products
from oodline.detectors.parts.products import product_percentiles, sorted_columns

relaxed = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def _no_size_is_small(monkeypatch):
    monkeypatch.setattr(products, "SMALL", 0)


def check(a: np.ndarray, W: np.ndarray, fraction: float) -> None:
    found = product_percentiles(a, sorted_columns(torch.from_numpy(W)), fraction)
    expected = [np.quantile(row * W, fraction) for row in a]
    np.testing.assert_array_equal(found, expected)


fractions = st.one_of(st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.99]), st.floats(0, 0.9999))


@given(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(1, 3), st.integers(1, 30), st.integers(1, 30)),
    fractions,
    st.sampled_from([1, 7, 50]),
    st.sampled_from([1e-320, 1e-42, 1e-20, 1.0, 1e30]),
    st.sampled_from([1e-44, 1e-20, 1.0, 1e38]),
)
@relaxed
def test_of_random_products(monkeypatch, seed, shape, fraction, few, size, scale):
    monkeypatch.setattr(products, "FEW", few)
    random = np.random.default_rng(seed)
    n, k, d = shape
    a = size * np.abs(random.standard_normal((n, d))) * (random.random((n, d)) < 0.8)
    W = (scale * random.uniform(-1, 1, (k, d))).astype(np.float32)
    check(a, W, fraction)


@given(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(1, 3), st.integers(1, 12), st.integers(1, 12)),
    st.one_of(fractions, st.integers(0, 143)),
    st.sampled_from([1, 7]),
)
@relaxed
def test_of_products_that_tie(monkeypatch, seed, shape, fraction, few):
    monkeypatch.setattr(products, "FEW", few)
    random = np.random.default_rng(seed)
    n, k, d = shape
    if isinstance(fraction, int):  # the percentile is one of the products
        fraction = fraction % (k * d) / (k * d)
    a = random.integers(0, 3, (n, d)).astype(np.float64)
    W = random.integers(-2, 3, (k, d)).astype(np.float32)
    check(a, W, fraction)


def test_of_one_value_only():
    check(np.zeros((2, 40)), np.ones((300, 40), np.float32), 0.3)
    check(np.ones((2, 40)), np.ones((300, 40), np.float32), 0.3)
    check(np.ones((1, 40)), -np.ones((300, 40), np.float32), 0.7)


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.9, 0.999999])
def test_at_the_size_of_a_network_few_products_are_formed(monkeypatch, fraction):
    formed = []
    real = products._two

    def spy(a, columns, first, end, *rest):
        formed.append(int((end - first)[a > 0].sum()))
        return real(a, columns, first, end, *rest)

    monkeypatch.setattr(products, "_two", spy)
    monkeypatch.setattr(products, "_simply", None)
    random = np.random.default_rng(0)
    W = (0.02 * random.standard_normal((400, 500))).astype(np.float32)
    a = np.abs(W[:3] * random.random((3, 500)))
    a[:, :100] = 0  # dead neurons
    check(a, W, fraction)
    assert max(formed) <= products.FEW + 1000 < W.size / 30
