"""Benjamini-Hochberg equals an independent implementation, and keeps the rate with conformal p-values."""

import inspect

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from oodline.errors import InputError, SettingError
from oodline.scoring.calibration import calibrate
from oodline.scoring.false_discovery import benjamini_hochberg


@given(st.lists(st.integers(1, 997), min_size=1, max_size=40), st.sampled_from([0.0317, 0.1003, 0.3011]))
@settings(deadline=None)
def test_flags_are_those_of_scipy(ranks, fdr):
    p = np.array(ranks) / 997
    expected = false_discovery_control(p) <= fdr
    assert benjamini_hochberg(torch.tensor(p), fdr).tolist() == expected.tolist()


@pytest.mark.parametrize("fdr", [0.05, 0.2])
@pytest.mark.parametrize("random", [False, True])
def test_few_of_the_flagged_are_false_alarms(fdr, random):
    generator = torch.Generator().manual_seed(0)
    shares, found = [], []
    for _ in range(400):
        calibration = calibrate(torch.randn(500, generator=generator))
        new = torch.randn(200, generator=generator)
        new[:20] -= 3  # a tenth is OOD
        flags = benjamini_hochberg(calibration.p_value(new, random=generator if random else None), fdr)
        shares.append(float(flags[20:].sum() / flags.sum().clamp(min=1)))
        found.append(float(flags[:20].double().mean()))
    assert np.mean(shares) < fdr + 4 * np.std(shares) / 20
    assert np.mean(found) > 0.25


def test_none_and_all_may_be_flagged():
    assert not benjamini_hochberg(torch.tensor([0.5, 0.9]), 0.1).any()
    assert benjamini_hochberg(torch.tensor([0.01, 0.01]), 0.1).all()
    assert benjamini_hochberg(torch.tensor([]), 0.1).shape == (0,)
    with pytest.raises(SettingError, match=r"`fdr` must be a number between 0 and 1, both excluded; got 1\.5"):
        benjamini_hochberg(torch.ones(1), 1.5)


@pytest.mark.parametrize("bad", [[-1.0, 0.5], [1.5], [np.nan, 0.1], [[0.1, 0.2]], 0.1], ids=str)
def test_what_are_no_p_values_is_refused(bad):
    with pytest.raises(InputError, match="`p_values` must be"):
        inspect.unwrap(benjamini_hochberg)(torch.tensor(bad))
