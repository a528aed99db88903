"""Gram against whole Gram matrices in NumPy, and against pytorch-ood where it computes the same."""

import numpy as np
import pytest
import torch
from torch import nn

from oodline import Classifier, Gram
from oodline.detectors.gram import GramVector
from oodline.errors import SettingError
from oodline.passes.fit import reads
from oodline.testing import check_detector

LAYERS = ("0", "2")


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)
        )


def images(seed: int, n: int) -> torch.Tensor:
    return torch.randn(n, 3, 6, 6, generator=torch.Generator().manual_seed(seed))


def gram_of(F: np.ndarray, powers: int) -> np.ndarray:
    """Row sums of whole matrices, for one sample with F (C, places)."""
    found = []
    for p in range(1, powers + 1):
        sums = ((F**p) @ (F**p).T).sum(1)
        found.append(np.sign(sums) * np.abs(sums) ** (1 / p))
    return np.concatenate(found)


def outside(g: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
    below, above = np.maximum(low - g, 0) / np.abs(low + 1e-6), np.maximum(g - high, 0) / np.abs(high + 1e-6)
    return float((below + above).sum())


@pytest.mark.parametrize("powers", [1, 5, 10])
def test_row_sums_need_no_matrix(powers):
    maps = 3 * torch.randn(7, 5, 4, 2, generator=torch.Generator().manual_seed(0))
    expected = [gram_of(F.reshape(5, -1), powers) for F in maps.double().numpy()]
    np.testing.assert_allclose(GramVector("x", powers).read(maps, nn.Conv2d(3, 5, 1)), expected, rtol=1e-5, atol=1e-5)
    tokens = maps.flatten(2).transpose(1, 2)
    np.testing.assert_allclose(GramVector("x", powers).read(tokens, nn.Identity()), expected, rtol=1e-5, atol=1e-5)
    huge = GramVector("x", powers).read(1e9 * maps, nn.Conv2d(3, 5, 1))
    np.testing.assert_allclose(huge / 1e18, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("powers", [1, 4])
def test_equals_the_formula(powers):
    model, train, test = network(), images(0, 50), images(1, 20)
    classifier = Classifier(model)
    detector = Gram(layers=LAYERS, powers=powers).fit(classifier, [train])
    read, new = classifier(train, layers=LAYERS), classifier(test, layers=LAYERS)
    expected, y = np.zeros(20), read.predicted.numpy()
    assert min(np.bincount(y, minlength=3)) > 1
    for name in LAYERS:
        vectors = np.stack([gram_of(F.reshape(len(F), -1), powers) for F in read.layers[name].double().numpy()])
        own = []
        for i, g in enumerate(vectors):
            others = vectors[(y == y[i]) & (np.arange(50) != i)]
            own.append(outside(g, others.min(0), others.max(0)))
        for i, F in enumerate(new.layers[name].double().numpy()):
            same = vectors[y == int(new.predicted[i])]
            expected[i] -= outside(gram_of(F.reshape(len(F), -1), powers), same.min(0), same.max(0)) / np.mean(own)
    found = detector(classifier(test, **reads([detector])))
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-4)


def test_a_class_that_was_never_predicted_has_the_range_of_all():
    model = network()
    with torch.no_grad():
        model[-1].bias.copy_(torch.tensor([0.0, 0.0, -100.0]))
    classifier, train = Classifier(model), images(0, 30)
    detector = Gram(layers=["0"], powers=2).fit(classifier, [train])
    assert torch.equal(detector.low[2], detector.low[:2].amin(0))
    assert torch.equal(detector.high[2], detector.high[:2].amax(0))
    # a class of a single sample has no other one to compare it with
    single = Gram(layers=["0"], powers=2).fit(classifier, [train[:1]])
    assert single.typical.tolist() == [1.0]


def test_equals_pytorch_ood(monkeypatch):
    peer = pytest.importorskip(
        "pytorch_ood.detector", reason="comparisons with pytorch-ood: pip install 'oodline[dev]'"
    )
    model, train, test = network(), images(0, 60), images(1, 20)
    classifier = Classifier(model)
    stages = [model[0], nn.Sequential(model[1], model[2])]
    theirs = peer.Gram(nn.Sequential(*model[3:]), stages, num_classes=3, num_poles_list=[1, 2, 3])
    monkeypatch.setattr(peer.Gram, "validation_fraction", 0.0)  # all data for the ranges, as ours
    theirs.fit([(train, classifier(train).predicted)])  # ranges by prediction, as the authors have them
    ours = Gram(layers=LAYERS, powers=3).fit(classifier, [train])
    theirs.layer_norm = ours.typical
    expected = -theirs.predict(test)
    torch.testing.assert_close(ours(classifier(test, **reads([ours]))), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("setting", [{"layers": "all"}, {"layers": ()}, {"powers": 0}, {"powers": 1.5}])
def test_invalid_settings(setting):
    with pytest.raises(SettingError, match=r"`(layers|powers)` must be .*; got "):
        Gram(**setting)


def test_it_keeps_the_contract():
    check_detector(Gram)
