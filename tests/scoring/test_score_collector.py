"""Columns of scores grow, merge and travel without losing or moving a value."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from oodline.detectors.energy import Energy
from oodline.detectors.msp import MSP
from oodline.detectors.react import ReAct
from oodline.scoring.score_collector import GrowingTensor, ScoreCollector, fingerprint
from oodline.testing import toy_problem

CLASSIFIER, [(INPUTS, LABELS)] = toy_problem()


@given(st.lists(st.integers(0, 1500), max_size=8))
def test_a_column_is_what_was_appended(lengths):
    column, parts = GrowingTensor(torch.float64), [torch.rand(length, dtype=torch.float64) for length in lengths]
    for part in parts:
        column.append(part)
    assert torch.equal(column.values, torch.cat([torch.zeros(0, dtype=torch.float64), *parts]))
    column.clear()
    column.append(torch.ones(2, dtype=torch.float64))
    assert column.values.tolist() == [1, 1]


def test_a_column_is_one_tensor_that_seldom_moves():
    column, places = GrowingTensor(torch.int64), set()
    for i in range(10_000):
        column.append(torch.tensor([i]))
        places.add(column.values.data_ptr())
    assert len(places) <= 5


def filled(rows: torch.Tensor, labels: bool = True) -> ScoreCollector:
    columns = ScoreCollector({"energy": Energy(), "index": MSP()})  # a name that columns have of their own
    for batch in rows.split(7):
        columns.update(CLASSIFIER(INPUTS[batch], index=batch), LABELS[batch] if labels else None)
    return columns


def test_shares_make_the_whole_in_the_order_of_the_positions():
    order = torch.randperm(60)
    shares, whole = [filled(order[:25]), filled(order[25:50]), filled(order[50:])], filled(torch.arange(60))
    merged = shares[0].fresh()
    for share in shares:
        other = merged.fresh()
        other.load_state_dict(share.state_dict())
        merged.merge(other)
    for name, values in whole.ordered().items():
        torch.testing.assert_close(merged.ordered()[name], values)
    assert merged.labelled
    assert not filled(torch.arange(2), labels=False).labelled
    assert merged.seconds.keys() == whole.seconds.keys()
    merged.merge(filled(torch.arange(2), labels=False))
    assert merged.labelled and sorted(merged.ordered()["labels"].tolist()) == [-1, -1, *sorted(LABELS.tolist())]


class FromTen(Energy):
    """NaN from the sample 10 on."""

    name = "from-ten"

    def score(self, activations):
        return torch.where(activations.index < 10, super().score(activations), torch.nan)


def test_a_failure_travels_with_the_scores_of_the_others():
    detectors = {"energy": Energy(), "from-ten": FromTen()}
    shares = [ScoreCollector(detectors, "skip") for _ in range(2)]
    for share, rows in zip(shares, torch.arange(60).split(30), strict=True):
        for batch in rows[rows < 60].flip(0).split(15):
            share.update(CLASSIFIER(INPUTS[batch], index=batch), LABELS[batch])
    merged, spare = shares[0].fresh(), shares[0].fresh()
    for share in shares:
        spare.load_state_dict(share.state_dict())
        merged.merge(spare)
    assert {name: str(error) for name, error in merged.failures.items()} == {
        "from-ten": str(shares[0].failures["from-ten"])
    }
    assert "15 of 15 samples of a batch (first: sample 29 of" in str(merged.failures["from-ten"])
    torch.testing.assert_close(merged.ordered()["score/energy"], filled(torch.arange(60)).ordered()["score/energy"])
    assert merged.key != ScoreCollector(detectors).key


def test_a_fingerprint_tells_names_settings_and_state_apart():
    fitted = ReAct(clip="90%").fit(CLASSIFIER, [(INPUTS, LABELS)])
    other = ReAct(clip="90%").fit(CLASSIFIER, [(2 * INPUTS, LABELS)])
    sets = [{"a": Energy()}, {"b": Energy()}, {"a": MSP()}, {"a": ReAct(clip=1.0)}, {"a": fitted}, {"a": other}]
    assert len({fingerprint(detectors) for detectors in sets}) == len(sets)
    assert fingerprint({"a": fitted}) == fingerprint({"a": ReAct(clip="90%").fit(CLASSIFIER, [(INPUTS, LABELS)])})
