"""OptFS, AdaSCALE and RankFeat against loops over samples, features and bins."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oodline.detectors.adascale import AdaSCALE, count
from oodline.detectors.fit import fit
from oodline.detectors.msp import MSP
from oodline.detectors.optfs import OptFS
from oodline.detectors.rankfeat import RankFeat
from oodline.errors import InputError, SettingError
from oodline.model.activations import Activations
from oodline.model.classifier import Classifier
from oodline.model.head import LinearHead
from oodline.scoring.score import score
from oodline.testing import activations_of

seeds = pytest.mark.parametrize("seed", range(3))
signs = pytest.mark.parametrize("signed", [False, True])


def optfs_of(case, f: np.ndarray, bins: int, readout: str = "logit") -> np.ndarray:
    low, high = np.quantile(case.f, [0.001, 0.999])
    edges = [low + (high - low) * i / bins for i in range(bins + 1)]

    def bin_of(value: float) -> int | None:
        return next((i for i in range(bins) if edges[i] <= value < edges[i + 1]), None)

    theta = np.zeros(bins)
    for x, z in zip(case.f, case.logits, strict=True):
        for value, weight in zip(x, case.W[np.argmax(z)], strict=True):
            if (i := bin_of(value)) is not None:
                theta[i] += weight * value / len(case.f)
    theta /= np.sqrt(np.sum(theta**2))
    scores = []
    for x in f:
        weight = case.W[np.argmax(case.W @ x + case.b)]
        places = [bin_of(value) for value in x]
        if readout == "energy":
            shaped = np.array([0.0 if i is None else v * theta[i] for v, i in zip(x, places, strict=True)])
            scores.append(np.logaddexp.reduce(1000 * case.W @ shaped + case.b) / 1000)
            continue
        scores.append(sum(w * v * theta[i] for w, v, i in zip(weight, x, places, strict=True) if i is not None))
    return np.array(scores)


@seeds
@signs
@pytest.mark.parametrize("readout", ["logit", "energy"])
@pytest.mark.parametrize("bins", [1, 7, 100])
def test_optfs_equals_the_formula(draw, assert_equals, seed, signed, bins, readout):
    case, other = draw(seed, signed=signed), draw(seed + 100, signed=signed)
    scores = case.fit(OptFS(bins=bins, readout=readout))(activations_of(other.features, case.head))
    assert_equals(scores, optfs_of(case, other.f, bins, readout))


def test_optfs_counts_no_activation_outside_the_bins(draw):
    case = draw(0)
    detector = case.fit(OptFS())
    assert torch.equal(detector(activations_of(torch.full((2, 12), 1e4), case.head)), torch.zeros(2))
    assert torch.equal(detector(activations_of(torch.full((2, 12), -1e4), case.head)), torch.zeros(2))
    assert torch.equal(detector(activations_of(torch.zeros(2, 12), case.head)), torch.zeros(2))


def test_optfs_needs_activations_that_differ(draw):
    case = replace(draw(0), features=torch.full((48, 12), 0.7))
    with pytest.raises(InputError, match=r"OptFS needs activations that differ.* are all 0\.7"):
        case.fit(OptFS())


def test_optfs_takes_the_class_that_the_whole_features_predict(draw, assert_equals):
    case = draw(0)
    case = replace(case, head=LinearHead(case.head.weight, torch.tensor([-1e3, 0.0, 0.0, 0.0])))
    assert_equals(case.fit(OptFS(bins=20))(case.activations), optfs_of(case, case.f, 20))


class Network(nn.Module):
    """One hidden layer, so that its gradient can be written out by hand."""

    def __init__(self, seed: int, inputs: int = 20, width: int = 15, classes: int = 4) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body, self.head = nn.Linear(inputs, width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).relu())


def numbers(layer: nn.Linear) -> tuple[np.ndarray, np.ndarray]:
    return layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()


def shift_of(network: Network, x: np.ndarray, k1: float, k2: float, lam: float, moved: float) -> float:
    (V, a), (W, b) = numbers(network.body), numbers(network.head)
    hidden = V @ x + a
    features = np.maximum(hidden, 0)
    gradient = ((W[np.argmax(W @ features + b)] * (hidden > 0))[:, None] * V).sum(0)
    step = np.zeros(len(x))
    for i in np.argsort(np.abs(gradient), kind="stable")[: int(len(x) * moved)]:
        step[i] = 0.5 * np.sign(gradient[i])
    perturbed = np.maximum(V @ (x + step) + a, 0)
    order = np.argsort(-features, kind="stable")  # of equals the first
    kept, changed = order[: int(len(features) * k1)], order[: int(len(features) * k2)]
    return sum(max(perturbed[i], 0) for i in kept) + lam * sum(abs(features[i] - perturbed[i]) for i in changed)


def adascale_of(
    network: Network, train: np.ndarray, test: np.ndarray, p_min: float, p_max: float, shift: tuple
) -> np.ndarray:
    (V, a), (W, b) = numbers(network.body), numbers(network.head)
    seen = [shift_of(network, x, *shift) for x in train]
    scores = []
    for x in test:
        features = np.maximum(V @ x + a, 0)
        below = np.mean([value <= shift_of(network, x, *shift) for value in seen])
        p = p_min + (1 - below) * (p_max - p_min)
        largest = np.sort(features)[::-1][: len(features) - round(len(features) * p)]
        scores.append(np.logaddexp.reduce(W @ (features * np.exp(features.sum() / largest.sum())) + b))
    return np.array(scores)


@seeds
@pytest.mark.parametrize(
    ("p_min", "p_max", "k1", "k2", "lam", "moved"),
    [(0.6, 0.9, 0.2, 0.1, 10.0, 0.1), (0.0, 0.5, 1.0, 0.4, 1.0, 0.5), (0.3, 0.3, 0.0, 1.0, 0.0, 1.0)],
)
def test_adascale_equals_the_formula(assert_equals, seed, p_min, p_max, k1, k2, lam, moved):
    network, train, test = Network(seed), 2 * torch.randn(40, 20), 2 * torch.randn(30, 20)
    detector = AdaSCALE(p_min=p_min, p_max=p_max, k1=k1, k2=k2, lam=lam, moved=moved)
    detector.fit(Classifier(network), [train[:25], train[25:]])
    expected = adascale_of(network, train.double().numpy(), test.double().numpy(), p_min, p_max, (k1, k2, lam, moved))
    assert_equals(score(detector, Classifier(network), [test])["adascale"], expected)


def test_as_it_comes_one_hundredth_is_perturbed_values_and_five_are_changes(assert_equals):
    network, train, test = Network(0, width=200), 2 * torch.randn(40, 20), 2 * torch.randn(30, 20)
    detector = AdaSCALE().fit(Classifier(network), [train])
    shift = (0.01, 0.05, 10.0, 0.05)
    expected = adascale_of(network, train.double().numpy(), test.double().numpy(), 0.6, 0.85, shift)
    assert_equals(score(detector, Classifier(network), [test])["adascale"], expected)
    authors = AdaSCALE.preset("imagenet-resnet50").settings
    assert [authors[name] for name in ("p_min", "p_max", "k1", "k2", "lam", "moved")] == [0.8, 0.85, *shift]


def test_adascale_scales_a_silent_input_by_nothing_undefined():
    network = Network(0)
    nn.init.zeros_(network.body.weight)
    nn.init.constant_(network.body.bias, -1.0)
    detector = AdaSCALE().fit(Classifier(network), [torch.randn(10, 20)])
    scores = score(detector, Classifier(network), [torch.randn(3, 20)])["adascale"]
    torch.testing.assert_close(scores, network.head.bias.detach().logsumexp(0).double().repeat(3))


def test_adascale_leaves_the_score_to_another():
    network, x = Network(0), torch.randn(30, 20)
    energy, confidence = AdaSCALE(), AdaSCALE(scorer=MSP())
    both = {"energy": energy, "confidence": confidence}
    fit(both, Classifier(network), [x])
    found = score(both, Classifier(network), [x])
    assert (found["confidence"] <= 0).all()
    assert not torch.equal(found["energy"], found["confidence"])


@pytest.mark.parametrize("size", [7, 100, 512, 2048])
def test_percents_of_a_size_are_counted_exactly(size):
    assert [count(size, percent / 100) for percent in range(101)] == [size * percent // 100 for percent in range(101)]


def test_adascale_refuses_tokens():
    model = nn.Sequential(nn.Embedding(9, 5), nn.Flatten(), nn.Linear(20, 3))
    with pytest.raises(InputError, match="tokens"):
        AdaSCALE().fit(Classifier(model), [torch.randint(0, 9, (6, 4))])


def with_map(feature_map: Tensor, head: LinearHead) -> Activations:
    return activations_of(feature_map.mean((2, 3)), head).replace(feature_map=feature_map)


def rankfeat_of(feature_map: np.ndarray, W: np.ndarray, b: np.ndarray) -> np.ndarray:
    scores = []
    for image in feature_map:
        flat = image.reshape(len(image), -1)
        left, singular, right = np.linalg.svd(flat, full_matrices=False)
        rest = flat - singular[0] * np.outer(left[:, 0], right[0])
        scores.append(np.logaddexp.reduce(W @ rest.mean(1) + b))
    return np.array(scores)


@seeds
@signs
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (7, 7), (5, 3)])
def test_rankfeat_equals_the_formula(draw, assert_equals, seed, signed, size):
    case = draw(seed)
    feature_map = torch.randn(10, 12, *size, generator=torch.Generator().manual_seed(seed))
    feature_map = feature_map if signed else feature_map.relu()
    scores = RankFeat()(with_map(feature_map, case.head))
    assert_equals(scores, rankfeat_of(feature_map.double().numpy(), case.W, case.b))


def test_rankfeat_leaves_nothing_of_a_map_of_rank_one(draw):
    case = draw(0)
    silent, flat = torch.zeros(2, 12, 4, 4), torch.randn(2, 12, 1, 1).expand(2, 12, 4, 4)
    for feature_map in (silent, flat, 1e6 * flat):
        found = RankFeat().rectify(with_map(feature_map, case.head)).features
        torch.testing.assert_close(found / max(1, feature_map.abs().max()), torch.zeros(2, 12), rtol=0, atol=1e-6)


def test_rankfeat_without_a_map_is_refused(draw):
    with pytest.raises(InputError, match="hold none"):
        RankFeat()(draw(0).activations)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: OptFS(bins=0), "`bins` must be an integer of at least 1; got 0"),
        (lambda: OptFS(samples=0), "`samples` must be an integer of at least 1; got 0"),
        (lambda: OptFS(readout="msp"), "`readout` must be 'logit' or 'energy'; got 'msp'"),
        (lambda: AdaSCALE(p_min=0.9, p_max=0.8), r"`p_min` must be at most `p_max`; got 0\.9 and 0\.8"),
        (lambda: AdaSCALE(p_max=1.0), r"`p_max` must be a number from 0 to below 1; got 1\.0"),
        (lambda: AdaSCALE(k1=5), "`k1` must be a number from 0 to 1; got 5"),
        (lambda: AdaSCALE(lam=-1.0), r"`lam` must be a number of at least 0; got -1\.0"),
        (lambda: AdaSCALE(samples=0), "`samples` must be an integer of at least 1; got 0"),
    ],
)
def test_invalid_settings(build, sentence):
    with pytest.raises(SettingError, match=sentence):
        build()
