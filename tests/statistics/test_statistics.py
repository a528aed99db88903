"""A statistic depends on the data alone, not on how it was cut, ordered and merged, and equals what NumPy computes."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from oodline.errors import SettingError, StatisticsError
from oodline.model.activations import Activations
from oodline.model.head import LinearHead
from oodline.statistics import (
    ClassMoments,
    Confusions,
    ContentSketch,
    Contributions,
    Covariance,
    Extremes,
    Features,
    Hits,
    Logits,
    Probabilities,
    Quantiles,
    Reservoir,
    Seen,
    SideBySide,
    Statistic,
    TopSamples,
)
from oodline.testing import activations_of

CLASSES, WIDTH = 3, 4
KINDS: dict[str, Any] = {
    "mean": ClassMoments,
    "variance": lambda: ClassMoments(variance=True),
    "variance by prediction": lambda: ClassMoments(by="predicted", variance=True),
    "overall variance of logits": lambda: ClassMoments(Logits(), "all", variance=True),
    "mean probabilities": lambda: ClassMoments(Probabilities(), "predicted"),
    "mean contributions": lambda: ClassMoments(Contributions()),
    "pooled covariance": Covariance,
    "covariance of each class": lambda: Covariance(per_class=True),
    "plain covariance": lambda: Covariance(by="all"),
    "quantiles": Quantiles,
    "confusions": Confusions,
    "hits": Hits,
    "content sketch": lambda: ContentSketch(6),
    "top samples": lambda: TopSamples(3),
    "top logits": lambda: TopSamples(2, Logits()),
    "reservoir": lambda: Reservoir(5),
    "seen": Seen,
    "extremes": lambda: Extremes(Features()),
    "extremes of all": lambda: Extremes(SideBySide((Features(), Logits())), "all"),
    "reservoir with labels": lambda: Reservoir(7, Logits(), "label", seed=1),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
finite = st.floats(-1e3, 1e3, width=32)


def head_of(classes: int = CLASSES, width: int = WIDTH) -> LinearHead:
    generator = torch.Generator().manual_seed(7)
    return LinearHead(torch.randn(classes, width, generator=generator), torch.randn(classes, generator=generator))


def sample(n: int, width: int = WIDTH, classes: int = CLASSES, seed: int = 0) -> tuple[Activations, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    features = torch.randn(n, width, generator=generator) * 3 + labels.unsqueeze(1)
    return activations_of(features, head_of(classes, width)), labels


def part_of(whole: Activations, rows: list[int]) -> Activations:
    return Activations(whole.features[rows], whole.logits[rows], whole.head, whole.index[rows])


def filled(statistic: Any, whole: Activations, labels: Tensor, batches: list[list[int]] | None = None) -> Any:
    for rows in batches if batches is not None else [list(range(len(whole)))]:
        statistic.update(part_of(whole, rows), labels[rows])
    return statistic


def cut(rows: list[int], random: Random) -> list[list[int]]:
    at = sorted(random.randint(0, len(rows)) for _ in range(random.randint(0, 5)))
    return [rows[i:j] for i, j in zip([0, *at], [*at, len(rows)], strict=True)]


def batches_of(rows: list[int], random: Random) -> list[list[int]]:
    return [batch for batch in cut(rows, random) if batch]


def same(one: Statistic, other: Statistic, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=tolerance, atol=tolerance)


@every_kind
@given(n=st.integers(1, 40), seed=st.integers(0, 99), random=st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=20)
def test_any_cut_order_and_merge_tree_give_the_same(kind, n, seed, random):
    whole, labels = sample(n, seed=seed)
    rows = list(range(n))
    random.shuffle(rows)
    shards = [filled(KINDS[kind](), whole, labels, batches_of(shard, random)) for shard in cut(rows, random)]
    while len(shards) > 1:
        into = shards.pop(random.randrange(len(shards)))
        shards.append(into.merge(shards.pop(random.randrange(len(shards)))))
    same(shards[0], filled(KINDS[kind](), whole, labels))


@given(
    x=arrays(np.float32, st.tuples(st.integers(1, 30), st.integers(1, 4)), elements=finite),
    random=st.randoms(use_true_random=False),
)
@settings(deadline=None, max_examples=60)
def test_means_variances_and_covariances_are_those_of_numpy(x, random):
    n, width = x.shape
    labels = torch.tensor([random.randrange(CLASSES) for _ in range(n)])
    whole, batches = activations_of(torch.tensor(x), head_of(width=width)), batches_of([*range(n)], random)
    moments = filled(ClassMoments(variance=True), whole, labels, batches)
    pooled, each = (filled(Covariance(per_class=flag), whole, labels, batches) for flag in (False, True))
    plain = filled(Covariance(by="all"), whole, labels, batches)
    x, scatter = x.astype(np.float64), np.zeros((width, width))
    close = {"rtol": 1e-9, "atol": 1e-8}
    for c in range(CLASSES):
        mine = x[labels.numpy() == c]
        assert int(moments.count[c]) == len(mine)
        if len(mine) == 0:
            continue
        own = np.cov(mine, rowvar=False, bias=True).reshape(width, width)
        scatter += own * len(mine)
        np.testing.assert_allclose(moments.mean[c], mine.mean(0), **close)
        np.testing.assert_allclose(moments.standard_deviation(unbiased=False)[c] ** 2, mine.var(0), **close)
        np.testing.assert_allclose(each.of_class(c), own, **close)
        if len(mine) > 1:
            np.testing.assert_allclose(moments.standard_deviation()[c] ** 2, mine.var(0, ddof=1), **close)
    np.testing.assert_allclose(pooled.pooled(), scatter / n, **close)
    np.testing.assert_allclose(each.pooled(), scatter / n, **close)
    np.testing.assert_allclose(plain.pooled(), np.cov(x, rowvar=False, bias=True).reshape(width, width), **close)
    np.testing.assert_allclose(moments.overall_mean, x.mean(0), **close)
    assert moments.total == n


@pytest.mark.parametrize("size", [1, 37, 2000])
def test_a_large_mean_does_not_swallow_a_small_spread(size):
    noise = torch.randn(2000, WIDTH, dtype=torch.float64)
    whole = activations_of(1e6 + 1e-3 * noise, head_of().to(noise))
    batches = [b.tolist() for b in torch.arange(2000).split(size)]
    half, labels = len(batches) // 2, torch.zeros(2000, dtype=torch.int64)
    exact = np.cov(whole.features.numpy() - 1e6, rowvar=False, bias=True)
    for make in (lambda: ClassMoments(variance=True), lambda: Covariance(per_class=True)):
        found = filled(make(), whole, labels, batches[half:])
        found.merge(filled(make(), whole, labels, batches[:half]))
        if isinstance(found, ClassMoments):
            torch.testing.assert_close(found.mean[0], whole.features.mean(0), rtol=1e-14, atol=0)
            np.testing.assert_allclose(found.standard_deviation(False)[0] ** 2, np.diag(exact), rtol=1e-6)
        else:
            np.testing.assert_allclose(found.of_class(0), exact, rtol=1e-6, atol=1e-12)


@every_kind
def test_the_size_does_not_grow_with_the_data(kind):
    def size(n: int) -> int:
        whole, labels = sample(n)
        batches = [b.tolist() for b in torch.arange(n).split(50)]
        return sum(tensor.numel() for tensor in filled(KINDS[kind](), whole, labels, batches).state_dict().values())

    assert size(100) == size(2000)


@every_kind
def test_a_state_round_trip_is_exact_and_shares_nothing(kind):
    (first, labels), (second, more) = sample(20), sample(20, seed=1)
    second = second.replace(index=second.index + 20)
    one, other = filled(KINDS[kind](), first, labels), KINDS[kind]()
    assert other.empty and other.state_dict() == {}
    state = one.state_dict()
    kept = {name: tensor.clone() for name, tensor in state.items()}
    other.load_state_dict(state)
    same(one, other, 0)
    filled(one, second, more)
    torch.testing.assert_close(other.state_dict(), kept, rtol=0, atol=0)
    torch.testing.assert_close(state, kept, rtol=0, atol=0)
    same(filled(other, second, more), one, 0)
    other.load_state_dict({})
    assert other.empty
    for wrong in ({**state, "nonsense": torch.zeros(1)}, dict(list(state.items())[1:]) or {"nonsense": torch.zeros(1)}):
        with pytest.raises(StatisticsError, match=f"a state of {type(one).__name__} holds"):
            other.load_state_dict(wrong)


@every_kind
def test_merging_leaves_the_other_as_it_is(kind):
    (first, labels), (second, more) = sample(20), sample(20, seed=1)
    second = second.replace(index=second.index + 20)
    other = filled(KINDS[kind](), first, labels)
    before = other.state_dict()
    into = KINDS[kind]().merge(other).merge(KINDS[kind]())
    same(into, other, 0)
    filled(into, second, more)
    filled(KINDS[kind](), second, more).merge(other)
    torch.testing.assert_close(other.state_dict(), before, rtol=0, atol=0)


@every_kind
def test_merging_another_kind_is_refused(kind):
    one = filled(KINDS[kind](), *sample(20))
    for name in KINDS:
        if name != kind:
            with pytest.raises(StatisticsError, match="different statistics"):
                one.merge(KINDS[name]())
    with pytest.raises(StatisticsError, match="different statistics"):
        Reservoir(5).merge(Reservoir(6))


@pytest.mark.parametrize("make", [ClassMoments, Covariance, lambda: Covariance(per_class=True), lambda: Reservoir(5)])
def test_merging_another_width_is_refused(make):
    one, other = filled(make(), *sample(20)), filled(make(), *sample(20, width=WIDTH + 1))
    with pytest.raises(StatisticsError, match="different classifiers"):
        one.merge(other)


@pytest.mark.parametrize("classes", [1, CLASSES + 1])
@pytest.mark.parametrize("make", [ClassMoments, Covariance, lambda: Covariance(per_class=True)])
def test_merging_another_number_of_classes_is_refused(make, classes):
    one, other = filled(make(), *sample(20)), filled(make(), *sample(20, classes=classes))
    with pytest.raises(StatisticsError, match="different classifiers"):
        one.merge(other)


def test_contributions_are_features_times_the_weights_of_the_class():
    whole, labels = sample(20)
    expected = whole.features * whole.head.weight[labels]
    torch.testing.assert_close(Contributions()(whole, labels), expected)


def test_one_matrix_a_class_must_have_been_kept():
    with pytest.raises(SettingError, match=r"only by Covariance\(per_class=True\)"):
        filled(Covariance(), *sample(20)).of_class(0)


def test_extremes_are_the_two_outermost_of_each_class():
    features, labels = torch.randn(23, WIDTH, generator=torch.Generator().manual_seed(0)), torch.arange(23) % 2
    extremes = Extremes(Features())
    head = LinearHead(torch.randn(CLASSES, WIDTH), torch.zeros(CLASSES))
    for rows in torch.arange(23).split(5):
        extremes.update(activations_of(features[rows], head), labels[rows])
    for c in range(2):
        ordered = np.sort(features[labels == c].numpy(), axis=0)
        np.testing.assert_array_equal(extremes.low[:, c], ordered[:2])
        np.testing.assert_array_equal(extremes.high[:, c], ordered[:-3:-1])
    assert (extremes.low[:, 2] == torch.inf).all() and (extremes.high[:, 2] == -torch.inf).all()


def test_a_scatter_of_several_blocks_is_the_whole_one(monkeypatch):
    monkeypatch.setattr("oodline.statistics.covariance.BLOCK", 3)
    whole, labels = sample(30, seed=0)
    covariance = filled(Covariance(by="all"), whole, labels, [[*range(20)], [*range(20, 30)]])
    expected = np.cov(whole.features.double().numpy(), rowvar=False, bias=True)
    np.testing.assert_allclose(covariance.pooled(), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(covariance.fresh().merge(covariance).pooled(), expected, rtol=1e-9, atol=1e-12)
