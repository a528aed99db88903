"""Parts equal their authors' released code: values that it gave, by `python -m benchmarks.accuracy.training_authors`.

Commits: ASCOOD f351789, Greg-OOD 6ea4ff0, RNA b638e32, imood 1390244, MODE-OOD 23a3a20, abet 5d0ffbf, ICCV21_SCOOD
51204e3. With OODLINE_AUTHORS, the folder of their clones, the comparison itself is run.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from oodline.testing import activations_of
from oodline.training import (
    AbeTHead,
    ASCOODHead,
    FeatureNormAmplification,
    Forward,
    Gradient,
    GradientRegularised,
    ImbalancedOOD,
    KLUniform,
    PurityAssignment,
    Shuffle,
    SpatialContrast,
    long_tail_counts,
)

LABELS = torch.tensor([0, 1, 2, 0, -1, -1, -1])
COUNTS = (40, 20, 10)


# numbers that need no generator, as in benchmarks/accuracy/training_authors.py
def waves(*shape, step=0.7):
    return torch.sin(torch.arange(int(np.prod(shape)), dtype=torch.float64) * step + step).reshape(shape)


def waved(module, step=0.37):
    with torch.no_grad():
        for i, parameter in enumerate(module.double().parameters()):
            parameter.copy_(waves(*parameter.shape, step=step + 0.1 * i))
    return module


def network():
    return waved(nn.Sequential(nn.Conv2d(2, 5, 3), nn.Tanh(), nn.Flatten(), nn.Linear(20, 3)))


def close(value, golden, tolerance=1e-9):
    assert float(value.detach()) == pytest.approx(golden, abs=tolerance)


def test_shuffle_permutes_the_pixels_that_theirs_does():
    forward, images, labels = Forward(network()), waves(4, 2, 4, 4), torch.tensor([0, 1, 2, 0])
    torch.manual_seed(0)
    made = Shuffle(fraction=0.3)(forward, images, labels)
    close((made * waves(4, 2, 4, 4, step=0.3)).sum(), 1.8952921758)


def test_gradient_moves_the_elements_that_theirs_does():
    made = Gradient(fraction=0.3, alpha=2.0)(Forward(network()), waves(4, 2, 4, 4), torch.tensor([0, 1, 2, 0]))
    close(made.sum(), -2.2186278097)


def test_kl_uniform():
    close(KLUniform()(activations_of(waves(7, 3) * 3), LABELS), 2.0381739191)


def test_ascood_head():
    close(waved(ASCOODHead(6, 3))(waves(4, 6)).sum(), 8.6741887694)


def test_gradient_regularised():
    net, loss = network(), GradientRegularised(m_in=-1.5, m_out=-0.9)
    value = loss(Forward(net)(waves(7, 2, 4, 4), loss.needs), LABELS)
    close(value, 1.6595866317)
    value.backward()
    close(net[0].weight.grad.sum(), 1.0453044768)


def test_feature_norm_amplification():
    loss = waved(FeatureNormAmplification(num_features=6, class_counts=COUNTS, projection=4))
    close(loss(activations_of(waves(7, 6)).replace(logits=waves(7, 3) * 3), LABELS), 0.2544190055)


@pytest.mark.parametrize(("discriminator", "golden"), [("energy", 3.0011777878), ("linear", 3.1113185883)])
def test_imbalanced_ood(discriminator, golden):
    loss = waved(ImbalancedOOD(num_features=6, class_counts=COUNTS, discriminator=discriminator))
    labels = torch.tensor([0, 1, 0, 1, -1, -1, -1, -1])
    # theirs adds to zeros of float32
    close(loss(activations_of(waves(8, 6)).replace(logits=waves(8, 3) * 3), labels), golden, tolerance=1e-7)


def test_spatial_contrast():
    loss = waved(SpatialContrast(channels=4, inner=3, alone=True))
    activations = activations_of(waves(6, 3)).replace(feature_map=waves(6, 4, 2, 2))
    close(loss(activations, torch.tensor([0, 1, 0, 1, 0, 2])), 1.6975676755)


def test_abet_head():
    head = AbeTHead(6, 3).double()
    with torch.no_grad():
        head.directions.copy_(waves(3, 6))
        head.temperature[0].weight.copy_(waves(1, 6, step=0.4))
        head.temperature[0].bias.fill_(0.1)
    close(head(waves(5, 6, step=0.9)).sum(), -0.1692599744)


def test_long_tailed_counts():
    assert sum(long_tail_counts(5000, 10, 0.01)) == 12406


def test_purity_of_clusters():
    clusters = torch.tensor([0] * 10 + [1] * 7 + [3] * 2 + [1] * 3 + [2] * 5 + [3] * 18)
    labels = torch.tensor([1] * 9 + [0] + [2] * 5 + [0] * 2 + [2] * 2 + [-1] * 26)
    for purity, (sum_of_labels, sum_of_weights) in {0.8: (-25, 45), 0.95: (-45, 65)}.items():
        found = PurityAssignment(purity=purity, outlier_purity=0.8).assign(clusters, labels)
        assert (int(found.labels.sum()), float(found.weights.sum())) == (sum_of_labels, sum_of_weights)


@pytest.mark.skipif(
    "OODLINE_AUTHORS" not in os.environ,
    reason="tests of authors' code: set OODLINE_AUTHORS to the folder of their clones",
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # within theirs
def test_the_comparison_itself(capsys, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    from benchmarks.accuracy.training_authors import main

    main()
    found = re.findall(r"largest difference (\S+)", capsys.readouterr().out)
    assert len(found) > 10 and max(map(float, found)) < 1e-7, sys.path
