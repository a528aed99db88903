"""Residual, ViM, NNGuide and FM + PLS against loops over samples."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from oodline.detectors.fm_pls import FMPLS
from oodline.detectors.nnguide import NNGuide
from oodline.detectors.vim import Residual, ViM, default_dimension
from oodline.errors import FewSamplesWarning, InputError, LabelError, SettingError
from oodline.testing import activations_of

seeds = pytest.mark.parametrize("seed", range(3))
signs = pytest.mark.parametrize("signed", [False, True])


def residuals_of(case, f: np.ndarray, dimension: int) -> np.ndarray:
    """Length of what the `dimension` largest directions of the uncentred covariance around the origin leave."""
    origin = -np.linalg.pinv(case.W) @ case.b
    moved = case.f - origin
    values, vectors = np.linalg.eig(moved.T @ moved / len(moved))
    principal = vectors[:, np.argsort(-values.real)[:dimension]].real
    return np.array([np.linalg.norm((x - origin) - principal @ (principal.T @ (x - origin))) for x in f])


@seeds
@signs
@pytest.mark.parametrize("dimension", [0, 3, 11])
def test_residual_and_vim_equal_their_formulas(draw, seed, signed, dimension):
    case, other = draw(seed, signed=signed), draw(seed + 100, signed=signed)
    activations = activations_of(other.features, case.head)
    expected = residuals_of(case, other.f, dimension)
    scores = case.fit(Residual(dimension=dimension))(activations)
    np.testing.assert_allclose(scores, -expected, rtol=1e-3, atol=1e-4)
    alpha = case.logits.max(1).mean() / residuals_of(case, case.f, dimension).mean()
    energy = np.logaddexp.reduce(other.f @ case.W.T + case.b, axis=1)
    scores = case.fit(ViM(dimension=dimension))(activations)
    np.testing.assert_allclose(scores, energy - alpha * expected, rtol=1e-3, atol=1e-3)


def test_the_dimension_of_the_paper():
    assert [default_dimension(width) for width in (2048, 768, 342, 1)] == [1000, 512, 171, 0]


def test_a_space_that_leaves_no_residual_is_refused(draw):
    with pytest.raises(SettingError, match="leaves no residual: the features have 12 dimensions"):
        draw(0).fit(Residual(dimension=12))


@pytest.mark.parametrize("kind", [Residual, ViM])
def test_fewer_samples_than_dimensions_leave_no_residual(draw, kind):
    case = draw(0)
    few = replace(case, features=case.features[:4], labels=case.labels[:4])
    with pytest.warns(FewSamplesWarning, match="4 samples span no more than the principal space of 4 dimensions"):
        few.fit(kind(dimension=4))


@pytest.mark.parametrize("kind", [Residual, ViM])
def test_residuals_keep_their_precision_where_rows_of_the_weights_all_but_depend(draw, kind):
    case = draw(0)
    weight = case.head.weight - case.head.weight.mean(0) + 1e-6 * torch.randn_like(case.head.weight)
    case = replace(case, head=replace(case.head, weight=weight))
    detector = case.fit(kind(dimension=3))
    scores = detector(case.activations)
    activations = case.activations
    activations = activations.replace(
        features=activations.features.double(),
        logits=activations.logits.double(),
        head=activations.head.to(activations.features.double()),
    )
    torch.testing.assert_close(scores.double(), detector.double()(activations), rtol=1e-4, atol=1e-4)


def nnguide_of(case, f: np.ndarray, k: int) -> np.ndarray:
    energy = np.logaddexp.reduce(case.logits, axis=1)
    scores = []
    for x in f:
        guides = [s * (x @ v) / np.linalg.norm(x) / np.linalg.norm(v) for s, v in zip(energy, case.f, strict=True)]
        scores.append(np.logaddexp.reduce(case.W @ x + case.b) * np.mean(sorted(guides)[-k:]))
    return np.array(scores)


@seeds
@signs
@pytest.mark.parametrize("k", [1, 10, 48])
def test_nnguide_equals_the_formula(draw, assert_equals, seed, signed, k):
    case, other = draw(seed, signed=signed), draw(seed + 100, signed=signed)
    scores = case.fit(NNGuide(k=k))(activations_of(other.features, case.head))
    assert_equals(scores, nnguide_of(case, other.f, k))


def test_nnguide_needs_k_samples(draw):
    with pytest.raises(InputError, match=r"NNGuide\(k=49\) needs at least 49 training samples; 48 were seen"):
        draw(0).fit(NNGuide(k=49))


def fm_pls_of(case, f: np.ndarray, p: float, theta: float) -> np.ndarray:
    scores = []
    for x in f:
        c = np.argmax(case.W @ x + case.b)
        mean = case.f[case.y == c].mean(0)
        kept = case.W[c] >= np.quantile(case.W[c], p)
        likeness = mean @ x / np.linalg.norm(mean) / np.linalg.norm(x)
        scores.append(np.logaddexp.reduce((case.W @ np.minimum(x * kept, theta) + case.b) * likeness))
    return np.array(scores)


@seeds
@signs
@pytest.mark.parametrize(("p", "theta"), [(0.3, 0.8), (0.6, 1.6), (0.0, 100.0)])
def test_fm_pls_equals_the_formula(draw, assert_equals, seed, signed, p, theta):
    case, other = draw(seed, signed=signed), draw(seed + 100, signed=signed)
    scores = case.fit(FMPLS(p=p, theta=theta))(activations_of(other.features, case.head))
    assert_equals(scores, fm_pls_of(case, other.f, p, theta))


def test_fm_pls_needs_every_class(draw):
    case = draw(0)
    with pytest.raises(LabelError, match=r"1 of 4 classes have no sample .*: 3\."):
        replace(case, labels=case.labels.clamp(max=2)).fit(FMPLS())


@pytest.mark.parametrize(
    "build",
    [
        lambda: Residual(dimension=-1),
        lambda: ViM(samples=0),
        lambda: NNGuide(k=0),
        lambda: NNGuide(k=5, bank=4),
        lambda: FMPLS(theta=0),
        lambda: FMPLS(p=1.0),
    ],
)
def test_invalid_settings(build):
    with pytest.raises(SettingError, match=r"`(dimension|k|p|samples|theta)` must (be|have) .*; got "):
        build()


def test_features_of_zero_have_finite_scores(draw):
    case = draw(0)
    silent = activations_of(torch.zeros(2, 12), case.head)
    for detector in (Residual(), ViM(), NNGuide(), FMPLS()):
        assert case.fit(detector)(silent).isfinite().all()


def test_residual_and_vim_of_directions_are_seen_from_zero(draw, assert_equals):
    case, other = draw(0, n=200), draw(100)

    def directions(f: np.ndarray) -> np.ndarray:
        return f / np.sqrt((f**2).sum(1, keepdims=True))

    u, there = directions(case.f), directions(other.f)
    rest = np.linalg.eigh(u.T @ u)[1][:, : 12 - 5]
    expected = np.array([np.linalg.norm(rest.T @ x) for x in there])
    assert_equals(case.fit(Residual(dimension=5, normalise=1.0))(other.activations), -expected)
    alpha = case.logits.max(1).mean() / np.linalg.norm(u @ rest, axis=1).mean()
    energy = np.log(np.exp(other.logits).sum(1))
    assert_equals(case.fit(ViM(dimension=5, normalise=1.0))(other.activations), energy - alpha * expected)
