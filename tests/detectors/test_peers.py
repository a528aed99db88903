"""The same scores as pytorch-ood, written by others, on the same features; its scores are higher for OOD."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oodline.detectors import nac
from oodline.detectors.catalog import create_detector
from oodline.detectors.openmax import TRANSLATION
from oodline.detectors.temperature_scaling import best_temperature
from oodline.model.classifier import Classifier
from oodline.model.head import LinearHead
from oodline.scoring.score import score
from oodline.testing import activations_of

peer = pytest.importorskip("pytorch_ood.detector", reason="comparisons with pytorch-ood: pip install 'oodline[dev]'")


def react(case, z: Tensor) -> Tensor:
    detector = peer.ReAct(nn.Identity(), case.head, percentile=0.9).fit_feature_maps(case.features, case.labels)
    return -detector.predict_feature_maps(z)


def dice(case, z: Tensor) -> Tensor:
    detector = peer.DICE(None, case.head.weight, case.head.bias, p=0.7).fit_features(case.features, case.labels)
    return -detector.predict_features(z)


def ash(variant: str, p: float = 0.7) -> Callable[..., Tensor]:
    def scores(case, z: Tensor) -> Tensor:
        detector = peer.ASH(nn.Identity(), lambda maps: case.head(maps.flatten(1)), variant, percentile=p)
        return -detector.predict_feature_maps(z[:, :, None, None])

    return scores


def mahalanobis(case, z: Tensor) -> Tensor:
    # half the squared distance by the scatter, not divided by the number of samples
    detector = peer.Mahalanobis(None).fit_features(case.features, case.labels)
    return -2 * len(case.features) * detector.predict_features(z)


def knn(case, z: Tensor) -> Tensor:
    return -peer.KNN(None, k=7).fit_features(case.features, case.labels).predict_features(z)


def kl_matching(case, z: Tensor) -> Tensor:
    detector = peer.KLMatching(None).fit_logits(case.head(case.features))
    return -detector.predict_logits(case.head(z))


def layer(head: LinearHead) -> nn.Linear:
    module = nn.Linear(head.num_features, head.num_classes)
    module.load_state_dict({"weight": head.weight, "bias": head.bias})
    return module


def maps_of(features: Tensor) -> Tensor:
    return features[:, :, None, None]


def scale(case, z: Tensor) -> Tensor:
    detector = peer.SCALE(nn.Identity(), lambda maps: case.head(maps.flatten(1)), percentile=0.7)
    return -detector.predict_feature_maps(maps_of(z))


def lts(p: float) -> Callable[..., Tensor]:
    """Theirs is given the fraction that is kept."""

    def scores(case, z: Tensor) -> Tensor:
        return -peer.LTS(None, case.head, p=1 - p).predict_features(z)

    return scores


def relative_mahalanobis(case, z: Tensor) -> Tensor:
    # squared distances by scatters, not divided by the number of samples
    return -len(case.features) * peer.RMD(None).fit_features(case.features, case.labels).predict_features(z)


def vim(case, z: Tensor) -> Tensor:
    detector = peer.ViM(None, 8, case.head.weight, case.head.bias).fit_features(case.features, case.labels)
    return -detector.predict_features(z)


def gradnorm(case, z: Tensor) -> Tensor:
    return -peer.GradNorm(layer(case.head), param_filter=lambda name: name == "weight").predict(z)


def fdbd(case, z: Tensor) -> Tensor:
    return -peer.fDBD(None, layer(case.head)).fit_features(case.features).predict_features(z)


def nnguide(case, z: Tensor) -> Tensor:
    return -peer.NNGuide(None, case.head, k=7).fit_features(case.features, case.labels).predict_features(z)


def nci(alpha: float) -> Callable[..., Tensor]:
    def scores(case, z: Tensor) -> Tensor:
        return -peer.NCI(None, layer(case.head), alpha=alpha).fit_features(case.features).predict_features(z)

    return scores


def gmm(case, z: Tensor) -> Tensor:
    return -peer.GMM(None, reg=1e-3).fit_features(case.features, case.labels).predict_features(z)


def rectified(case, low: float, high: float) -> peer.VRA:
    detector = peer.VRA(nn.Identity(), case.head, lower_percentile=low, upper_percentile=high)
    return detector.fit_feature_maps(case.features, case.labels)


# reference of ours -> (scores of theirs, higher for ID; relative tolerance)
PEERS: dict[str, tuple[Callable[..., Tensor], float]] = {
    "msp": (lambda case, z: (-peer.MaxSoftmax.score(case.head(z))).log(), 1e-4),
    "max-logit": (lambda case, z: -peer.MaxLogit.score(case.head(z)), 1e-4),
    "energy": (lambda case, z: -peer.EnergyBased.score(case.head(z)), 1e-4),
    "energy,temperature=2.0": (lambda case, z: -peer.EnergyBased.score(case.head(z), t=2.0), 1e-4),
    "react,clip=90%": (react, 1e-3),  # our clip is known to 0.05 %
    "dice,p=0.7": (dice, 1e-4),
    "ash-s,p=0.7": (ash("ash-s"), 1e-4),
    "ash-p,p=0.7": (ash("ash-p"), 1e-4),
    "ash-b,p=0.9": (ash("ash-b", 0.9), 1e-4),  # at smaller p zeros tie, and either may be kept
    "entropy": (lambda case, z: -peer.Entropy.score(case.head(z)), 1e-4),
    # 1 - p cancels in their single precision
    "gen,gamma=0.3,top=3": (lambda case, z: -3 * peer.GEN.score(case.head(z), gamma=0.3, M=3), 5e-3),
    "mahalanobis": (mahalanobis, 1e-3),  # their inverse is in single precision, with a ridge of 1e-6
    "knn,k=7": (knn, 1e-4),
    "kl-matching": (kl_matching, 1e-4),
    "scale,p=0.7": (scale, 1e-4),
    "lts": (lts(0.95), 1e-4),
    "lts,p=0.7": (lts(0.7), 1e-4),
    "fdbd": (fdbd, 1e-4),
    "nnguide,k=7": (nnguide, 1e-4),
    "nci,alpha=0.0": (nci(0.0), 1e-4),
    "nci,alpha=0.1": (nci(0.1), 1e-4),
    "gradnorm": (gradnorm, 1e-4),
    "vim,dimension=8": (vim, 1e-4),
    "gmm,covariance=full,ridge=0.001": (gmm, 1e-4),
    "relative-mahalanobis": (relative_mahalanobis, 1e-3),  # as their Mahalanobis
    "vra,low=0%,high=90%": (lambda case, z: -rectified(case, 0.0, 0.9).predict_feature_maps(z), 1e-4),
}


@pytest.mark.parametrize("reference", PEERS)
@pytest.mark.parametrize("seed", range(3))
def test_equals_pytorch_ood(draw, reference, seed):
    case, other = draw(seed, n=200, width=20), draw(seed + 100, n=60, width=20)
    theirs, tolerance = PEERS[reference]
    detector = case.fit(create_detector(reference))
    ours = detector(activations_of(other.features, case.head)).double().numpy()
    np.testing.assert_allclose(ours, theirs(case, other.features).double().numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("epsilon", [0.0, 0.0014, 0.1])
def test_odin_equals_pytorch_ood(epsilon):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))
    x = torch.randn(20, 3, 8, 8)
    reference = f"odin,temperature=10.0,epsilon={epsilon}"
    ours = score(create_detector(reference), Classifier(model), [x])["odin"]
    theirs = -peer.ODIN(model, eps=epsilon, temperature=10.0).predict(x).double()
    torch.testing.assert_close(ours.exp(), theirs, rtol=1e-5, atol=1e-7)


def test_rankfeat_equals_pytorch_ood(draw):
    case, maps = draw(0), torch.randn(10, 12, 5, 4)
    detector = peer.RankFeat(nn.Identity(), lambda left: case.head(left.mean((2, 3))))
    activations = activations_of(maps.mean((2, 3)), case.head).replace(feature_map=maps)
    ours = create_detector("rankfeat")(activations)
    torch.testing.assert_close(ours, -detector.predict_feature_maps(maps), rtol=1e-4, atol=1e-4)


def test_vra_differs_from_pytorch_ood_in_what_becomes_of_small_activations(draw):
    """The paper sets them to zero (Eq. 10); pytorch-ood lifts them to the lower bound."""
    case, other = draw(0, n=200), draw(100)
    ours = case.fit(create_detector("vra,low=60%,high=90%"))
    found = ours.rectify(activations_of(other.features, case.head)).features
    small = other.features < ours.lowest
    assert 0.3 < small.double().mean() < 0.9
    torch.testing.assert_close(found, torch.where(small, 0.0, rectified(case, 0.6, 0.9)._clip(other.features)))


@pytest.mark.parametrize("seed", range(3))
def test_nac_differs_from_pytorch_ood_in_the_edges_of_its_bins(draw, monkeypatch, seed):
    """The authors' bins crowd around 0.5, where neurons at rest are, pytorch-ood's at 0 and 1."""
    case, other = draw(seed, n=200), draw(seed + 100)
    body = nn.Identity()
    theirs = peer.NACUE(nn.Sequential(body, layer(case.head)), [body], m_bins=50, alpha=100.0, o_star=10)
    theirs.fit([case.features.clone().requires_grad_()])
    expected = -theirs.predict(other.features.clone().requires_grad_())
    left = torch.logspace(-6, np.log10(0.5), 26)
    monkeypatch.setattr(nac, "edges", lambda bins: torch.cat([left[1:], 1 - left.flip(0)[1:-1]]))
    ours = case.fit(create_detector("nac,alpha=100.0,bins=52,full=10"))
    # a state at an edge of a bin may fall on either side by rounding
    differ = (ours(activations_of(other.features, case.head)) - expected).abs() > 1e-4
    assert int(differ.sum()) <= 1


def separable(case):
    """The case with a head that gets samples of each class right."""
    centres = torch.stack([case.features[case.labels == c].mean(0) for c in range(4)])
    return replace(case, head=LinearHead(centres, -0.5 * centres.square().sum(1)))


@pytest.mark.parametrize("seed", range(3))
def test_she_equals_pytorch_ood(draw, seed):
    case, other = separable(draw(seed, n=200)), draw(seed + 100)
    theirs = peer.SHE(None, case.head).fit_features(case.features, case.labels)
    ours = case.fit(create_detector("she"))(activations_of(other.features, case.head))
    torch.testing.assert_close(ours, -theirs.predict_features(other.features), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_openmax_differs_from_pytorch_ood_in_the_precision_of_the_weibull_fit(draw, seed):
    """Theirs ends where a simplex search stops; with its result for ours the scores are the same.

    Theirs is also fitted on what the classifier gets wrong, so it is given the rest alone, and gives the probability
    of the unknown class, ours the log odds against it.
    """
    case, other = separable(draw(seed, n=200, width=20)), draw(seed + 100, width=20)
    right = case.head(case.features).argmax(1) == case.labels
    theirs = peer.OpenMax(None, tailsize=20).fit_logits(case.head(case.features[right]), case.labels[right])
    activations = activations_of(other.features, case.head)
    unknown = theirs.predict_logits(activations.logits).double()
    expected = torch.log1p(-unknown) - unknown.log()
    ours = case.fit(create_detector("openmax,tail=20"))
    torch.testing.assert_close(ours(activations), expected, rtol=2e-3, atol=2e-3)
    fits = [theirs._openmax.distributions[c] for c in range(4)]
    ours.smallest = torch.tensor([fit.min_val for fit in fits], dtype=torch.float64)
    ours.shape = torch.tensor([fit.c for fit in fits], dtype=torch.float64)
    ours.log_scale = torch.tensor([np.log(fit.scale / TRANSLATION) for fit in fits], dtype=torch.float64)
    torch.testing.assert_close(ours(activations), expected, rtol=1e-4, atol=1e-4)


def test_temperature_scaling_differs_from_pytorch_ood_in_how_far_it_goes(draw):
    """Theirs takes 50 small steps from 1 and stops before the optimum; at its temperature the scores are the same."""
    case, other = separable(draw(0, n=200)), draw(100)
    logits = case.head(case.features)
    theirs = peer.TemperatureScaling(None).fit_logits(logits, case.labels)
    temperature = float(theirs.t.detach())

    def loss(t: float) -> float:
        return float(nn.functional.cross_entropy(logits.double() / t, case.labels))

    assert loss(best_temperature(logits, case.labels)) < loss(temperature)
    ours = case.fit(create_detector("temperature-scaling"))
    ours.temperature = torch.tensor(temperature)
    with torch.no_grad():
        expected = (-theirs.predict_logits(case.head(other.features))).log()
    torch.testing.assert_close(ours(activations_of(other.features, case.head)), expected, rtol=1e-4, atol=1e-4)
