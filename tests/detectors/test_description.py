"""What is said of detectors is read from their classes: every setting has a meaning, a default and a range."""

from __future__ import annotations

import inspect

import pytest

import oodline as ol
from oodline.detectors.catalog import CATALOG, detector_class
from oodline.detectors.groups import GROUPS


def test_the_groups_hold_every_detector_once():
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(CATALOG)


@pytest.fixture(scope="module")
def described():
    return {name: ol.describe_method(name) for name in CATALOG}


def test_every_setting_is_explained(described):
    unexplained = [
        (name, key)
        for name, found in described.items()
        for key, setting in found.settings.items()
        if len(setting.meaning) < 8 or setting.accepts == "any value"
    ]
    assert unexplained == []
    for name, found in described.items():
        assert list(found.settings) == list(inspect.signature(detector_class(name)).parameters)


def test_the_page_of_one_says_everything(described):
    text = str(described["line"])
    flat = " ".join(text.split())
    for part in (
        "Energy of the logits that the important neurons",
        "(CVPR 2023, https://arxiv.org/abs/2303.13995)",
        "p_a = 0.1 ",
        "A number from 0 to below 1.",
        "cifar10-densenet100 p_a=0.9, p_w=0.9, clip=1.0",
        "threshold (C x D)",
        "--detector line,p_a=0.1",
    ):
        assert part in flat
    assert max(map(len, text.splitlines()[:-1])) <= 100
    assert "exports:      no: ODIN runs the classifier again" in str(described["odin"])
    assert "experimental: " in str(described["sisom"])


def test_the_cost_follows_from_what_is_read_and_kept(described):
    first = {name: found.cost.partition(":")[0].partition(";")[0] for name, found in described.items()}
    assert (
        first["msp"] == "lowest" and first["line"] == "low" and first["nap"] == "moderate" and first["odin"] == "high"
    )
    assert first["knn"] == "grows with the training samples it keeps"
    assert [described[name].fitted for name in ("energy", "knn")] == [False, True]
