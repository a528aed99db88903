"""Temperature scaling and OpenMax of many classes keep no more logits than fit in memory."""

import pytest
import torch

from oodline.detectors.openmax import OpenMax
from oodline.detectors.relation import Relation
from oodline.detectors.temperature_scaling import TemperatureScaling, best_temperature
from oodline.model.head import LinearHead


@pytest.mark.parametrize(("detector", "statistic"), [(OpenMax, "sample"), (TemperatureScaling, "sample")])
def test_logits_are_bounded_in_numbers(detector, statistic):
    sizes = [
        detector().statistics(LinearHead(torch.zeros(c, 1), torch.zeros(c)))[statistic].size for c in (6710, 21841)
    ]
    assert sizes == [10_000, 3072]


def test_relations_are_bounded_in_numbers():
    head = LinearHead(torch.zeros(16_000, 384), torch.zeros(16_000))
    assert Relation().statistics(head)["bank"].size == 2**26 // 16_384


def test_a_temperature_does_not_depend_on_the_blocks(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    logits, labels = 3 * torch.randn(50, 7, generator=generator), torch.arange(50) % 7
    whole = best_temperature(logits, labels)
    monkeypatch.setattr("oodline.detectors.temperature_scaling.BLOCK", 20)
    assert best_temperature(logits, labels) == whole
