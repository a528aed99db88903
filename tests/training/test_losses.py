"""Each loss equals its formula, written slowly in NumPy, and its gradient the finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

from oodline.errors import InputError, LabelError, SettingError, UnknownNameError
from oodline.model.head import LinearHead
from oodline.testing import activations_of
from oodline.training import (
    CrossEntropy,
    EnergyMargin,
    FeatureNormAmplification,
    Forward,
    GradientRegularised,
    ImbalancedOOD,
    KLUniform,
    LogitNorm,
    OutlierExposure,
    SpatialContrast,
    T2FNorm,
    TrainingLoss,
)
from oodline.training.imbalanced_ood import delta

LABELS = torch.tensor([0, -1, 2, 1, -1, 0])
INLIERS = [0, 2, 3, 5]
OUTLIERS = [1, 4]
CLASSES = [0, 2, 1, 0]
COUNTS = (50, 30, 20)


@pytest.fixture(scope="module")
def head():
    torch.manual_seed(1)
    return LinearHead(torch.randn(3, 5, dtype=torch.float64), torch.randn(3, dtype=torch.float64))


@pytest.fixture(scope="module")
def features():
    torch.manual_seed(2)
    return torch.randn(6, 5, dtype=torch.float64)


def lse(z):
    return np.log(np.exp(z).sum(-1))


def cross_entropy(z, y):
    return np.mean([lse(row) - row[c] for row, c in zip(z, y, strict=True)])


def reference(name, f, z, w, b):
    inside, outside = z[INLIERS], z[OUTLIERS]
    plain = cross_entropy(inside, CLASSES)
    prior = np.log(np.array(COUNTS) / 100)
    uniform = np.mean([lse(row) - row.mean() for row in outside])
    margins = np.mean(np.maximum(0, -lse(inside) + 1.6) ** 2) + np.mean(np.maximum(0, -0.4 + lse(outside)) ** 2)
    return {
        "cross-entropy": plain,
        "adjusted": cross_entropy(inside + 1.5 * prior, CLASSES),
        "logit-norm": cross_entropy(inside / (np.linalg.norm(inside, axis=1)[:, None] + 1e-7) / 0.04, CLASSES),
        "t2f-norm": cross_entropy((f / np.linalg.norm(f, axis=1)[:, None] / 0.1 @ w.T + b)[INLIERS], CLASSES),
        "outlier-exposure": plain + 0.5 * uniform,
        "kl-uniform": plain + 2 * (uniform - np.log(3)),
        "energy-margin": plain + 0.1 * margins,
    }[name]


LOSSES = {
    "cross-entropy": CrossEntropy(),
    "adjusted": CrossEntropy(class_counts=COUNTS, tau=1.5),
    "logit-norm": LogitNorm(),
    "t2f-norm": T2FNorm(),
    "outlier-exposure": OutlierExposure(),
    "kl-uniform": KLUniform(weight=2),
    "energy-margin": EnergyMargin(m_in=-1.6, m_out=-0.4),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_its_formula(name, features, head):
    found = LOSSES[name](activations_of(features, head), LABELS)
    f, z = features.numpy(), head(features).numpy()
    assert float(found) == pytest.approx(reference(name, f, z, head.weight.numpy(), head.bias.numpy()), abs=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_its_gradients_are_right(name, features, head):
    def loss(f, weight, bias):
        return LOSSES[name](activations_of(f, LinearHead(weight, bias)), LABELS)

    assert gradcheck(loss, [each.clone().requires_grad_() for each in (features, head.weight, head.bias)])


def smooth_network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def regularised(scale, model, inputs):
    loss = GradientRegularised(m_in=-1.45, m_out=-1.42, scale=scale)
    return loss(Forward(model)(inputs, loss.needs), LABELS)


def test_gradient_regularised_is_its_formula_and_the_code_divides_it_by_the_batch():
    model, x = smooth_network(), torch.randn(6, 4, dtype=torch.float64)
    energies, slopes = [], []
    for row in x:
        row = row.clone().requires_grad_()
        energy = -model(row[None]).logsumexp(1).squeeze()
        slopes.append(float(torch.autograd.grad(energy, row)[0].norm()))
        energies.append(float(energy.detach()))
    inside = np.mean([slopes[i] * (energies[i] <= -1.45) for i in INLIERS])
    outside = np.mean([slopes[i] * (energies[i] >= -1.42) for i in OUTLIERS])
    assert inside > 0 and outside > 0
    margins = EnergyMargin(m_in=-1.45, m_out=-1.42)(Forward(model)(x), LABELS)
    for scale, factor in (("sample", 1), ("batch", 1 / 6)):
        expected = float(margins.detach()) + factor * (inside + outside)
        assert float(regularised(scale, model, x).detach()) == pytest.approx(expected, abs=1e-12)


def test_gradient_regularised_can_be_differentiated_again():
    model, x = smooth_network(), torch.randn(6, 4, dtype=torch.float64)
    regularised("sample", model, x).backward()
    way = [torch.randn_like(p) for p in model.parameters()]
    slope = sum(float((p.grad * d).sum()) for p, d in zip(model.parameters(), way, strict=True))
    values = []
    for step in (1e-5, -2e-5):
        with torch.no_grad():
            for p, d in zip(model.parameters(), way, strict=True):
                p.add_(step * d)
        values.append(float(regularised("sample", model, x).detach()))
    assert slope == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-6)


def test_a_flat_energy_has_a_finite_gradient():
    model = smooth_network()
    nn.init.zeros_(model[0].weight)
    regularised("sample", model, torch.randn(6, 4, dtype=torch.float64)).backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters())


def test_feature_norm_amplification(features, head):
    torch.manual_seed(4)
    loss = FeatureNormAmplification(num_features=5, class_counts=COUNTS, projection=3).double()
    first, _, second = loss.projection
    w, b, v, c = (p.detach().numpy() for p in (first.weight, first.bias, second.weight, second.bias))
    f, z = features.numpy(), head(features).numpy()
    lengths = np.linalg.norm(np.maximum(0, f[INLIERS] @ w.T + b) @ v.T + c, axis=1)
    expected = cross_entropy(z[INLIERS] + np.log(np.array(COUNTS) / 100), CLASSES) - 0.5 * np.mean(np.log(1 + lengths))
    assert float(loss(activations_of(features, head), LABELS).detach()) == pytest.approx(expected, abs=1e-12)
    assert gradcheck(lambda f: loss(activations_of(f, head), LABELS), features.clone().requires_grad_())


@pytest.mark.parametrize("discriminator", ["energy", "linear"])
def test_imbalanced_ood(discriminator, features, head):
    torch.manual_seed(5)
    loss = ImbalancedOOD(num_features=5, class_counts=COUNTS, discriminator=discriminator).double()
    f, z = features.numpy(), head(features).numpy()
    a, d = (p.detach().numpy() for p in loss.inlier_logit.parameters())
    lam, e = (p.detach().numpy() for p in loss.log_lambda.parameters())
    prior = np.array(COUNTS) / 100
    learnt, told = [], []
    for i, y in enumerate(LABELS.tolist()):
        g = ((f[i] if discriminator == "linear" else [lse(z[i])]) @ a.T + d)[0]
        posterior = np.exp(z[i] - lse(z[i])) if y < 0 else np.where(np.arange(3) == y, 0.8, 0) + 0.2 / 3
        beta = np.mean(np.maximum(np.exp(lam @ f[i] + e), 1e-4) * posterior / prior)
        learnt.append(max(0, np.log(beta) - np.log(1 + np.exp(-g))))
        bounded = np.clip(beta + (beta - 1) * np.exp(g), 0.1, 10)
        g -= np.log(min(bounded, 1) if y < 0 else max(bounded, 1))
        told.append(np.log(1 + np.exp(g)) if y < 0 else np.log(1 + np.exp(-g)))
    expected = cross_entropy(z[INLIERS] + np.log(prior), CLASSES) + 0.5 * (np.mean(learnt) + np.mean(told))
    assert float(loss(activations_of(features, head), LABELS).detach()) == pytest.approx(expected, abs=1e-7)


def test_only_lambda_learns_from_beta_and_delta_is_bounded(features, head):
    loss = ImbalancedOOD(num_features=5, class_counts=COUNTS).double()
    with torch.no_grad():
        loss.log_lambda.bias.fill_(5.0)  # beta is large, so that the first term is above 0
    loss(activations_of(features, head), LABELS).backward()
    assert float(loss.log_lambda.bias.grad.abs().sum()) > 0
    outlier = torch.tensor([False, False, True, True])
    found = delta(torch.tensor([9.0, 0.5, 9.0, 0.5]), torch.tensor([99.0, 99.0, 99.0, 99.0]), outlier)
    assert found.tolist() == pytest.approx([10.0, 1.0, 1.0, 0.1])
    # beta = 1 takes nothing of g, however large it is
    assert delta(torch.ones(2), torch.full((2,), 1e4), torch.tensor([False, True])).tolist() == [1.0, 1.0]


def test_spatial_contrast():
    torch.manual_seed(6)
    loss, labels = SpatialContrast(channels=8, inner=2, alone=True).double(), [0, 1, 0, 2]
    maps = torch.randn(4, 8, 2, 1, dtype=torch.float64)
    weights = [[p.detach().numpy() for p in part.parameters()] for part in (loss.query, loss.key, loss.value)]
    places = maps.flatten(2).transpose(1, 2).numpy()
    q, k, v = (np.maximum(0, places @ a.T) @ b.T for a, b in weights)
    s = np.zeros((4, 4))
    for i in range(4):
        for j in range(4):
            for one, other in ((i, j), (j, i)):
                for p in range(2):
                    attention = np.exp(k[other] @ q[one][p] / np.sqrt(2))
                    aligned = attention @ v[other] / attention.sum()
                    cosine = aligned @ v[one][p] / np.linalg.norm(aligned) / np.linalg.norm(v[one][p])
                    s[i, j] += cosine / 2
    each = []
    for i in range(4):
        others = [j for j in range(4) if j != i]
        alike = [10 * s[i, j] - lse(10 * s[i, others]) for j in others if labels[j] == labels[i]]
        each.append(-np.mean(alike) if alike else 0)
    activations = activations_of(torch.zeros(4, 3).double()).replace(feature_map=maps)
    assert float(loss(activations, torch.tensor(labels)).detach()) == pytest.approx(np.mean(each), abs=1e-10)
    made = lambda m: loss(activations.replace(feature_map=m), torch.tensor(labels))  # noqa: E731
    assert gradcheck(made, maps.clone().requires_grad_())


def test_spatial_contrast_says_its_channels():
    activations = activations_of(torch.zeros(2, 3)).replace(feature_map=torch.zeros(2, 5, 1, 1))
    with pytest.raises(InputError, match="`channels` must be those of the feature map, 5; got 3"):
        SpatialContrast(channels=3)(activations, torch.tensor([0, 1]))


@pytest.mark.parametrize("kind", [OutlierExposure, KLUniform, EnergyMargin, FeatureNormAmplification])
def test_a_batch_without_outliers_is_an_error_or_its_id_part(kind, features, head):
    given = {"num_features": 5} if kind is FeatureNormAmplification else {}
    labels, activations = LABELS.clamp(min=0), activations_of(features.float(), head.to(features.float()))
    with pytest.raises(InputError, match="needs outliers in every batch, labelled -1; this batch of 6 has none"):
        kind(**given)(activations, labels)
    skipping = kind(**given, without_outliers="skip")
    assert torch.isfinite(skipping(activations, labels))
    if kind in (OutlierExposure, KLUniform):
        assert float(skipping(activations, labels)) == float(CrossEntropy()(activations, labels))


def test_labels_are_checked(features, head):
    activations = activations_of(features, head)
    for labels, said in (
        (LABELS[:3], r"one integer per sample, \(6,\); got shape \(3,\)"),
        (LABELS.float(), "float32"),
        (LABELS + 1, "must be from 0 to 2, or -1 for outliers; got 3"),
        (LABELS - 1, "got -2"),
    ):
        with pytest.raises(LabelError, match=said):
            CrossEntropy()(activations, labels)
    with pytest.raises(InputError, match="all 6 are labelled -1"):
        CrossEntropy()(activations, LABELS * 0 - 1)


def test_the_id_part_can_be_another_loss(features, head):
    activations = activations_of(features, head)
    uniform = float(OutlierExposure(weight=1)(activations, LABELS)) - float(CrossEntropy()(activations, LABELS))
    both = OutlierExposure(weight=1, base=LogitNorm())(activations, LABELS)
    assert float(both) == pytest.approx(float(LogitNorm()(activations, LABELS)) + uniform)


def test_settings_and_presets():
    assert EnergyMargin.preset("cifar100", weight=0.2).m_in == -27
    for kind in (LogitNorm, T2FNorm, OutlierExposure, KLUniform, EnergyMargin, GradientRegularised):
        assert all(isinstance(kind.preset(name), TrainingLoss) for name in kind.presets) and kind.paper
    with pytest.raises(UnknownNameError, match="unknown preset of logit-norm 'cifar'"):
        LogitNorm.preset("cifar")
    with pytest.raises(SettingError, match="`m_in` must be below `m_out`, -30; got -25"):
        EnergyMargin(m_out=-30)
    with pytest.raises(SettingError, match="`temperature` must be a number above 0; got 0"):
        LogitNorm(temperature=0)
    with pytest.raises(SettingError, match="at least 1 for each class"):
        CrossEntropy(class_counts=[3, 0])
    with pytest.raises(LabelError, match="one per class, 3; got 2"):
        CrossEntropy(class_counts=[3, 1])(activations_of(torch.zeros(2, 3)), torch.tensor([0, 1]))
