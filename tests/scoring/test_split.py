"""Two parts of a loader: together all of it, never a sample in both, and nothing to do with the content."""

from __future__ import annotations

import pytest
import scipy.stats
import torch
from torch.utils.data import DataLoader, TensorDataset

from oodline import Fuse, Guard, split
from oodline.data.batch import Batch
from oodline.errors import SettingError
from oodline.scoring.split import set_references
from oodline.testing import toy_loader, toy_problem


def rows(part):
    return [(int(i), x.tolist()) for batch in part for i, x in zip(batch.index, batch.inputs, strict=True)]


@pytest.mark.parametrize("size", [1, 7, 100])
def test_parts_are_disjoint_complete_and_the_same_in_any_batches(size):
    inputs = torch.arange(1000.0).unsqueeze(1)
    first, second = split(DataLoader(TensorDataset(inputs, torch.zeros(1000)), batch_size=size), 0.3)
    assert sorted(rows(first) + rows(second)) == [(i, [float(i)]) for i in range(1000)]
    assert rows(first) == rows(first) == rows(split([(inputs, torch.zeros(1000))], 0.3)[0])
    assert scipy.stats.binomtest(len(rows(first)), 1000, 0.3).pvalue > 1e-3


def test_positions_that_a_loader_says_are_what_counts():
    order = torch.randperm(200)
    shuffled = [Batch(order[i : i + 50].unsqueeze(1), order[i : i + 50], order[i : i + 50]) for i in range(0, 200, 50)]
    found = [int(label) for batch in split(shuffled)[0] for label in batch.labels]
    plain = [index for index, _ in rows(split([torch.arange(200).unsqueeze(1)])[0])]
    assert sorted(found) == plain


def test_tokens_are_split_row_by_row():
    tokens = {"input_ids": torch.arange(40).reshape(20, 2), "mask": torch.ones(20, 2), "return_dict": True}
    first, second = split([tokens], 0.5)
    parts = [batch.inputs for part in (first, second) for batch in part]
    assert sorted(i for part in parts for i in part["input_ids"][:, 0].tolist()) == list(range(0, 40, 2))
    assert all(part["return_dict"] is True and len(part["mask"]) == len(part["input_ids"]) for part in parts)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0])
def test_a_fraction_outside_its_range(fraction):
    with pytest.raises(SettingError, match="between 0 and 1"):
        split([], fraction)


def test_what_is_referred_to_is_not_calibrated_on():
    classifier, loader = toy_problem()
    held_out = [toy_loader(seed=seed)[0] for seed in range(1, 6)]
    fuse = Fuse("energy+knn:k=5").fit(classifier, loader)
    rest = set_references({"fuse": fuse}, classifier, held_out, 0.05)
    used = sum(len(batch.index) for batch in split(held_out)[0])
    # the reference is kept where it was given, so all of the rest is left: SeenDataWarning is an error
    fuse.set_reference(classifier, split(held_out)[0])
    assert len(Guard(classifier, fuse).calibrate(rest).calibration.scores) == 300 - used
    assert set_references({"line": fuse.detectors[0]}, classifier, held_out, 0.05) is held_out
