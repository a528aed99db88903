"""KNN against sorting all distances."""

import copy
import pickle
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from oodline import Guard
from oodline.detectors.knn import KNN, SMALL
from oodline.detectors.parts import nearest
from oodline.errors import InputError, MissingExtraError, SettingError
from oodline.guard.artifact import read_artifact
from oodline.statistics import Reservoir
from oodline.testing import activations_of, toy_problem


def scores_of(bank: np.ndarray, f: np.ndarray, k: int) -> np.ndarray:
    """Minus the k-th smallest distance between normalised features."""
    bank = np.array([x / np.linalg.norm(x) for x in bank])
    return np.array([-sorted(np.linalg.norm(x / np.linalg.norm(x) - n) for n in bank)[k - 1] for x in f])


@pytest.mark.parametrize("k", [1, 5, 48])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_equals_sorting(draw, assert_equals, seed, signed, k):
    case, other = draw(seed, signed=signed), draw(seed + 100, signed=signed)
    assert_equals(case.fit(KNN(k=k))(other.activations), scores_of(case.f, other.f, k))


def test_a_training_sample_is_its_own_neighbour(draw):
    case = draw(0)
    torch.testing.assert_close(case.fit(KNN(k=1))(case.activations), torch.zeros(48), rtol=0, atol=1e-6)


def test_a_close_neighbour_is_measured_without_cancellation(draw):
    case = draw(0, n=8, width=3)
    near = torch.tensor([[1.0, 0.0, 0.0]])
    bank = replace(case, features=near + 1e-4 * torch.tensor([[0.0, 1.0, 0.0]]), labels=case.labels[:1])
    # 2 - 2 cos would be 1e-8, which single precision cannot tell from zero
    scores = bank.fit(KNN(k=1))(activations_of(near, case.head))
    torch.testing.assert_close(scores, torch.tensor([-1e-4]), rtol=1e-3, atol=0)


def test_the_size_of_the_features_does_not_matter(draw):
    case = draw(0)
    detector = case.fit(KNN(k=5))
    larger = activations_of(1000 * case.features, case.head)
    torch.testing.assert_close(detector(larger), detector(case.activations), rtol=1e-4, atol=1e-6)


def test_a_full_bank_keeps_the_sample_of_the_reservoir(draw, assert_equals):
    case = draw(0)
    reservoir = Reservoir(10)
    reservoir.update(case.activations, case.labels)
    detector = case.fit(KNN(k=3, bank=10))
    assert detector.neighbours.shape == (10, 12)
    assert_equals(detector(case.activations), scores_of(case.f[reservoir.index.numpy()], case.f, 3))


def test_fewer_samples_than_k(draw):
    with pytest.raises(InputError, match=r"KNN\(k=49\) needs at least 49 training samples; 48 were seen"):
        draw(0).fit(KNN(k=49))


@pytest.mark.parametrize("setting", [{"k": 0}, {"k": -1}, {"k": 6, "bank": 5}, {"bank": 0}])
def test_invalid_settings(setting):
    with pytest.raises(SettingError, match=r"`(bank|k)` must (be|have) .*; got "):
        KNN(**setting)


@pytest.mark.parametrize("k", [1, 3, 7, 48])
@pytest.mark.parametrize("block", [1, 5, 48])
def test_a_bank_that_is_read_in_blocks_gives_the_same(draw, assert_equals, monkeypatch, block, k):
    monkeypatch.setattr(nearest, "BLOCK", block)
    case, other = draw(0), draw(100)
    assert_equals(case.fit(KNN(k=k))(other.activations), scores_of(case.f, other.f, k))


def fitted_on(bank: Tensor, **settings: object) -> KNN:
    """KNN with this bank, without a pass."""
    detector = KNN(bank=len(bank), **settings)
    detector.neighbours = normalize(bank)
    return detector


def clustered(seed: int, n: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(30, width, generator=torch.Generator().manual_seed(99))
    return (centres[torch.randint(30, (n,), generator=generator)] + torch.randn(n, width, generator=generator)).relu()


@pytest.mark.parametrize("k", [1, 10, 200])
def test_faiss_flat_equals_torch(k):
    bank, points = torch.randn(3000, 33), activations_of(torch.randn(50, 33))
    exact, flat = (fitted_on(bank, k=k, index=index)(points) for index in ("exact", "faiss-flat"))
    torch.testing.assert_close(flat, exact, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("width", "k"), [(64, 50), (33, 1), (600, 200)])
def test_faiss_pq_is_close_and_never_nearer_than_the_nearest(width, k):
    bank, points = clustered(0, SMALL, width), activations_of(clustered(1, 40, width))
    exact, coded = (fitted_on(bank, k=k, index=index)(points) for index in ("exact", "faiss-pq"))
    # among fewer candidates the k-th can only be farther
    assert (coded <= exact + 1e-6).all()
    assert float((exact - coded).max()) < 0.02
    assert float((exact - coded).median()) < 1e-3


def test_the_nearest_by_codes_are_measured_exactly():
    bank = clustered(0, SMALL, 16)
    detector = fitted_on(bank, k=1, index="faiss-pq")
    torch.testing.assert_close(detector(activations_of(bank[:30])), torch.zeros(30), rtol=0, atol=1e-6)


def test_a_small_bank_is_searched_exactly_whatever_the_index(draw):
    case = draw(0)
    exact, coded = (case.fit(KNN(k=5, index=index)) for index in ("exact", "faiss-pq"))
    assert torch.equal(exact(case.activations), coded(case.activations))
    assert coded._codes is None


def test_codes_are_built_once_and_anew_for_another_bank():
    points = activations_of(clustered(1, 5, 8))
    detector = fitted_on(clustered(0, SMALL, 8), k=3, index="faiss-pq")
    scores = detector(points)
    first = detector._codes[1]
    assert torch.equal(detector(points), scores)
    assert detector._codes[1] is first
    other = fitted_on(clustered(2, SMALL, 8), k=3, index="faiss-pq")
    other.load_state_dict(detector.state_dict())
    assert torch.equal(other(points), scores)
    detector.load_state_dict(fitted_on(clustered(2, SMALL, 8), k=3).state_dict())
    assert not torch.equal(detector(points), scores)


def test_a_file_holds_the_bank_and_nothing_of_faiss(tmp_path):
    classifier, loader = toy_problem()
    inputs = [torch.randn(SMALL // 2, 4, generator=torch.Generator().manual_seed(n)) for n in range(2)]
    guard = Guard(classifier, KNN(k=3, index="faiss-pq").fit(classifier, inputs)).calibrate(loader)
    path = guard.save(tmp_path / "knn.safetensors")
    assert path.stat().st_size < SMALL * 16 * 4 + 11_000
    again = read_artifact(path).detectors["knn"]
    assert again.settings == {"k": 3, "bank": 50_000, "index": "faiss-pq"}
    activations = classifier(loader[0][0])
    assert torch.equal(again(activations), guard.detector(activations))
    for other in (copy.deepcopy(again), pickle.loads(pickle.dumps(again))):
        assert other._codes is None
        assert torch.equal(other(activations), again(activations))


def test_without_faiss_an_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'oodline\[faiss\]'"):
        KNN(index="faiss-pq")
    assert KNN().index == "exact"


def test_an_index_that_is_not_known():
    with pytest.raises(SettingError, match="`index` must be 'exact', 'faiss-flat' or 'faiss-pq'; got 'hnsw'"):
        KNN(index="hnsw")
