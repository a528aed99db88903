"""One threshold for all OOD sets, and full-spectrum ID."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oodline.errors import InputError, SettingError
from oodline.evaluation.metrics import compute_metrics, fpr_at_tpr_id_positive, fpr_at_tpr_ood_positive
from oodline.evaluation.pooling import full_spectrum, one_threshold, pool

tied = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=30)


@settings(max_examples=200, deadline=None)
@given(tied, tied, tied, st.sampled_from([0.5, 0.8, 0.95, 1.0]))
def test_one_threshold_flags_enough_of_all_images_and_no_lower_one_does(i, near, far, tpr):
    sets = {"near": near, "far": far}
    found = one_threshold(i, sets, tpr)
    flagged = (found.ood_flagged["near"] * len(near) + found.ood_flagged["far"] * len(far)) / (len(near) + len(far))
    together = np.array(near + far)
    assert flagged >= tpr - 1e-12
    assert (together < found.threshold).mean() < tpr
    assert found.id_flagged == fpr_at_tpr_ood_positive(i, pool(sets), tpr)


def test_a_threshold_of_its_own_for_each_set_flatters_the_mean():
    # the easy set is a hundred times larger, so a threshold for all flags 95 % by it alone
    i = np.arange(100.0)
    sets = {"easy": np.full(1000, -1.0), "hard": np.full(10, 49.5)}
    each = [fpr_at_tpr_ood_positive(i, scores) for scores in sets.values()]
    assert np.mean(each) == 0.25
    assert one_threshold(i, sets).id_flagged == 0.0
    assert one_threshold(i, sets).ood_flagged == {"easy": 1.0, "hard": 0.0}


def test_with_id_positive_the_pooled_rate_weighs_sets_by_their_size():
    random = np.random.default_rng(0)
    i = random.normal(1, 1, 200)
    sets = {"a": random.normal(0, 1, 50), "b": random.normal(-1, 1, 150)}
    each = {name: fpr_at_tpr_id_positive(i, scores) for name, scores in sets.items()}
    pooled = compute_metrics(i, pool(sets)).fpr95_id_positive
    assert pooled == pytest.approx((50 * each["a"] + 150 * each["b"]) / 200, abs=1e-12)


def test_covariate_shifted_data_counts_as_id():
    ours = {"energy": torch.tensor([3.0, 4.0]), "msp": torch.tensor([0.1, 0.2])}
    shifted = {
        "blur": {name: scores - 1 for name, scores in ours.items()},
        "noise": {n: s - 2 for n, s in ours.items()},
    }
    found = full_spectrum(ours, shifted)
    assert found["energy"].tolist() == [3.0, 4.0, 2.0, 3.0, 1.0, 2.0]
    ood = [2.5]
    assert compute_metrics(ours["energy"], ood).auroc == 1.0
    assert compute_metrics(found["energy"], ood).auroc == 0.5
    assert full_spectrum(ours, {})["msp"].tolist() == ours["msp"].tolist()


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="no OOD set to pool"):
        pool({})
    with pytest.raises(InputError, match=r"1 of 1 OOD \('far'\) scores are NaN"):
        one_threshold([1.0], {"near": [0.0], "far": [float("nan")]})
    with pytest.raises(SettingError, match="TPR lies in"):
        one_threshold([1.0], {"near": [0.0]}, 1.1)
