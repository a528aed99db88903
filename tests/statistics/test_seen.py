"""What was seen is known exactly, whatever the order, and nothing is seen twice."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oodline.errors import StatisticsError
from oodline.statistics import Seen, seen
from oodline.testing import activations_of


def saw(*batches: list[int]) -> Seen:
    found = Seen()
    for rows in batches:
        index = torch.tensor(rows, dtype=torch.int64)
        found.update(activations_of(torch.zeros(len(rows), 2)).replace(index=index), None)
    return found


@given(st.sets(st.integers(0, 40), min_size=1), st.randoms(use_true_random=False))
def test_the_samples_seen_are_a_set(samples, random):
    rows = list(samples)
    random.shuffle(rows)
    half = random.randint(0, len(rows))
    found = saw(rows[:half:2], rows[1:half:2]).merge(saw(rows[half:]))
    assert found.total == len(samples)
    assert found.missing(41) == sorted(set(range(41)) - samples)
    covered = [i for first, end in found.intervals.tolist() for i in range(first, end)]
    assert covered == sorted(samples)
    assert len(found.intervals) == sum(i - 1 not in samples for i in samples)


@pytest.mark.parametrize(("one", "other"), [([5], [5]), ([0, 1, 2, 3], [1, 2]), ([4, 6], [5, 6]), ([1], [0, 1, 2])])
def test_a_sample_seen_twice_is_refused(one, other):
    twice = min(set(one) & set(other))
    with pytest.raises(StatisticsError, match=f"sample {twice} was counted twice: two shares of the data hold it"):
        saw(one).merge(saw(other))
    with pytest.raises(StatisticsError, match="counted twice"):
        saw(one, other)
    with pytest.raises(StatisticsError, match="counted twice"):
        saw(one + other)


def test_a_refused_batch_changes_nothing():
    found = saw([0, 1])
    with pytest.raises(StatisticsError):
        found.merge(saw([1, 2]))
    assert found.intervals.tolist() == [[0, 2]]


def test_too_many_pieces_are_refused(monkeypatch):
    monkeypatch.setattr(seen, "MOST", 3)
    with pytest.raises(StatisticsError, match=r"more than 3 pieces\. Read the data in order"):
        saw([0, 2, 4], [6])
    assert saw([0, 2, 4], [1, 3]).intervals.tolist() == [[0, 5]]


def test_nothing_seen_is_nothing():
    assert Seen().total == 0
    assert Seen().missing(3) == [0, 1, 2]
