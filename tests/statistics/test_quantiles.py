"""Quantiles are those of NumPy, to the relative error that is stated."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from oodline.errors import SettingError
from oodline.statistics import Quantiles
from oodline.statistics.quantiles import RELATIVE_ERROR
from oodline.testing import activations_of


def quantiles_of(values: list[float] | np.ndarray) -> Quantiles:
    quantiles = Quantiles()
    quantiles.update(activations_of(torch.tensor(values).reshape(-1, 1)), None)
    return quantiles


numbers = st.one_of(st.sampled_from([0.0, -0.0, 1.0, -1.0]), st.floats(-1e6, 1e6, width=32), st.floats(-9, 9, width=32))


@given(x=arrays(np.float32, st.integers(1, 30), elements=numbers), q=st.floats(0, 1))
@settings(deadline=None, max_examples=100)
def test_a_quantile_is_within_the_stated_error(x, q):
    below, above, exact = (float(np.quantile(x.astype(float), q, method=m)) for m in ("lower", "higher", "linear"))
    # 1e-37: below the smallest normal float32, where numbers have no relative precision
    slack = 1e-12 * float(np.abs(x).max()) + 1e-37
    found = quantiles_of(x).quantile(q)
    assert abs(found - exact) <= RELATIVE_ERROR * max(abs(below), abs(above)) + slack
    if below * above >= 0:
        assert abs(found - exact) <= RELATIVE_ERROR * abs(exact) + slack


@pytest.mark.parametrize("value", [0.0, -0.0, 3.7, -3.7, 1e-30, 3e38])
def test_every_quantile_of_constant_data_is_the_constant(value):
    quantiles = quantiles_of([value] * 9)
    for q in (0.0, 0.3, 0.5, 1.0):
        assert quantiles.quantile(q) == pytest.approx(value, rel=RELATIVE_ERROR)


@pytest.mark.parametrize("q", [-0.1, 1.1, float("nan")])
def test_a_quantile_outside_its_range_is_refused(q):
    with pytest.raises(SettingError, match=r"must lie in \[0, 1\]"):
        quantiles_of([1.0]).quantile(q)
