"""Every detector that the authors' released code was run for, on the same arrays: `authors_cifar10.safetensors`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from oodline.detectors.base import Detector
from oodline.detectors.catalog import create_detector
from oodline.model.activations import Activations
from oodline.model.head import LinearHead
from oodline.testing import activations_of

pytestmark = pytest.mark.real

SETS = ("test", "svhn", "tex")
EXACT = 1e-4
"""Largest difference over the range of the authors' scores, unless said below."""

METHODS: dict[str, str] = {
    "ash_b_p65": "ash-b,p=0.65",
    "ash_p_p60": "ash-p,p=0.6",
    "ash_s_p90": "ash-s,p=0.9",
    "cadref": "cadref,confidence=energy",
    "caref": "caref",
    "conjnorm_authors_class_axis": "conjnorm,preset=cifar10-densenet100",
    "cop_evr0.85": "cop,explained=0.85",
    "ddcs": "ddcs,p=0.18,alpha=0.8,low=20%,high=90%",
    "dice_p90": "dice,p=0.9",
    "fdbd": "fdbd",
    "fm_pls": "fm-pls,preset=cifar-densenet100",
    "gen_g0.1_m10": "gen,gamma=0.1,top=10",
    "gradnorm": "gradnorm",
    "itp": "itp,preset=cifar10-densenet100",
    "klm": "kl-matching",
    "knn50": "knn,k=50",
    "line": "line,preset=cifar10-densenet100",
    "mds": "mahalanobis",
    "nci_alpha0.001": "nci,alpha=0.001",
    "nnguide_k10": "nnguide,k=10",
    "optfs_energy": "optfs,readout=energy",
    "optfs_vanilla": "optfs,readout=logit",
    "react_p90": "react,clip=90%",
    "residual_half": "residual,dimension=171",
    "rmds": "relative-mahalanobis",
    "scale_p85": "scale,p=0.85",
    "she": "she",
    "vim_half": "vim,dimension=171",
    "vra_q60_q95": "vra,preset=cifar10-densenet100",
}
"""Our detector for each of theirs, by the settings that they were run with. VRA's were 60 % and 90 %, the authors' for
this network, although the key says 95: with 95 % the scores differ by a sixth of their range."""

WIDER = {"gen_g0.1_m10": 0.031}
"""Their softmax in single precision loses what is left of a probability near one; ours does not, and in double
precision their formula is ours (below)."""

AFFINE = ("fdbd", "gradnorm")
"""Theirs times a positive constant, plus a constant, which no threshold or curve can tell."""

RANKED = ("knn50",)
"""Theirs is the squared distance: only the order is comparable."""


@cache
def load(path: Path) -> dict[str, Tensor]:
    return load_file(path)


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, Tensor]:
    return load(shared / "golden" / "authors_cifar10.safetensors")


def test_no_method_of_the_file_is_left_out(golden):
    found = {name.removeprefix("score.").rpartition(".")[0] for name in golden if name.startswith("score.")}
    assert found == set(METHODS)
    assert {f"score.{method}.{part}" for method in found for part in SETS} == {n for n in golden if n[:6] == "score."}
    assert {*WIDER, *AFFINE, *RANKED} <= found


def fit(detector: Detector, golden: dict[str, Tensor], head: LinearHead) -> Detector:
    statistics = detector._requests(head)
    activations = activations_of(golden["features.train"], head)
    for statistic in statistics.values():
        statistic.update(activations, golden["labels.train"])
    detector._settle(statistics, head)
    return detector


def scores_of(method: str, golden: dict[str, Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Ours and theirs, of all three sets together."""
    head = LinearHead(golden["weight"], golden["bias"])
    detector = fit(create_detector(METHODS[method]), golden, head)

    def of(part: str) -> Activations:
        return activations_of(golden[f"features.{part}"], head)

    ours = torch.cat([detector(of(part)).double() for part in SETS])
    theirs = torch.cat([golden[f"score.{method}.{part}"] for part in SETS])
    return ours.numpy(), theirs.numpy()


def to_their_scale(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    slope, offset = np.polyfit(ours, theirs, 1)
    assert slope > 0
    return slope * ours + offset


def ranks(values: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values, kind="stable"), kind="stable").astype(float)


@pytest.mark.parametrize("method", METHODS)
def test_scores_equal_those_of_the_authors_code(golden, method):
    ours, theirs = scores_of(method, golden)
    adapt: Callable[[np.ndarray, np.ndarray], np.ndarray] = to_their_scale if method in AFFINE else lambda x, _: x
    if method in RANKED:
        ours, theirs = ranks(ours), ranks(theirs)
    difference = np.abs(adapt(ours, theirs) - theirs).max() / np.ptp(theirs)
    assert difference <= WIDER.get(method, EXACT)


def test_gen_differs_only_where_single_precision_has_no_digits_left(golden):
    logits = torch.cat([golden[f"features.{part}"] for part in SETS]) @ golden["weight"].T + golden["bias"]
    ours, theirs = scores_of("gen_g0.1_m10", golden)
    p = logits.double().softmax(1)
    expected, largest = -(p**0.1 * (1 - p) ** 0.1).sum(1).numpy(), p.amax(1).numpy()
    assert np.abs(ours - expected).max() <= EXACT * np.ptp(theirs)
    unsure = 1 - largest > 1e-3
    assert unsure.sum() > 200
    assert np.abs(theirs - expected)[unsure].max() <= EXACT * np.ptp(theirs)
