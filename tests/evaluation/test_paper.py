"""The authors' metric code, against its procedure walked through one sample at a time in exact fractions."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oodline.evaluation.metrics import compute_metrics
from oodline.evaluation.paper import detection_error, paper_metrics

tied = st.integers(-3, 3).map(float)
wild = st.floats(allow_nan=False, allow_infinity=False, width=32)
sets = st.one_of(*(st.tuples(*2 * [st.lists(kind, min_size=1, max_size=50)]) for kind in (tied, wild)))


def walk(known, novel):
    """(known, novel) still accepted after the lowest samples are thrown out one by one, equal scores as one step.

    Inside a run of equal scores the curve has no points of its own: each takes the place of the one after it.
    """
    queue = sorted([(score, 0) for score in known] + [(score, 1) for score in novel])
    curve = [(len(known), len(novel))]
    for _, kind in queue:
        left = curve[-1]
        curve.append((left[0] - (kind == 0), left[1] - (kind == 1)))
    for j in range(len(queue) - 1, 0, -1):
        if queue[j][0] == queue[j - 1][0]:
            curve[j] = curve[j + 1]
    return curve


def trapezoids(points):
    """Area under straight lines from point to point, the abscissa falling."""
    return sum((a[0] - b[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(points))


def slow(known, novel):
    """What the authors' file computes: FPR, AUROC, DTERR, AUIN, AUOUT."""
    n, m = len(known), len(novel)
    curve = walk(known, novel)
    threshold = sorted(known)[round(0.05 * n)]
    rates = [(Fraction(tp, n), Fraction(fp, m)) for tp, fp in curve]
    auin = [(Fraction(1), Fraction(1, 2))]
    auin += [(Fraction(tp, n), Fraction(tp, tp + fp)) for tp, fp in curve if tp + fp]
    auin += [(Fraction(0), Fraction(0))]
    auout = [(Fraction(0), Fraction(0))]
    auout += [(1 - Fraction(fp, m), Fraction(m - fp, n - tp + m - fp)) for tp, fp in curve if n - tp + m - fp]
    auout += [(Fraction(1), Fraction(1, 2))]
    return {
        "FPR": Fraction(sum(score > threshold for score in novel), m),
        "AUROC": trapezoids([(tpr, 1 - fpr) for tpr, fpr in rates]),
        "DTERR": min(Fraction(n - tp + fp, n + m) for tp, fp in curve),
        "AUIN": trapezoids(auin),
        "AUOUT": trapezoids(auout[::-1]),
    }


@settings(max_examples=400, deadline=None)
@given(sets)
def test_equals_the_authors_procedure_ties_included(pair):
    known, novel = pair
    ours, theirs = paper_metrics(known, novel), slow(known, novel)
    assert ours.fpr95_id_positive == float(theirs["FPR"])
    assert ours.auroc == pytest.approx(float(theirs["AUROC"]), abs=1e-12)
    assert ours.aupr_in == pytest.approx(float(theirs["AUIN"]), abs=1e-12)
    assert ours.aupr_out == pytest.approx(float(theirs["AUOUT"]), abs=1e-12)
    assert detection_error(known, novel) == pytest.approx(float(theirs["DTERR"]), abs=1e-12)


@pytest.mark.parametrize("n", [*range(1, 131), 1000, 4990])
def test_the_rank_of_the_threshold_is_rounded_as_theirs(n):
    # 0.05 n falls between two integers for n = 10, 30, 50, ..., where Python rounds to even
    known = np.arange(float(n))
    novel = np.arange(-1.0, n) + 0.5
    assert paper_metrics(known, novel).fpr95_id_positive == float(slow(list(known), list(novel))["FPR"])


@settings(max_examples=100, deadline=None)
@given(sets)
def test_the_other_convention_is_the_same_rule_with_the_sets_exchanged(pair):
    known, novel = pair
    one, other = paper_metrics(known, novel), paper_metrics([-x for x in novel], [-x for x in known])
    assert one.fpr95_ood_positive == other.fpr95_id_positive
    assert one.aupr_out == pytest.approx(other.aupr_in, abs=1e-12)


def test_without_ties_and_at_whole_ranks_it_is_the_definition_but_for_the_precision_curves():
    random = np.random.default_rng(0)
    known, novel = random.normal(1, 1, 400), random.normal(0, 1, 300)
    paper, exact = paper_metrics(known, novel), compute_metrics(known, novel)
    assert paper.fpr95_id_positive == exact.fpr95_id_positive
    assert paper.auroc == exact.auroc
    assert paper.aupr_in != exact.aupr_in
    assert paper.aupr_in == pytest.approx(exact.aupr_in, abs=0.005)


def test_a_saturated_score_looks_better_by_their_code_than_it_is():
    # nine in ten scores are at the ceiling, ID and OOD alike
    known = np.r_[np.full(90, 1.0), np.full(10, 0.5)]
    novel = np.r_[np.full(90, 0.5), np.full(10, 1.0)]
    assert compute_metrics(known, novel).fpr95_id_positive == 1.0
    assert paper_metrics(known, novel).fpr95_id_positive == 0.1
