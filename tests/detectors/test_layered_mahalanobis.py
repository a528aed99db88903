"""LayeredMahalanobis against NumPy, whose reference is fitted again without each sample, and layers chosen by `fit`."""

import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn

from oodline import Classifier, Guard, LayeredMahalanobis, create_detector, from_features, score
from oodline.detectors.fit import fit
from oodline.errors import FewSamplesWarning, HeadError, InputError, LabelError, SettingError
from oodline.passes.fit import reads
from oodline.testing import check_detector

LAYERS = ("0", "2")


def network(seed: int = 0) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Classifier(
            nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 7, 3), nn.ReLU(), nn.Flatten(), nn.Linear(28, 3))
        )


def images(seed: int, n: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    return torch.randn(n, 3, 6, 6, generator=generator) + torch.eye(3)[labels][:, :, None, None], labels


def pooled(classifier: Classifier, inputs: torch.Tensor, pool: str) -> list[np.ndarray]:
    maps = classifier(inputs, layers=LAYERS).layers
    found = []
    for name in LAYERS:
        a = maps[name].double().numpy()
        found.append(a.mean((2, 3)) if pool == "mean" else np.concatenate([a.mean((2, 3)), a.std((2, 3))], 1))
    return found


def score_of(train: np.ndarray, y: np.ndarray, row: np.ndarray) -> float:
    """Negative distance to the nearest class, from the definition."""
    means = {c: train[y == c].mean(0) for c in np.unique(y)}
    centred = train - np.stack([means[c] for c in y])
    P = np.linalg.pinv(centred.T @ centred / len(train), hermitian=True)
    return -min((row - m) @ P @ (row - m) for m in means.values())


def log_p(s: float, reference: np.ndarray) -> float:
    levels = np.arange(2, 19) / 20
    knots = np.quantile(reference, levels)
    knots = knots + np.arange(17) * (knots[-1] - knots[0]) / 1000
    low, high = np.quantile(reference, 0.1) - reference, reference - np.quantile(reference, 0.9)
    if s < knots[0]:
        return np.log(0.1) - (knots[0] - s) / low[low > 0].mean()
    if s > knots[-1]:
        return np.log1p(-0.1 * np.exp(-(s - knots[-1]) / high[high > 0].mean()))
    return np.log(np.interp(s, knots, levels))


@pytest.mark.parametrize("pool", ["mean", "mean-std"])
def test_equals_the_formula(pool):
    classifier, (inputs, labels), (new, _) = network(), images(0), images(1, 20)
    detector = LayeredMahalanobis(layers=LAYERS, pool=pool).fit(classifier, [(inputs, labels)])
    expected, y = np.zeros(len(new)), labels.numpy()
    for train, test in zip(pooled(classifier, inputs, pool), pooled(classifier, new, pool), strict=True):
        rest = [np.arange(len(y)) != i for i in range(len(y))]
        reference = np.array([score_of(train[r], y[r], row) for r, row in zip(rest, train, strict=True)])
        expected += [log_p(score_of(train, y, row), reference) for row in test]
    activations = classifier(new, **reads([detector]))
    np.testing.assert_allclose(detector(activations), expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(detector.log_p_values(activations).sum(1), detector(activations))


def test_a_class_of_one_sample_is_not_its_own_reference():
    classifier, (inputs, labels) = network(), images(0, 40)
    labels = labels.clone()
    labels[labels == 2] = 1
    labels[7] = 2
    detector = LayeredMahalanobis(layers=["0"]).fit(classifier, [(inputs, labels)])
    train, y = pooled(classifier, inputs, "mean")[0], labels.numpy()
    rest = [np.arange(40) != i for i in range(40)]
    reference = np.array([score_of(train[r], y[r], row) for r, row in zip(rest, train, strict=True)])
    new = images(1, 10)[0]
    expected = [log_p(score_of(train, y, row), reference) for row in pooled(classifier, new, "mean")[0]]
    np.testing.assert_allclose(detector(classifier(new, **reads([detector]))), expected, rtol=1e-3, atol=1e-3)


def test_p_values_of_new_id_data_are_uniform():
    classifier, few = network(), images(0, 90)
    detector = LayeredMahalanobis(layers=LAYERS, pool="mean-std").fit(classifier, [few])
    p = detector.log_p_values(classifier(images(1, 3000)[0], **reads([detector]))).exp().detach().numpy()
    for column in p.T:
        assert scipy.stats.kstest(column, "uniform").statistic < 0.12  # 90 samples for 10 and 14 numbers a class


def test_the_layers_are_chosen_once_and_are_then_the_setting(tmp_path):
    classifier, loader = network(), [images(0)]
    detector = LayeredMahalanobis()
    assert detector.needs_network and detector.all_layers == ()
    fit([detector], classifier, loader)
    assert detector.layers == detector.settings["layers"] == ("0", "1", "3", "4")
    named = LayeredMahalanobis(layers=["0", "1", "3", "4"]).fit(classifier, loader)
    assert torch.equal(
        score(detector, classifier, [images(1)[0]])["layered-mahalanobis"],
        score(named, classifier, [images(1)[0]])["layered-mahalanobis"],
    )
    guard = Guard(classifier, detector).calibrate([images(2)[0]])
    again = Guard.load(guard.save(tmp_path / "guard.safetensors"), classifier)
    assert again.detector.layers == detector.layers
    assert torch.equal(again(images(1)[0]).score, guard(images(1)[0]).score)
    other = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(108, 9), nn.ReLU(), nn.Linear(9, 3)))
    with pytest.warns(FewSamplesWarning, match=r"of '0' \(108\): there"):
        detector.fit(other, loader)
    assert detector.layers == ("0", "1", "2")
    assert (
        create_detector('layered-mahalanobis,layers=["0"],pool=mean-std').all_layers
        == named.__class__(layers=["0"], pool="mean-std").all_layers
    )


def test_what_it_cannot_be_fitted_on_is_said():
    classifier, (inputs, labels) = network(), images(0)
    with pytest.raises(InputError, match="at least 10 ID samples; 9 were seen"):
        LayeredMahalanobis().fit(classifier, [(inputs[:9], labels[:9])])
    with pytest.raises(LabelError, match="1 of 3 classes have no sample"):
        LayeredMahalanobis().fit(classifier, [(inputs, labels % 2)])
    with pytest.raises(LabelError, match="zero in every layer"):
        LayeredMahalanobis().fit(classifier, [(inputs[:3].repeat(5, 1, 1, 1), labels[:3].repeat(5))])
    with pytest.raises(HeadError, match="no module named 'nowhere'"):
        LayeredMahalanobis(layers=["nowhere"]).fit(classifier, [(inputs, labels)])
    with pytest.raises(HeadError, match="has no module before its head that LayeredMahalanobis could read"):
        LayeredMahalanobis().fit(Classifier(nn.Sequential(nn.Linear(4, 3))), [(torch.randn(12, 4), labels[:12])])
    with pytest.raises(InputError, match="'layered-mahalanobis' needs the outputs of layers of the model"):
        LayeredMahalanobis().fit(*from_features(torch.randn(12, 4), labels[:12], head=(np.eye(3, 4), np.zeros(3))))


@pytest.mark.parametrize("setting", [{"layers": "all"}, {"layers": []}, {"layers": [3]}, {"pool": "max"}])
def test_invalid_settings(setting):
    with pytest.raises(SettingError, match=r"`(layers|pool)` must be .*; got "):
        LayeredMahalanobis(**setting)


def test_it_keeps_the_contract():
    check_detector(LayeredMahalanobis)


def test_a_layer_of_more_values_than_half_of_the_samples_is_named():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 8), nn.ReLU())
    classifier = Classifier(nn.Sequential(*model, nn.Linear(8, 3)))
    loader = [(torch.randn(100, 4), torch.arange(100) % 3)]
    with pytest.warns(FewSamplesWarning, match=r"100 samples are fewer than 2 for each .* of '0' \(64\): there"):
        LayeredMahalanobis(layers=("0", "2")).fit(classifier, loader)
