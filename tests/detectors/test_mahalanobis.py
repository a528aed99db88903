"""Mahalanobis distance against a loop over classes and the inverse of NumPy."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from oodline.detectors.mahalanobis import Mahalanobis, whitening
from oodline.detectors.relative_mahalanobis import RelativeMahalanobis
from oodline.errors import LabelError, SettingError
from oodline.model.head import LinearHead
from oodline.statistics import Covariance, scaled
from oodline.testing import activations_of


def scores_of(case, f: np.ndarray) -> np.ndarray:
    """Minus the distance to the nearest class mean, under the covariance pooled over the classes."""
    means = [case.f[case.y == c].mean(0) for c in range(len(case.W))]
    pooled = sum(np.outer(x - means[c], x - means[c]) for x, c in zip(case.f, case.y, strict=True)) / len(case.f)
    precision = np.linalg.pinv(pooled, hermitian=True)
    return np.array([-min((x - m) @ precision @ (x - m) for m in means) for x in f])


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_formula(draw, assert_equals, seed, signed):
    case, other = draw(seed, n=200, signed=signed), draw(seed + 100, signed=signed)
    scores = case.fit(Mahalanobis())(other.activations)
    assert_equals(scores, scores_of(case, other.f))


def test_features_far_from_the_origin_cost_no_precision(draw):
    case = draw(0, n=200, signed=True)
    # multiples of 1/64 near 100 are exact in single precision, so that shifting loses nothing
    case = replace(case, features=(64 * case.features).round() / 64)
    far = replace(case, features=case.features + 100)
    torch.testing.assert_close(
        far.fit(Mahalanobis())(far.activations), case.fit(Mahalanobis())(case.activations), rtol=1e-3, atol=1e-4
    )


def test_dead_features_are_left_out(draw, assert_equals):
    case = draw(0, n=200)
    features = case.features.clone()
    features[:, [2, 7]] = 0
    dead = replace(case, features=features)
    detector = dead.fit(Mahalanobis())
    assert detector.whiten.shape == (12, 10)
    scores = detector(dead.activations)
    assert_equals(scores, scores_of(dead, dead.f))
    # they have no variance to measure a distance by, so they do not count when they come alive either
    assert_equals(detector(case.activations), scores.double().numpy())


def test_a_feature_given_twice_counts_once(draw, assert_equals):
    case = draw(0, n=200)
    twice = replace(case, features=torch.cat([case.features, case.features[:, :1]], 1))
    twice = replace(twice, head=draw(0, width=13).head)
    assert_equals(twice.fit(Mahalanobis())(twice.activations), scores_of(case, case.f))


def test_fewer_samples_than_features(draw):
    case = draw(0, n=16, width=40)
    detector = case.fit(Mahalanobis())
    assert detector.whiten.shape == (40, 16 - 4)
    assert detector(case.activations).isfinite().all()


@pytest.mark.parametrize("seed", range(3))
def test_whitening_is_a_root_of_the_inverse(seed):
    root = np.random.default_rng(seed).normal(size=(6, 9))
    covariance = root @ root.T
    whiten = whitening(torch.from_numpy(covariance)).numpy()
    np.testing.assert_allclose(whiten @ whiten.T, np.linalg.inv(covariance), rtol=1e-8)


def test_one_sample_a_class_gives_no_covariance(draw):
    with pytest.raises(LabelError, match=r"the 4 samples of 4 classes do not vary within a class"):
        draw(0, n=4).fit(Mahalanobis())


@pytest.mark.parametrize("copies", [2, 5, 7, 49])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_copies_of_one_sample_a_class_give_no_covariance(draw, dtype, copies):
    case = draw(0, n=4)
    # a third has no end in binary, so that the mean of copies is rounded
    features = (case.features.to(dtype) / 3).repeat(copies, 1)
    copied = replace(case, features=features, labels=case.labels.repeat(copies), head=case.head.to(features))
    with pytest.raises(LabelError, match="do not vary within a class"):
        copied.fit(Mahalanobis(), batch=len(features))


def test_a_class_without_samples_is_named(draw):
    case = draw(0)
    with pytest.raises(LabelError, match=r"1 of 4 classes .*: 3\."):
        replace(case, labels=case.labels.clamp(max=2)).fit(Mahalanobis())


def over_length(f: np.ndarray, power: float) -> np.ndarray:
    return np.array([x / np.sqrt((x * x).sum()) ** power for x in f])


def of_the_authors(train: np.ndarray, labels: np.ndarray, f: np.ndarray) -> np.ndarray:
    """Mahalanobis++: normalise, centre by class, take the inverse of the covariance, and the nearest mean."""
    train, f = over_length(train, 1.0), over_length(f, 1.0)
    classes = np.unique(labels)
    means = np.array([train[labels == c].mean(0) for c in classes])
    centred = np.concatenate([train[labels == c] - means[i] for i, c in enumerate(classes)])
    precision = np.linalg.pinv(centred.T @ centred / len(centred), hermitian=True)
    return np.array([-((x - means) @ precision * (x - means)).sum(1).min() for x in f])


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("power", [0.5, 1.0])
def test_features_over_their_length(draw, assert_equals, power, signed):
    case, other = draw(0, n=200, signed=signed), draw(100, signed=signed)
    given = replace(case, features=torch.from_numpy(over_length(case.f, power)))
    there = over_length(other.f, power)
    expected = scores_of(given, there)
    assert_equals(case.fit(Mahalanobis(normalise=power))(other.activations), expected)
    mean = given.f.mean(0)
    precision = np.linalg.pinv(np.cov(given.f.T, bias=True), hermitian=True)
    overall = np.array([(x - mean) @ precision @ (x - mean) for x in there])
    assert_equals(case.fit(RelativeMahalanobis(normalise=power))(other.activations), expected + overall)


def test_mahalanobis_plus_plus_does_not_see_the_length(draw):
    case = draw(0, n=200)
    detector = case.fit(Mahalanobis.preset("mahalanobis++"))
    longer = activations_of(case.features * torch.logspace(-3, 3, 200).unsqueeze(1), case.head)
    torch.testing.assert_close(detector(longer), detector(case.activations), rtol=1e-4, atol=1e-4)


def test_nothing_to_normalise_stays_zero(draw):
    assert torch.equal(scaled(torch.zeros(2, 3), 1.0), torch.zeros(2, 3).double())
    tiny = torch.tensor([[3e-30, 4e-30]])
    torch.testing.assert_close(scaled(tiny, 1.0), torch.tensor([[0.6, 0.8]]).double())
    case = draw(0, n=200)
    nothing = activations_of(torch.zeros(2, 12), case.head)
    assert case.fit(Mahalanobis(normalise=1.0))(nothing).isfinite().all()


def test_without_normalisation_the_statistics_are_those_of_all_others(draw):
    head = draw(0).head
    assert Mahalanobis().statistics(head)["covariance"].key == Covariance().key
    assert Mahalanobis(normalise=1.0).statistics(head)["covariance"].key != Covariance().key


@pytest.mark.parametrize("value", [-0.1, 1.1, "much"])
def test_a_power_out_of_range(value):
    with pytest.raises(SettingError, match="`normalise` must be a number from 0 to 1"):
        Mahalanobis(normalise=value)


@pytest.mark.real
def test_mahalanobis_plus_plus_equals_the_authors_formula_on_real_features(shared):
    from safetensors.torch import load_file

    golden = load_file(shared / "golden" / "authors_cifar10.safetensors")
    train, labels = golden["features.train"], golden["labels.train"]
    head = LinearHead(golden["weight"], golden["bias"])
    detector, statistics = Mahalanobis(normalise=1.0), Mahalanobis(normalise=1.0)._requests(head)
    for statistic in statistics.values():
        statistic.update(activations_of(train, head), labels)
    detector._settle(statistics, head)
    for part in ("test", "svhn", "tex"):
        features = golden[f"features.{part}"]
        expected = of_the_authors(train.double().numpy(), labels.numpy(), features.double().numpy())
        ours = detector(activations_of(features, head)).double().numpy()
        np.testing.assert_allclose(ours, expected, rtol=1e-5)


def shrunk(centred: np.ndarray) -> np.ndarray:
    """Ledoit and Wolf's covariance of centred rows, sample by sample."""
    n, width = centred.shape
    covariance = centred.T @ centred / n
    target = np.trace(covariance) / width * np.eye(width)
    noise = sum(((np.outer(x, x) - covariance) ** 2).sum() for x in centred) / n**2
    share = min(1.0, noise / ((covariance - target) ** 2).sum())
    return (1 - share) * covariance + share * target


@pytest.mark.parametrize("normalise", [0.0, 1.0])
@pytest.mark.parametrize(("n", "width"), [(16, 40), (60, 12), (400, 12)])
def test_shrinkage_is_that_of_ledoit_and_wolf(draw, n, width, normalise):
    case, other = draw(0, n=n, width=width), draw(100, width=width)
    f, there = over_length(case.f, normalise), over_length(other.f, normalise)
    means = np.array([f[case.y == c].mean(0) for c in range(4)])
    covariance = shrunk(f - means[case.y])
    expected = np.array([-min((x - m) @ np.linalg.solve(covariance, x - m) for m in means) for x in there])
    detector = case.fit(Mahalanobis(normalise=normalise, shrinkage="ledoit-wolf"))
    np.testing.assert_allclose(detector(other.activations).numpy(), expected, rtol=1e-4)
    overall = shrunk(f - f.mean(0))
    expected = expected + [(x - f.mean(0)) @ np.linalg.solve(overall, x - f.mean(0)) for x in there]
    relative = case.fit(RelativeMahalanobis(normalise=normalise, shrinkage="ledoit-wolf"))
    np.testing.assert_allclose(relative(other.activations).numpy(), expected, rtol=1e-4, atol=1e-4)
    covariance_of = pytest.importorskip("sklearn.covariance", reason="scikit-learn: pip install 'oodline[dev]'")
    theirs = covariance_of.LedoitWolf(assume_centered=True).fit(f - means[case.y]).covariance_
    np.testing.assert_allclose(shrunk(f - means[case.y]), theirs, rtol=1e-10, atol=1e-12)


def test_of_many_samples_some_give_the_shrinkage(draw, monkeypatch):
    case = draw(0, n=4000, width=12)
    exact = case.fit(Mahalanobis(shrinkage="ledoit-wolf"))(case.activations)
    monkeypatch.setattr("oodline.detectors.mahalanobis.SAMPLE", 1000)
    estimated = case.fit(Mahalanobis(shrinkage="ledoit-wolf"))(case.activations)
    assert not torch.equal(exact, estimated)
    torch.testing.assert_close(estimated, exact, rtol=5e-3, atol=1e-3)


def test_one_gaussian_needs_no_labels(draw, assert_equals):
    case, other = draw(0, n=200), draw(100)
    mean, precision = case.f.mean(0), np.linalg.pinv(np.cov(case.f.T, bias=True), hermitian=True)
    expected = np.array([-(x - mean) @ precision @ (x - mean) for x in other.f])
    detector = Mahalanobis(by="all")
    statistics = detector._requests(case.head)
    for statistic in statistics.values():
        statistic.update(case.activations, None)
    detector._settle(statistics, case.head)
    assert detector.means.shape == (1, 12)
    assert_equals(detector(other.activations), expected)
    same = replace(case, features=case.features[:1].expand(200, -1))
    with pytest.raises(LabelError, match="the 200 samples do not vary"):
        same.fit(Mahalanobis(by="all"))


@pytest.mark.parametrize("kind", [Mahalanobis, RelativeMahalanobis])
def test_a_class_without_samples_can_be_left_out(draw, kind):
    case = draw(0, n=200)
    shown = replace(case, features=case.features[case.labels < 3], labels=case.labels[case.labels < 3])
    with pytest.raises(LabelError, match=r"1 of 4 classes .*: 3\..*unseen=skip"):
        shown.fit(kind())
    found = shown.fit(kind(unseen="skip"))(case.activations)
    fewer = replace(shown, head=LinearHead(case.head.weight[:3], case.head.bias[:3]))
    torch.testing.assert_close(found, fewer.fit(kind())(activations_of(case.features, fewer.head)))
    torch.testing.assert_close(case.fit(kind(unseen="skip"))(case.activations), case.fit(kind())(case.activations))
