"""The masked layer against its definition, sample by sample."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from oodline.detectors.parts import masked_linear as module
from oodline.detectors.parts.masked_linear import masked_linear


def simple(features: Tensor, weight: Tensor, bias: Tensor, threshold: Tensor, classes: Tensor) -> Tensor:
    """One sample at a time, in float64."""
    rows = []
    for x, c in zip(features, classes, strict=True):
        kept = torch.where(weight > threshold[c], weight, 0.0)
        rows.append(kept.double() @ x.double() + bias.double())
    return torch.stack(rows)


def case(seed: int, n: int = 9, classes: int = 4, hidden: int = 5, width: int = 7) -> tuple[Tensor, ...]:
    """A layer in which some weights lie exactly at a threshold, and some thresholds are infinite."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(hidden, width, generator=generator)
    rank = torch.randint(hidden, (classes, width), generator=generator)
    threshold = weight.sort(0).values.gather(0, rank)
    threshold[torch.rand(classes, width, generator=generator) < 0.2] = torch.inf
    threshold[torch.rand(classes, width, generator=generator) < 0.2] = -torch.inf
    features = torch.randn(n, width, generator=generator)
    bias = torch.randn(hidden, generator=generator)
    return features, weight, bias, threshold, torch.randint(classes, (n,), generator=generator)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), *[st.integers(1, n) for n in (12, 6, 9, 8)], st.integers(1, 80))
def test_equals_its_definition_whatever_the_tiles(seed, n, classes, hidden, width, tile):
    arguments = case(seed, n, classes, hidden, width)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "TILE", tile)
        found = masked_linear(*arguments)
    torch.testing.assert_close(found.double(), simple(*arguments), rtol=1e-5, atol=1e-5)


def test_a_row_does_not_depend_on_the_others():
    features, weight, bias, threshold, classes = case(0, n=40, classes=6, hidden=30, width=50)
    whole = masked_linear(features, weight, bias, threshold, classes)
    for part in torch.randperm(40).split(7):
        alone = masked_linear(features[part], weight, bias, threshold, classes[part])
        torch.testing.assert_close(alone, whole[part], rtol=1e-5, atol=1e-5)


def test_arguments_stay_as_they_are():
    arguments = case(0)
    before = [a.clone() for a in arguments]
    masked_linear(*arguments)
    assert all(torch.equal(now, then) for now, then in zip(arguments, before, strict=True))


def test_the_graph_form_is_the_same_for_any_batch():
    class Layer(torch.nn.Module):
        def forward(self, *arguments: Tensor) -> Tensor:
            return masked_linear(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "GRAPH_TILE", 20)
        batch = {0: torch.export.Dim("batch", min=1)}
        program = torch.export.export(Layer(), case(0), dynamic_shapes=((batch, None, None, None, batch),))
    for n in (1, 3, 7):
        arguments = case(n, n)
        found = program.module()(*arguments)
        torch.testing.assert_close(found.double(), simple(*arguments), rtol=1e-5, atol=1e-5)


def test_gradients_flow_through_the_weights_that_are_left():
    features, weight, bias, threshold, classes = case(0)
    masked_linear(features.requires_grad_(), weight, bias, threshold, classes).sum().backward()
    kept = torch.where(weight > threshold[classes].unsqueeze(1), weight, 0.0)
    torch.testing.assert_close(features.grad, kept.sum(1))


INTERPRETED = """
import sys
import torch
from oodline.detectors.parts.masked_linear_triton import masked_linear_triton

for arguments, expected in torch.load(sys.argv[1], weights_only=True):
    torch.testing.assert_close(masked_linear_triton(*arguments).double(), expected, rtol=1e-5, atol=1e-5)
print("the same")
"""


def test_the_kernel_is_the_same_when_triton_interprets_it(tmp_path):
    # on a CPU, which says nothing of a GPU's speed, nor of its compiler; in a process of its own, since Triton reads
    # the switch when it is imported, and the source of a kernel, which the check of shapes would wrap
    pytest.importorskip("triton", reason="tests of Triton: this PyTorch comes without it")
    sizes = [(1, 1, 1, 1), (9, 4, 5, 7), (4, 3, 32, 64), (5, 6, 33, 65), (7, 100, 40, 130)]
    cases = [case(seed, *size) for seed, size in enumerate(sizes)]
    torch.save([(arguments, simple(*arguments)) for arguments in cases], tmp_path / "cases.pt")
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED, tmp_path / "cases.pt"],
        capture_output=True,
        text=True,
        env={**os.environ, "TRITON_INTERPRET": "1"},
    )
    assert (done.stdout, done.returncode) == ("the same\n", 0), done.stderr
