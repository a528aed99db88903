"""The same scores as pytorch-ood, written by others, on the same features; its scores are higher for OOD."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oodline.classifier import Classifier
from oodline.detectors.catalog import create_detector
from oodline.scoring import score
from oodline.testing import activations_of

peer = pytest.importorskip("pytorch_ood.detector", reason="pytorch-ood is not installed")


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
