"""Scores of near-certain samples: the softmax has long rounded to one, and they still must not tie."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from oodline.detectors.catalog import create_detector
from oodline.evaluation.metrics import auroc
from oodline.model.classifier import Classifier
from oodline.scoring.score import score
from oodline.testing import activations_of

# the lead up to which scores differ: beyond it the score itself, a logarithm or a power, is below the smallest number
LEADS = {
    "msp": 100,  # single precision; 745 in double, below
    "entropy": 740,
    "gen": 7400,
    "gen,gamma=0.5": 1480,
    "max-logit": 10_000,
    "energy": 10_000,
    "odin,epsilon=0.0": 10_000,  # at T = 1000 a lead of 10,000 is one of 10
}


def confident(leads: torch.Tensor, classes: int = 10) -> torch.Tensor:
    """Logits whose largest leads by so much; the others are not all equal."""
    others = torch.tensor([0.0, -0.3, -1.0]).repeat(3)[: classes - 1]
    return torch.cat([leads[:, None], others.to(leads).expand(len(leads), -1)], 1)


def scores_of(reference: str, logits: torch.Tensor) -> torch.Tensor:
    if reference.startswith("odin"):
        return score(create_detector(reference), Classifier(nn.Sequential(identity(10))), [logits])["odin"]
    return create_detector(reference)(activations_of(logits)).double()


def identity(width: int) -> nn.Linear:
    layer = nn.Linear(width, width)
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


@pytest.mark.parametrize("reference", LEADS)
def test_near_certain_samples_do_not_tie(reference):
    leads = torch.linspace(0, LEADS[reference], 400)
    scores = scores_of(reference, confident(leads))
    assert (scores.diff() > 0).all(), leads[1:][scores.diff() <= 0]


@pytest.mark.parametrize("reference", LEADS)
def test_where_they_must_tie_their_order_is_never_turned_round(reference):
    scores = scores_of(reference, confident(torch.linspace(0, 10_000, 400)))
    assert (scores.diff() >= 0).all()


def test_in_double_precision_msp_differs_up_to_a_lead_of_745():
    logits = confident(torch.linspace(0, 740, 400, dtype=torch.float64))
    assert (scores_of("msp", logits).diff() > 0).all()


def test_saturated_probabilities_would_have_said_nothing():
    i, o = confident(torch.linspace(60, 90, 50)), confident(torch.linspace(40, 59, 50))
    assert auroc(i.double().softmax(1).amax(1), o.double().softmax(1).amax(1)) == 0.5
    for reference in LEADS:
        assert auroc(scores_of(reference, i), scores_of(reference, o)) == 1.0


def exact_entropies(lead: int) -> tuple[float, float]:
    """Entropy and, for gamma = 1/2, generalised entropy of three classes one of which leads, without cancellation."""
    # e = exp(-lead) stays a fraction: p = (1, e, e) / (1 + 2 e), and only logarithms and roots are rounded
    e = Fraction(np.exp(-float(lead)))
    top, other = 1 / (1 + 2 * e), e / (1 + 2 * e)
    log_top, log_other = -np.log1p(float(2 * e)), -lead - np.log1p(float(2 * e))
    entropy = -(float(top) * log_top + 2 * float(other) * log_other)
    gen = np.sqrt(float(top * (1 - top))) + 2 * np.sqrt(float(other * (1 - other)))
    return entropy, gen


@pytest.mark.parametrize("lead", [0, 1, 10, 30, 36, 37, 38, 40, 100, 500])
def test_entropies_of_near_certain_samples_are_exact(lead):
    activations = activations_of(torch.tensor([[float(lead), 0.0, 0.0]]))
    entropy, gen = exact_entropies(lead)
    assert float(-create_detector("entropy")(activations)) == pytest.approx(entropy, rel=1e-12)
    assert float(-create_detector("gen,gamma=0.5")(activations)) == pytest.approx(gen, rel=1e-12)
