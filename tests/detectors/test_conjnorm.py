"""ConjNorm against loops over samples, classes and features, in float64 and without logarithms where they fit."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from oodline.detectors.conjnorm import ConjNorm, affinity
from oodline.errors import LabelError, SettingError
from oodline.testing import activations_of

seeds = pytest.mark.parametrize("seed", range(3))
signs = pytest.mark.parametrize("signed", [False, True])


def norm(x: np.ndarray, p: float) -> float:
    return sum(abs(v) ** p for v in x) ** (1 / p)


def divergence(a: np.ndarray, b: np.ndarray, p: float, sizes: np.ndarray | None = None) -> float:
    """`sizes` are what each feature of b is divided by, where it is not the norm of b."""
    q = p / (p - 1)
    sizes = np.full(len(b), norm(b, q)) if sizes is None else sizes
    inner = sum(u * v * abs(v) ** (q - 2) / s ** (q - 2) for u, v, s in zip(a, b, sizes, strict=True) if v != 0)
    return inner - 0.5 * norm(a, q) ** 2


def conjnorm_of(case, f: np.ndarray, p: float, temperature: float, partition: str, axis: str = "feature") -> np.ndarray:
    train = [x / norm(x, p) for x in case.f]
    means = [case.f[case.y == c].mean(0) for c in range(4)]
    prototypes = [m / norm(m, p) for m in means]
    sizes = np.array([norm(column, p / (p - 1)) for column in np.array(prototypes).T]) if axis == "class" else None
    log_partition = []
    for c, prototype in enumerate(prototypes):
        counted = [x for x, y in zip(train, case.y, strict=True) if partition == "all" or y == c]
        log_partition.append(np.logaddexp.reduce([divergence(x, prototype, p, sizes) / temperature for x in counted]))
    scores = []
    for x in f:
        x = x / norm(x, p)
        terms = [
            divergence(x, m, p, sizes) / temperature - phi for m, phi in zip(prototypes, log_partition, strict=True)
        ]
        scores.append(np.logaddexp.reduce(terms))
    return np.array(scores)


@seeds
@signs
@pytest.mark.parametrize("axis", ["feature", "class"])
@pytest.mark.parametrize("partition", ["all", "class"])
@pytest.mark.parametrize(("p", "temperature"), [(2.2, 0.05), (2.5, 0.08), (1.5, 5e-4), (1.8, 5e-3), (2.0, 1.0)])
def test_conjnorm_equals_the_formula(draw, assert_equals, seed, signed, p, temperature, partition, axis):
    case, other = draw(seed, signed=signed), draw(seed + 100, signed=signed)
    detector = case.fit(ConjNorm(p=p, temperature=temperature, partition=partition, norm=axis))
    expected = conjnorm_of(case, other.f, p, temperature, partition, axis)
    assert_equals(detector(activations_of(other.features, case.head)), expected)


@pytest.mark.parametrize("p", [1.5, 2.0, 2.5])
def test_the_inner_product_is_with_the_gradient_of_half_the_squared_conjugate_norm(p):
    points, prototypes = torch.randn(7, 5, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    q = p / (p - 1)
    moving = prototypes.clone().requires_grad_()
    (0.5 * torch.linalg.vector_norm(moving, q, dim=1).square().sum()).backward()
    directions = points / torch.linalg.vector_norm(points, p, dim=1, keepdim=True)
    expected = directions @ moving.grad.T - 0.5 * torch.linalg.vector_norm(directions, q, dim=1, keepdim=True) ** 2
    torch.testing.assert_close(affinity(points, prototypes, p), expected)


def test_of_all_points_the_prototype_itself_is_the_nearest():
    prototype = torch.randn(1, 6, dtype=torch.float64)
    prototype /= torch.linalg.vector_norm(prototype, 2.2)
    others = prototype + 0.3 * torch.randn(200, 6, dtype=torch.float64)
    assert (affinity(others, prototype, 2.2) < affinity(prototype, prototype, 2.2)).all()


def test_a_prototype_with_zeros_has_no_pole(draw, assert_equals):
    case = draw(0)
    features = case.features.clone()
    features[:, 5] = 0.0
    case = replace(case, features=features)
    for p in (1.5, 2.5):
        scores = case.fit(ConjNorm(p=p))(case.activations)
        assert_equals(scores, conjnorm_of(case, case.f, p, 0.05, "all"))


@pytest.mark.parametrize("p", [1.5, 2.2])
def test_scores_do_not_depend_on_the_length_of_the_features(draw, p):
    case = draw(0)
    detector = case.fit(ConjNorm(p=p))
    scores = [detector(activations_of(scale * case.features, case.head)) for scale in (1.0, 1e-6, 1e15)]
    torch.testing.assert_close(scores[1], scores[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scores[2], scores[0], rtol=1e-4, atol=1e-4)


def test_features_of_zero_lie_farther_than_any_training_sample(draw):
    case = draw(0)
    detector = case.fit(ConjNorm())
    silent = detector(activations_of(torch.zeros(2, 12), case.head))
    assert silent.isfinite().all()
    assert (silent < detector(case.activations).amin()).all()


def test_the_bank_is_a_sample_of_the_training_data(draw, assert_equals):
    case = draw(0)
    detector = ConjNorm(bank=10)
    statistics = detector._requests(case.head)
    for statistic in statistics.values():
        statistic.update(case.activations, case.labels)
    detector._settle(statistics, case.head)
    kept = statistics["bank"].index
    whole = conjnorm_of(case, case.f, 2.2, 0.05, "all")
    assert len(kept) == 10
    assert np.abs(detector(case.activations).numpy() - whole).max() > 0.1
    means = [case.f[case.y == c].mean(0) for c in range(4)]
    prototypes = [m / norm(m, 2.2) for m in means]
    rows = [x / norm(x, 2.2) for x in case.f[kept]]
    expected = [np.logaddexp.reduce([divergence(x, m, 2.2) / 0.05 for x in rows]) for m in prototypes]
    assert_equals(detector.log_partition, np.array(expected))


def test_every_class_is_needed(draw):
    case = draw(0)
    with pytest.raises(LabelError, match=r"1 of 4 classes have no sample .*: 3\."):
        replace(case, labels=case.labels.clamp(max=2)).fit(ConjNorm())
    with pytest.raises(LabelError, match=r"3 of 4 classes have no sample in the bank of 1: .*Enlarge the bank"):
        case.fit(ConjNorm(partition="class", bank=1))


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: ConjNorm(p=1.0), r"`p` must be a number above 1; got 1\.0"),
        (lambda: ConjNorm(p=float("inf")), "`p` must be a finite number above 1; got inf"),
        (lambda: ConjNorm(temperature=0.0), r"`temperature` must be a number above 0; got 0\.0"),
        (lambda: ConjNorm(temperature=float("inf")), "`temperature` must be a finite number above 0; got inf"),
        (lambda: ConjNorm(bank=0), "`bank` must be an integer of at least 1; got 0"),
        (lambda: ConjNorm(partition="none"), "`partition` must be 'all' or 'class'; got 'none'"),
    ],
)
def test_invalid_settings(build, sentence):
    with pytest.raises(SettingError, match=sentence):
        build()
