"""Bounds that are written as a percentile equal the same bound written as a value."""

import pytest
import torch

from oodline.detectors.fm_pls import FMPLS
from oodline.detectors.line import LINe
from oodline.detectors.react import ReAct
from oodline.errors import SettingError
from oodline.statistics import Quantiles


@pytest.mark.parametrize(
    "build",
    [lambda clip: ReAct(clip=clip), lambda clip: LINe(clip=clip, p_a=0.3), lambda theta: FMPLS(theta=theta)],
    ids=["react", "line", "fm-pls"],
)
@pytest.mark.parametrize("percent", [50, 92.5])
def test_a_percentile_equals_its_value(draw, build, percent):
    case = draw(0)
    quantiles = Quantiles()
    quantiles.update(case.activations, None)
    by_percentile = case.fit(build(f"{percent}%"))
    by_value = case.fit(build(quantiles.quantile(percent / 100)))
    assert float(by_percentile.largest) == float(by_value.largest) > 0
    assert torch.equal(by_percentile(case.activations), by_value(case.activations))


@pytest.mark.parametrize("cls", [LINe, FMPLS])
def test_a_percentile_that_leaves_nothing_is_refused(draw, cls):
    name = "clip" if cls is LINe else "theta"
    with pytest.raises(SettingError, match=f"`{name}` must be above 0, .*; got 0"):
        draw(0).fit(cls(**{name: "0%"}))
